"""Reads an object, or the newest copy that a rotation re-encrypted where the original is missing or
damaged.

So nothing is lost that any copy still holds. Damaged objects that were passed over are reported by
the verification: a copy must not hide damage.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar

from backup.crypto.keyring import Keyring
from backup.crypto.seal import Kind, epoch_of, open_whole
from backup.crypto.trust import FIRST_EPOCH
from backup.errors import Retired, UnknownHost
from backup.format import snapshot, wal_segment
from backup.format.chain_link import Link
from backup.format.snapshot import Snapshot
from backup.repository.access import read_access
from backup.repository.vault import OpenVault, retry
from infra.objectstore.contract import NotThere, Stat
from zaibei.kernel.errors import Damage
from zaibei.kernel.prefetch import ahead

WORKERS: Final = 3
_KEY = re.compile(rf"{snapshot.RESEALED}(\d{{10}})/((?:{snapshot.PREFIX}|{wal_segment.PREFIX}).+)")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """`key`: the object that it was read from. `passed`: those that are there and do not open, read before it."""

    value: T
    key: str
    passed: dict[str, Damage] = field(default_factory=dict)


def named(repo: OpenVault, prefix: str) -> list[Stat]:
    found = {s.key: s for s in repo.listed(prefix)}
    for epoch in _rotations(repo):
        again = snapshot.resealed_key(epoch, "")
        for stat in repo.listed(again + prefix):
            key = stat.key.removeprefix(again)
            found.setdefault(key, replace(stat, key=key))
    return [found[key] for key in sorted(found)]


def snapshot_of(repo: OpenVault, sequence: int) -> Found[Snapshot]:
    """Raises Damage when neither the original nor a copy opens."""
    return _first(
        repo,
        snapshot.key_of(sequence),
        lambda: original(repo, sequence),
        lambda epoch, data: opened_copy(repo, epoch, sequence, data),
    )


def original(repo: OpenVault, sequence: int) -> Snapshot:
    """The object itself, never a copy."""
    data = repo.read(snapshot.key_of(sequence))
    return _with_new_hosts(repo, lambda keys: snapshot.decode(keys, data, sequence=sequence))


def link_of(repo: OpenVault, sequence: int) -> Link:
    """What a snapshot's signature covers, for whoever cannot open it too: a copy is signed as its
    original is.
    """

    def of_original() -> Link:
        data = repo.read(snapshot.key_of(sequence))
        return _with_new_hosts(repo, lambda keys: snapshot.link_of(keys, data, sequence=sequence))

    return _first(
        repo,
        snapshot.key_of(sequence),
        of_original,
        lambda epoch, data: snapshot.resealed_link(repo.keys, data, epoch=epoch, sequence=sequence),
    ).value


def _with_new_hosts(repo: OpenVault, check: Callable[[Keyring], T]) -> T:
    """A host may have got its certificate after this vault was opened: then its keys are read again."""
    try:
        return check(repo.keys)
    except UnknownHost:
        found = read_access(repo.store, repo.config, clock=repo.clock).authority
        authority = replace(repo.keys.authority, hosts=found.hosts)
        return check(replace(repo.keys, authority=authority))


def opened(repo: OpenVault, kind: Kind, key: str) -> Found[bytes]:
    """What was sealed whole under `key`. Raises Damage as `snapshot_of`."""
    return _first(
        repo,
        key,
        lambda: open_whole(repo.keys, kind, key, repo.read(key)),
        lambda epoch, data: opened_whole(repo, kind, epoch, key, data),
    )


def opened_copy(repo: OpenVault, epoch: int, sequence: int, data: bytes) -> Snapshot:
    found = snapshot.decode_resealed(repo.keys, data, epoch=epoch, sequence=sequence)
    _under_its_root(epoch, snapshot.key_of(sequence), snapshot.sealed_in(data, sequence))
    return found


def opened_whole(repo: OpenVault, kind: Kind, epoch: int, key: str, data: bytes) -> bytes:
    plain = open_whole(repo.keys, kind, snapshot.resealed_key(epoch, key), data)
    _under_its_root(epoch, key, epoch_of(data))
    return plain


def _under_its_root(epoch: int, key: str, sealed_in: int) -> None:
    # A root that was retired because it was stolen must not speak for the one after it.
    if sealed_in != epoch:
        name = snapshot.resealed_key(epoch, key)
        raise Damage(f"{name}: sealed under the root of epoch {sealed_in}")


def _first(
    repo: OpenVault, key: str, original: Callable[[], T], copy: Callable[[int, bytes], T]
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
        data = repo.read_or_none(name)
        if data is None:
            continue
        try:
            return Found(copy(epoch, data), name, passed)
        except Damage as bad:
            if regular and not passed:
                first = bad
            passed[name] = bad
    raise first


def _rotations(repo: OpenVault) -> range:
    """Epochs that may have sealed things anew, the newest first."""
    return range(repo.keys.epoch, FIRST_EPOCH, -1)


@dataclass(frozen=True, slots=True)
class Copy:
    """What was sealed once more under the root of `epoch`, and the key of its original."""

    epoch: int
    of: str

    @property
    def key(self) -> str:
        return snapshot.resealed_key(self.epoch, self.of)


def there(repo: OpenVault, prefix: str, *, epoch: int | None = None) -> list[Copy]:
    """Copies of originals under `prefix`, of one epoch or of all that are known."""
    epochs = range(FIRST_EPOCH + 1, repo.keys.epoch + 1) if epoch is None else (epoch,)
    return [
        Copy(e, stat.key.removeprefix(top))
        for e in epochs
        for top in (snapshot.resealed_key(e, ""),)
        for stat in repo.listed(top + prefix)
    ]


def copy_of(key: str) -> Copy | None:
    found = _KEY.fullmatch(key)
    return None if found is None else Copy(int(found[1]), found[2])


def where(repo: OpenVault, key: str) -> Stat | None:
    """The object that is read for `key`: the original, or the newest copy of one that is gone."""
    for epoch in (None, *range(repo.keys.epoch, FIRST_EPOCH, -1)):
        name = key if epoch is None else snapshot.resealed_key(epoch, key)
        with suppress(NotThere):
            return retry(repo.clock, lambda name=name: repo.store.stat(name))  # type: ignore[misc]
    return None


def open_snapshot(repo: OpenVault, one: Copy) -> Snapshot:
    """Raises Damage; caused by NotThere when it is gone."""
    return opened_copy(repo, one.epoch, snapshot.sequence_of(one.of), repo.read(one.key))


def open_log(repo: OpenVault, one: Copy) -> int:
    """Its size, opened. Raises Damage; caused by NotThere when it is gone."""
    return len(opened_whole(repo, Kind.WAL, one.epoch, one.of, repo.read(one.key)))


def each(repo: OpenVault, prefix: str) -> Iterator[tuple[Copy, Damage | None]]:
    """Every copy of the newest epoch, opened: what is wrong with it."""

    def opened(one: Copy) -> None:
        open_snapshot(repo, one) if prefix == snapshot.PREFIX else open_log(repo, one)

    for one, done in ahead(there(repo, prefix, epoch=repo.keys.epoch), opened, workers=WORKERS):
        try:
            done.result()
        except Damage as bad:
            if not isinstance(bad.__cause__, NotThere):
                yield one, bad
        else:
            yield one, None


def read_without(repo: OpenVault, of: str) -> bool:
    """Whether something opens under the name of this original: something else than what does not."""
    try:
        if of.startswith(wal_segment.PREFIX):
            opened(repo, Kind.WAL, of)
        else:
            snapshot_of(repo, snapshot.sequence_of(of))
    except Damage:
        return False
    return True
