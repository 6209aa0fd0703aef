"""Where repositories are: a directory, an S3 bucket, or the vaults of the provisioned stack."""

import os
import random
import re
import secrets
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, cast, get_args
from urllib.parse import unquote, urlsplit

from backup.errors import NotARepository, Taken
from backup.keys import Kdf
from backup.pace import Pace, Paced
from backup.place import without_login
from backup.repository import Repository, create_repository, open_repository, read_config
from infra import sites
from infra.objectstore.contract import ObjectStore
from zaibei.kernel import environment, persontext, process
from zaibei.kernel.clock import Clock, SystemClock
from zaibei.kernel.errors import Usage
from zaibei.kernel.progress import Progress
from zaibei.kernel.state import state_dir, write_atomic

BUCKET: Final = "zaibei-vault"
VAULT_SITES: Final = ("site-b", "site-c")
PASSWORD_COMMAND: Final = "ZAIBEI_PASSWORD_COMMAND"
PREFIX: Final = "backup/"
WRITER: Final = "writer"
ROLE: Final = "zaibei_backup"  # of PostgreSQL: may replicate and read
# Whose variables say how a store is reached: a repository's, and a bucket's that is backed up or restored into.
_STORE: Final = "ZAIBEI_S3"
_BUCKET_STORE: Final = "ZAIBEI_BUCKET"
# Who may remove, beside who may write; where it is not set there is nobody.
_DELETER_STORE: Final = "ZAIBEI_S3_DELETER"
BUSINESS: Final = "business"
DELETER: Final = "deleter"
_WORD: Final = re.compile(r"[!-~]+")
_REGION: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?")
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
    return paced(_s3(url, keys=_DELETER_STORE))


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
    there = {s.name for s in stack.sites}
    if lacking := [n for n in names if n not in there]:
        raise Usage(
            f"stack {stack.stack} has no vault at {', '.join(lacking)}: its sites are {', '.join(sorted(there))}",
            hint="name the repositories: --repo s3+https://HOST/BUCKET/PREFIX --password-file FILE",
        )
    return [
        paced(
            open_store(
                stack.site(name).backups,
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
        said = persontext.read(source).splitlines()
    except FileNotFoundError as gone:
        # Only the stack's own is made; a name that was given is looked for.
        made = (
            "a file whose first line is the passphrase" if file else "zaibei backup init makes one"
        )
        raise Usage(f"{source}: no such password file", hint=made) from gone
    except (OSError, persontext.NotText) as bad:
        why = bad.strerror if isinstance(bad, OSError) else str(bad)
        raise Usage(
            f"{source}: no passphrase can be read: {why}",
            hint="a file whose first line is the passphrase",
        ) from bad
    if not said or not said[0]:
        raise Usage(f"{source}: the first line is empty")
    return said[0]


def passphrase_of_command(command: str) -> str:
    """The first line that a command prints: a keyring's or an HSM's answer, which is on no disk."""
    try:
        argv = shlex.split(command)
    except ValueError as bad:
        raise Usage(f"{PASSWORD_COMMAND}: not a command: {bad}") from bad
    said = process.run(argv, env=environment.of_our_own()).splitlines() if argv else []
    if not said or not said[0]:
        raise Usage(f"{PASSWORD_COMMAND}: the first line of its output is empty")
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
        keys = _BUCKET_STORE if os.environ.get(f"{_BUCKET_STORE}_KEY") else _STORE
        return _s3(where, keys=keys, reach=(_BUCKET_STORE, _STORE)), where.rstrip("/")
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


def _s3(url: str, *, keys: str = _STORE, reach: Sequence[str] = (_STORE,)) -> ObjectStore:
    from infra.objectstore.s3 import open_store  # noqa: PLC0415

    access, ca_file, bucket, prefix = _access(url, keys=keys, reach=reach)
    return open_store(
        access,
        ca_file=ca_file,
        bucket=bucket,
        role=WRITER,
        prefix=prefix,
        keys_hint=f"may the key of {keys}_KEY do this, and does the file of {keys}_SECRET_FILE hold its secret?",
    )


def _access(
    url: str, *, keys: str = _STORE, reach: Sequence[str] = (_STORE,)
) -> tuple[sites.StoreAccess, Path | None, str, str]:
    """Endpoint and keys, CA, bucket, prefix. `keys`: how the variables that hold them begin; `reach`: those that say
    the way to the store, the first that is set. All is looked at before the first connection: a CA that is not there
    would pass for a fault of the network. Raises Usage."""
    without_login(url)
    parts = urlsplit(url)
    bucket, _, prefix = parts.path.lstrip("/").partition("/")
    if not _BUCKET_NAME.fullmatch(bucket):
        raise Usage(
            f"not a bucket's name: {bucket!r}", hint="letters, digits, dots, hyphens, underscores"
        )
    if prefix and not prefix.endswith("/"):
        prefix += "/"

    def told(what: str) -> str:
        """The variable of `reach` that is set; the last one when none is."""
        return next((n for r in reach if os.environ.get(n := f"{r}_{what}")), f"{reach[-1]}_{what}")

    access = sites.StoreAccess(
        endpoint=f"{parts.scheme.removeprefix('s3+')}://{parts.netloc}",
        region=_region(told("REGION")),
        keys={WRITER: _keys(keys, parts.netloc)},
        token=_word_file(f"{keys}_SESSION_TOKEN_FILE", "session token"),
        addressing=cast(
            "sites.Addressing",
            environment.one_of(told("ADDRESSING"), get_args(sites.Addressing), default="path"),
        ),
        proxy=_proxy(told("PROXY")),
    )
    ca = told("CA_FILE")
    return access, _ca_file(ca) if os.environ.get(ca) else None, bucket, prefix


def _keys(named: str, host: str) -> tuple[str, sites.Secret]:
    key, file = f"{named}_KEY", f"{named}_SECRET_FILE"
    key_id = os.environ.get(key)
    if not key_id or not os.environ.get(file):
        raise Usage(
            f"no keys for {host}",
            hint=f"export {key} (the access key) and {file} (a file with the secret key)",
        )
    if not _WORD.fullmatch(key_id):
        raise Usage(
            f"{key}: not an access key: a space, a line break or no ASCII in it",
            hint="the key id alone; the secret goes into a file",
        )
    secret = _word_file(file, "secret key")
    assert secret is not None, "it is set"
    return key_id, secret


def _word_file(name: str, what: str) -> sites.Secret | None:
    """What the variable's file holds, looked at and not kept; None: it is not set."""
    given = os.environ.get(name)
    if not given:
        return None
    hint = f"{name} names a file with the {what}"
    try:
        text = persontext.read(Path(given))
    except (OSError, persontext.NotText) as bad:
        why = bad.strerror if isinstance(bad, OSError) else str(bad)
        raise Usage(f"{given}: no {what} can be read: {why}", hint=hint) from bad
    if not _WORD.fullmatch(text.strip()):
        why = "it is empty" if not text.strip() else "one word of ASCII is meant"
        raise Usage(f"{given}: no {what} can be read: {why}", hint=hint)
    return sites.Secret(file=Path(given))


def _region(name: str) -> str:
    shown = name if os.environ.get(name) else "AWS_REGION"
    region = os.environ.get(shown) or "us-east-1"
    if not _REGION.fullmatch(region):
        raise Usage(f"{shown}={region!r}: not a region", hint="for example eu-central-1")
    return region


def _proxy(name: str) -> str | None:
    proxy = os.environ.get(name)
    if not proxy:
        return None
    try:
        parts = urlsplit(proxy)
        good = parts.scheme in ("http", "https") and bool(parts.hostname and parts.port)
    except ValueError:
        good = False
    if not good or not _WORD.fullmatch(proxy):
        # Not repeated: a password may stand in it.
        raise Usage(f"{name}: not the URL of a proxy", hint="http://HOST:PORT")
    return proxy


def _ca_file(name: str) -> Path:
    from infra.objectstore.s3 import trusted  # noqa: PLC0415

    file = Path(os.environ[name])
    trusted(file, hint=f"{name} names a PEM file with the certificate of the store's CA")
    return file


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
