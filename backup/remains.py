"""What tells that there was a repository where `config` is not there any more: another one over it would take that name
for good where names are taken once, and the next run would begin a chain from nothing.
"""

from contextlib import suppress
from typing import Final

from backup import names, signed
from backup.vault import Vault, retry
from infra.objectstore.contract import ObjectStore
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage

# Each vault is a repository with an id and keys of its own, so no other one has this object.
LOST_CONFIG: Final = (
    "where the vault keeps versions: --as-of TIME reads it as it was, and its own config, put back, opens it again",
    "a copy of this vault, byte for byte, has the same config; that of another vault does not fit",
    "another vault restores what it has: use it",
)
_KEYS: Final = "keys/"


def demand_none(store: ObjectStore, *, clock: Clock) -> None:
    """Raises Damage where there was a repository. For where `config` is not."""
    there = retry(clock, lambda: _outside_of_keys(store)) or _keys_of_one(Vault(store, clock))
    if there is not None:
        raise Damage(
            f"{store.name}: there was a repository, but its config is not there; {there} is",
            hint=LOST_CONFIG,
        )


def _outside_of_keys(store: ObjectStore) -> str | None:
    """A listing a folder: beside them there may be a million names of others."""
    folders = (f for f in names.FOLDERS if f"{f}/" != _KEYS)
    return next((s.key for f in folders for s in names.ours_in(store.list(f"{f}/"))), None)


def _keys_of_one(vault: Vault) -> str | None:
    """An `init` that died leaves a key object, each time that it is tried one of another repository."""
    seen = set[str]()
    for stat in vault.listed(_KEYS):
        with suppress(Damage):
            body, _ = signed.parse(vault.read(stat.key), what=stat.key)
            whose = str(body.get("repository"))
            if whose in seen:
                return stat.key
            seen.add(whose)
    return None
