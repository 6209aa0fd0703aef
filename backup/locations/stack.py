"""Opens the vaults that a stack declares, with the passphrase that belongs to them."""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from backup.crypto.keyring import Kdf
from backup.errors import NotARepository, Taken
from backup.locations.urls import WRITER, paced
from backup.repository.config import read_config
from backup.repository.init import create_repository
from backup.repository.repository import Repository, open_repository
from infra import sites
from infra.objectstore.contract import ObjectStore
from zaibei.kernel import persontext
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Usage
from zaibei.kernel.state import state_dir, write_atomic

BUCKET: Final = "zaibei-vault"
VAULT_SITES: Final = ("site-b", "site-c")
PREFIX: Final = "backup/"
ROLE: Final = "zaibei_backup"  # of PostgreSQL: may replicate and read


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
