"""Reads a repository's config, and recognises a vault that had one.

A new repository over an old one whose config is lost would take that name for good, where names are
taken once, and the next run would start a chain from nothing.
"""

from contextlib import suppress
from typing import Final

from backup.crypto import signed
from backup.errors import NewerFormat, NotARepository
from backup.format import layout
from backup.format.config import CONFIG, FORMAT, Config
from backup.repository.vault import Vault, retry
from infra.objectstore.contract import NotThere, ObjectStore
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
    folders = (f for f in layout.FOLDERS if f"{f}/" != _KEYS)
    return next((s.key for f in folders for s in layout.ours_in(store.list(f"{f}/"))), None)


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


def read_config(store: ObjectStore, *, clock: Clock) -> Config:
    try:
        raw = retry(clock, lambda: store.read(CONFIG))
    except NotThere as none:
        demand_none(store, clock=clock)
        raise NotARepository(
            f"{store.name}: no repository here",
            hint=(
                "zaibei backup init makes one",
                "if there was one: --as-of TIME shows the vault as it was then",
            ),
        ) from none
    try:
        body, signature = signed.parse(raw, what=f"{store.name}: config")
        signer = bytes.fromhex(body["signer"])
        signed.check("config", body, signature, signer, what=f"{store.name}: config")
        # After the signature: a flipped bit in the number is damage, not a newer format.
        if body["format"] != FORMAT:
            raise NewerFormat(
                f"{store.name}: format {body['format']}; this zaibei reads {FORMAT}",
                hint="use a newer zaibei",
            )
        return Config(
            repository=bytes.fromhex(body["repository"]),
            suite=body["suite"],
            signer=signer,
            created=body["created"],
            ids=str(body.get("ids", "")),
        )
    except (KeyError, TypeError, ValueError) as bad:
        raise Damage(f"{store.name}: config lacks a field", hint=LOST_CONFIG) from bad
    except Damage as bad:
        raise Damage(bad.message, hint=LOST_CONFIG) from bad
