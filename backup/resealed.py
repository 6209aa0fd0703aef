"""What a rotation sealed once more, read in place of an original that is gone."""

from dataclasses import replace
from typing import TYPE_CHECKING

from backup import snapshot
from backup.authority import FIRST_EPOCH
from backup.errors import Retired
from backup.snapshot import Snapshot
from backup.vault import Vault
from infra.objectstore.contract import NotThere, Stat
from zaibei.kernel.errors import Damage

if TYPE_CHECKING:
    from backup.repository import Repository


def named(repo: "Repository", prefix: str) -> list[Stat]:
    found = {s.key: s for s in repo.listed(prefix)}
    for epoch in _rotations(repo):
        again = snapshot.resealed_key(epoch, "")
        for stat in repo.listed(again + prefix):
            key = stat.key.removeprefix(again)
            found.setdefault(key, replace(stat, key=key))
    return [found[key] for key in sorted(found)]


def find(repo: "Repository", key: str) -> tuple[int, bytes] | None:
    """Epoch and bytes; of several the newest."""
    for epoch in _rotations(repo):
        found = Vault(repo.store, repo.clock).find(snapshot.resealed_key(epoch, key))
        if found is not None:
            return epoch, found
    return None


def snapshot_of(repo: "Repository", sequence: int, bad: Damage) -> Snapshot | None:
    """`bad`: why the original cannot be read. Flipped bits do not count: a copy must not hide that the original
    is damaged."""
    if not (isinstance(bad, Retired) or isinstance(bad.__cause__, NotThere)):
        return None
    found = find(repo, snapshot.key_of(sequence))
    if found is None:
        return None
    return snapshot.decode_resealed(repo.keys, found[1], epoch=found[0], sequence=sequence)


def _rotations(repo: "Repository") -> range:
    """Epochs that may have sealed things anew, the newest first."""
    return range(repo.keys.epoch, FIRST_EPOCH, -1)
