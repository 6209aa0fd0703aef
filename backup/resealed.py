"""What a rotation sealed once more, read in place of an original that is gone or does not open: the newest copy that
opens. So nothing is lost that any of them still holds; what was passed over on the way is told by who looks for
damage, because a copy must not hide it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from backup import snapshot
from backup.authority import FIRST_EPOCH
from backup.errors import Retired
from backup.forgotten import Link
from backup.seal import Kind, epoch_of, open_whole
from backup.snapshot import Snapshot
from backup.vault import Vault
from infra.objectstore.contract import NotThere, Stat
from zaibei.kernel.errors import Damage

if TYPE_CHECKING:
    from backup.repository import Repository

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """`key`: the object that it was read from. `passed`: those that are there and do not open, read before it."""

    value: T
    key: str
    passed: dict[str, Damage] = field(default_factory=dict)


def named(repo: "Repository", prefix: str) -> list[Stat]:
    found = {s.key: s for s in repo.listed(prefix)}
    for epoch in _rotations(repo):
        again = snapshot.resealed_key(epoch, "")
        for stat in repo.listed(again + prefix):
            key = stat.key.removeprefix(again)
            found.setdefault(key, replace(stat, key=key))
    return [found[key] for key in sorted(found)]


def snapshot_of(repo: "Repository", sequence: int) -> Found[Snapshot]:
    """Raises Damage when neither the original nor a copy opens."""
    return _first(
        repo,
        snapshot.key_of(sequence),
        lambda: repo.original(sequence),
        lambda epoch, data: opened_copy(repo, epoch, sequence, data),
    )


def link_of(repo: "Repository", sequence: int, original: Callable[[], Link]) -> Link:
    """For who opens nothing too: a copy is signed as its original is."""
    return _first(
        repo,
        snapshot.key_of(sequence),
        original,
        lambda epoch, data: snapshot.resealed_link(repo.keys, data, epoch=epoch, sequence=sequence),
    ).value


def opened(repo: "Repository", kind: Kind, key: str) -> Found[bytes]:
    """What was sealed whole under `key`. Raises Damage as `snapshot_of`."""
    return _first(
        repo,
        key,
        lambda: open_whole(repo.keys, kind, key, repo.read(key)),
        lambda epoch, data: opened_whole(repo, kind, epoch, key, data),
    )


def opened_copy(repo: "Repository", epoch: int, sequence: int, data: bytes) -> Snapshot:
    found = snapshot.decode_resealed(repo.keys, data, epoch=epoch, sequence=sequence)
    _under_its_root(epoch, snapshot.key_of(sequence), snapshot.sealed_in(data, sequence))
    return found


def opened_whole(repo: "Repository", kind: Kind, epoch: int, key: str, data: bytes) -> bytes:
    plain = open_whole(repo.keys, kind, snapshot.resealed_key(epoch, key), data)
    _under_its_root(epoch, key, epoch_of(data))
    return plain


def _under_its_root(epoch: int, key: str, sealed_in: int) -> None:
    # A root that was retired because it was stolen must not speak for the one after it.
    if sealed_in != epoch:
        name = snapshot.resealed_key(epoch, key)
        raise Damage(f"{name}: sealed under the root of epoch {sealed_in}")


def _first(
    repo: "Repository", key: str, original: Callable[[], T], copy: Callable[[int, bytes], T]
) -> Found[T]:
    passed: dict[str, Damage] = {}
    try:
        return Found(original(), key)
    except Damage as bad:
        first = bad
    # As a rotation and its aftermath leave it: no damage of the original, and so the copy's is what is told.
    regular = isinstance(first, Retired) or isinstance(first.__cause__, NotThere)
    if not regular:
        passed[key] = first
    for epoch in _rotations(repo):
        name = snapshot.resealed_key(epoch, key)
        data = Vault(repo.store, repo.clock).find(name)
        if data is None:
            continue
        try:
            return Found(copy(epoch, data), name, passed)
        except Damage as bad:
            if regular and not passed:
                first = bad
            passed[name] = bad
    raise first


def _rotations(repo: "Repository") -> range:
    """Epochs that may have sealed things anew, the newest first."""
    return range(repo.keys.epoch, FIRST_EPOCH, -1)
