"""Where repositories are: a directory, an S3 bucket, or the vaults of the provisioned stack."""

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from backup.errors import NotARepository
from backup.keys import Kdf
from backup.repository import Repository, create_repository, open_repository, read_config
from infra import sites
from infra.objectstore.contract import ObjectStore
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Refused, Usage
from zaibei.kernel.state import state_dir, write_atomic

BUCKET: Final = "zaibei-vault"
VAULT_SITES: Final = ("site-b", "site-c")
PREFIX: Final = "backup/"
WRITER: Final = "writer"
ROLE: Final = "zaibei_backup"  # of PostgreSQL: may replicate and read
_KEY, _SECRET, _CA = "ZAIBEI_S3_KEY", "ZAIBEI_S3_SECRET_FILE", "ZAIBEI_S3_CA_FILE"


def open_url(url: str) -> ObjectStore:
    """`file:///DIR` or `s3+https://HOST[:PORT]/BUCKET[/PREFIX]`; S3 keys from the environment."""
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1:
        from infra.objectstore.directory import DirectoryStore  # noqa: PLC0415

        return DirectoryStore(Path(unquote(parts.path)))
    if parts.scheme in ("s3+https", "s3+http") and parts.netloc and len(parts.path) > 1:
        return _s3(url)
    raise Usage(f"not a repository: {url!r}", hint="file:///DIR or s3+https://HOST/BUCKET/PREFIX")


def stack_stores(
    access: sites.StackAccess | None = None, *, names: Sequence[str] = VAULT_SITES
) -> list[ObjectStore]:
    """The vaults of the provisioned stack, as the identity that may create and not delete."""
    from infra.objectstore.s3 import open_store  # noqa: PLC0415 — boto3 is slow to import

    stack = access or sites.load()
    return [
        open_store(
            stack.site(name).store,
            ca_file=stack.ca_file,
            bucket=BUCKET,
            role=WRITER,
            prefix=PREFIX,
            site=name,
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
        raise Usage(
            f"{source}: no such password file", hint="zaibei backup init makes one"
        ) from gone
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
    except Refused:
        # Somebody made it between our look and our write.
        return open_repository(store, secret, clock=clock)


def _s3(url: str) -> ObjectStore:
    from infra.objectstore.s3 import open_store  # noqa: PLC0415

    parts = urlsplit(url)
    key, secret = os.environ.get(_KEY), os.environ.get(_SECRET)
    if not key or not secret:
        raise Usage(
            f"no keys for {parts.netloc}",
            hint=f"export {_KEY} (the access key) and {_SECRET} (a file with the secret key)",
        )
    bucket, _, prefix = parts.path.lstrip("/").partition("/")
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    ca = os.environ.get(_CA)
    return open_store(
        sites.StoreAccess(
            endpoint=f"{parts.scheme.removeprefix('s3+')}://{parts.netloc}",
            region=os.environ.get("AWS_REGION", "us-east-1"),
            keys={WRITER: (key, sites.Secret(file=Path(secret)))},
        ),
        ca_file=Path(ca) if ca else None,
        bucket=bucket,
        role=WRITER,
        prefix=prefix,
    )


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
