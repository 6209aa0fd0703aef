"""Where repositories are: a directory, an S3 bucket, or the vaults of the provisioned stack."""

import os
import random
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from backup.errors import NotARepository, Taken
from backup.keys import Kdf
from backup.pace import Pace, Paced
from backup.place import KEY, SECRET_FILE, without_login
from backup.repository import Repository, create_repository, open_repository, read_config
from infra import sites
from infra.objectstore.contract import ObjectStore
from zaibei.kernel.clock import Clock, SystemClock
from zaibei.kernel.errors import Usage
from zaibei.kernel.progress import Progress
from zaibei.kernel.state import state_dir, write_atomic

BUCKET: Final = "zaibei-vault"
VAULT_SITES: Final = ("site-b", "site-c")
PREFIX: Final = "backup/"
WRITER: Final = "writer"
ROLE: Final = "zaibei_backup"  # of PostgreSQL: may replicate and read
_KEY, _SECRET, _CA = KEY, SECRET_FILE, "ZAIBEI_S3_CA_FILE"
# Of a bucket that is backed up or restored into; where these are not set, those above are taken.
_BUCKET_KEY, _BUCKET_SECRET = "ZAIBEI_BUCKET_KEY", "ZAIBEI_BUCKET_SECRET_FILE"
_BUCKET_CA = "ZAIBEI_BUCKET_CA_FILE"
BUSINESS: Final = "business"
# Who may remove, beside who may write; where it is not set there is nobody.
_DELETER_KEY, _DELETER_SECRET = "ZAIBEI_S3_DELETER_KEY", "ZAIBEI_S3_DELETER_SECRET_FILE"
DELETER: Final = "deleter"
_BUCKET_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")  # what boto3 lets through


def open_url(url: str) -> ObjectStore:
    """`file:///DIR` or `s3+https://HOST[:PORT]/BUCKET[/PREFIX]`; S3 keys from the environment."""
    without_login(url)
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1:
        from infra.objectstore.directory import DirectoryStore  # noqa: PLC0415

        return DirectoryStore(Path(unquote(parts.path)))
    if parts.scheme in ("s3+https", "s3+http") and parts.netloc and len(parts.path) > 1:
        return paced(_s3(url))
    raise Usage(f"not a repository: {url!r}", hint="file:///DIR or s3+https://HOST/BUCKET/PREFIX")


def paced(store: ObjectStore) -> ObjectStore:
    """A store that others use too: it says when it is too much, and is then asked less."""
    return Paced(store, Pace(SystemClock()))


def open_deleter(url: str) -> ObjectStore:
    """The same place as who may remove. A directory knows no identities."""
    without_login(url)
    if urlsplit(url).scheme == "file":
        return open_url(url)
    return paced(_s3(url, key=_DELETER_KEY, secret=_DELETER_SECRET))


def stack_stores(
    access: sites.StackAccess | None = None,
    *,
    names: Sequence[str] = VAULT_SITES,
    role: str = WRITER,
) -> list[ObjectStore]:
    """The vaults of the provisioned stack, as the identity that may create and not delete, or the `deleter`
    that may remove what is not locked and write nothing."""
    from infra.objectstore.s3 import open_store  # noqa: PLC0415 — boto3 is slow to import

    stack = access or sites.load()
    return [
        paced(
            open_store(
                stack.site(name).store,
                ca_file=stack.ca_file,
                bucket=BUCKET,
                role=role,
                prefix=PREFIX,
                site=name,
            )
        )
        for name in names
    ]


def passphrase_file() -> Path:
    return state_dir() / "backup" / "passphrase"


def passphrase(file: Path | None = None) -> str:
    """First line of `file`, or of the stack's own."""
    source = file or passphrase_file()
    try:
        said = source.read_text().splitlines()
    except FileNotFoundError as gone:
        # Only the stack's own is made; a name that was given is looked for.
        made = (
            "a file whose first line is the passphrase" if file else "zaibei backup init makes one"
        )
        raise Usage(f"{source}: no such password file", hint=made) from gone
    except (OSError, UnicodeDecodeError) as bad:
        why = bad.strerror if isinstance(bad, OSError) else "is not text in UTF-8"
        raise Usage(
            f"{source}: no passphrase can be read: {why}",
            hint="a file whose first line is the passphrase",
        ) from bad
    if not said or not said[0]:
        raise Usage(f"{source}: the first line is empty")
    return said[0]


def make_passphrase() -> tuple[str, bool]:
    """The stack's passphrase, and whether it was made now: then somebody must put a copy elsewhere."""
    file = passphrase_file()
    if file.exists():
        return passphrase(file), False
    made = secrets.token_urlsafe(32)
    write_atomic(file, made + "\n", mode=0o600)
    return made, True


def escrow_note() -> str:
    return (
        f"WITHOUT {passphrase_file()} NO BACKUP CAN BE OPENED, BY ANYBODY, EVER."
        " Copy it now to where a lost site cannot take it: a safe, two people, paper"
    )


def open_repositories(
    stores: Sequence[ObjectStore], secret: str, *, clock: Clock
) -> list[Repository]:
    return [open_repository(store, secret, clock=clock) for store in stores]


def ensure(
    store: ObjectStore,
    secret: str,
    *,
    clock: Clock,
    suite_name: str = "intl",
    kdf: Kdf | None = None,
) -> Repository:
    """Open it, or make it when there is none."""
    with suppress(NotARepository):
        read_config(store, clock=clock)
        return open_repository(store, secret, clock=clock)
    try:
        return create_repository(store, secret, clock=clock, suite_name=suite_name, kdf=kdf)
    except Taken:
        # Somebody made it between our look and our write.
        return open_repository(store, secret, clock=clock)


def open_bucket(where: str) -> tuple[ObjectStore, str]:
    """A business bucket, and what names it in snapshots. `s3+https://HOST/BUCKET[/PREFIX]`, or `SITE/BUCKET` of
    the provisioned stack as its business identity."""
    without_login(where)
    if urlsplit(where).scheme in ("s3+https", "s3+http"):
        own = _BUCKET_KEY if os.environ.get(_BUCKET_KEY) else _KEY
        secret = _BUCKET_SECRET if own == _BUCKET_KEY else _SECRET
        ca = _BUCKET_CA if os.environ.get(_BUCKET_CA) else _CA
        return _s3(where, key=own, secret=secret, ca=ca), where.rstrip("/")
    site, _, bucket = where.partition("/")
    if not site or not bucket or ":" in where or "/" in bucket:
        raise Usage(
            f"not a bucket: {where!r}",
            hint="s3+https://HOST/BUCKET[/PREFIX], or SITE/BUCKET of the provisioned stack",
        )
    from infra.objectstore.s3 import open_store  # noqa: PLC0415

    stack = sites.load()
    if site not in [s.name for s in stack.sites]:
        raise Usage(f"no site {site!r}", hint=", ".join(s.name for s in stack.sites))
    store = open_store(
        stack.site(site).store, ca_file=stack.ca_file, bucket=bucket, role=BUSINESS, site=site
    )
    return store, where


def admitted(url: str, *, clock: Clock, progress: Progress) -> None:
    """Ask an S3 endpoint everything that a vault must keep, with the environment's keys, which must be allowed to
    make a scratch bucket. Raises Refused with the reasons. A directory has no such promises to break."""
    if urlsplit(url).scheme == "file":
        return
    from infra.objectstore import admission  # noqa: PLC0415

    access, ca, _, _ = _access(url)
    admission.demand(
        admission.probe(
            access,
            ca_file=ca,
            role=admission.StoreRole.VAULT,
            as_role=WRITER,
            clock=clock,
            rng=random.SystemRandom(),
            progress=progress,
        )
    )


def _s3(url: str, *, key: str = _KEY, secret: str = _SECRET, ca: str = _CA) -> ObjectStore:
    from infra.objectstore.s3 import open_store  # noqa: PLC0415

    access, ca_file, bucket, prefix = _access(url, key=key, secret=secret, ca=ca)
    return open_store(
        access,
        ca_file=ca_file,
        bucket=bucket,
        role=WRITER,
        prefix=prefix,
        keys_hint=f"may the key of {key} do this, and does the file of {secret} hold its secret?",
    )


def _access(
    url: str, *, key: str = _KEY, secret: str = _SECRET, ca: str = _CA
) -> tuple[sites.StoreAccess, Path | None, str, str]:
    """Endpoint and keys, CA, bucket, prefix. The arguments: which variables of the environment say it."""
    without_login(url)
    parts = urlsplit(url)
    key_id, secret_file = os.environ.get(key), os.environ.get(secret)
    if not key_id or not secret_file:
        raise Usage(
            f"no keys for {parts.netloc}",
            hint=f"export {key} (the access key) and {secret} (a file with the secret key)",
        )
    try:
        Path(secret_file).read_text()
    except (OSError, UnicodeDecodeError) as bad:
        why = bad.strerror if isinstance(bad, OSError) else "is not text in UTF-8"
        raise Usage(
            f"{secret_file}: no secret key can be read: {why}",
            hint=f"{secret} names a file with the secret key",
        ) from bad
    bucket, _, prefix = parts.path.lstrip("/").partition("/")
    if not _BUCKET_NAME.fullmatch(bucket):
        raise Usage(
            f"not a bucket's name: {bucket!r}", hint="letters, digits, dots, hyphens, underscores"
        )
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    ca_file = os.environ.get(ca)
    access = sites.StoreAccess(
        endpoint=f"{parts.scheme.removeprefix('s3+')}://{parts.netloc}",
        region=os.environ.get("AWS_REGION", "us-east-1"),
        keys={WRITER: (key_id, sites.Secret(file=Path(secret_file)))},
    )
    return access, Path(ca_file) if ca_file else None, bucket, prefix


def standby(access: sites.StackAccess | None = None) -> tuple[str, str]:
    """Conninfo of a reader, without the password; and that. The replica doors come first, then the
    primary ones: with one member left a backup from the writer is better than none."""
    stack = access or sites.load()
    hosts = [s.address for s in stack.sites] * 2
    ports = [s.replica_port for s in stack.sites] + [s.primary_port for s in stack.sites]
    changed = {"host": ",".join(hosts), "port": ",".join(map(str, ports))}
    doors = stack.primary_dsn(user=ROLE, database="postgres").split(" ")
    pairs = dict(part.split("=", 1) for part in doors) | changed
    return " ".join(f"{k}={v}" for k, v in pairs.items()), stack.password(ROLE)


def writer_doors(access: sites.StackAccess | None = None) -> tuple[str, str]:
    """Conninfo for the WAL archiver: through every primary door to whoever takes writes."""
    stack = access or sites.load()
    doors = stack.primary_dsn(user=ROLE, database="postgres")
    return f"{doors} target_session_attrs=read-write", stack.password(ROLE)
