"""Tells until when each snapshot is locked, and which lock ends next. Asks the store object by
object.

A snapshot states until when its run asked for a lock; this checks that the store keeps it. Only
current versions are looked at, without the WAL archive, whose objects each carry a lock of their
own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final, TypeVar

from backup.crypto.trust import FIRST_EPOCH
from backup.format import layout, snapshot, wal_segment
from backup.format.config import CONFIG
from backup.format.pack import key_of
from backup.format.snapshot import Snapshot
from backup.index.id_set import IdSet
from backup.repository.reachable import reachable
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.repository.vault import retry
from backup.writer import heartbeats
from backup.writer.object_lock import RETAIN_MAX, many
from infra.objectstore.contract import NotThere, Stat, Version, VersionedStore
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Progress

HORIZON: Final = timedelta(days=30)
_LOOKED_AT_ONCE: Final = 1000
_NOT_LOOKED_AT: Final = (wal_segment.PREFIX, heartbeats.PREFIX)
Ends = Mapping[str, datetime | None]  # key -> locked until
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedObject:
    """One snapshot. `until` None: something that it needs is not locked (`first` names it)."""

    sequence: int
    finished: datetime
    asked: datetime | None  # what its run asked for
    until: datetime | None
    first: str  # of what it needs, the object whose lock ends first
    objects: int

    def short(self, now: datetime) -> bool:
        """Whether the lock ends before the retention that was asked for. Pure."""
        if self.asked is None or self.asked <= now:
            return False
        return self.until is None or self.until < self.asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    objects: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    repository: str
    at: datetime  # by the store's clock
    snapshots: tuple[LockedObject, ...]
    locked: Sum
    unlocked: Sum
    expiring: Sum  # within the horizon
    endless: tuple[str, ...]  # locked longer than any run may ask: somebody runs up the bill
    curve: tuple[tuple[datetime, int], ...]  # from then on so many bytes are still locked
    covered: (
        Sum  # names with a later version or a delete marker on top; size_bytes of what lies on top
    )
    covered_since: datetime | None

    @property
    def warnings(self) -> tuple[str, ...]:
        found = [
            f"snapshot {s.sequence}: asked to be locked until {s.asked:%Y-%m-%dT%H:%M:%SZ}, {s.first} is"
            f" {'not locked' if s.until is None else f'locked until {s.until:%Y-%m-%dT%H:%M:%SZ}'}"
            for s in self.snapshots
            if s.short(self.at)
        ]
        if self.endless:
            found.append(
                f"{len(self.endless)} objects are locked for more than {RETAIN_MAX.days} days,"
                f" {self.endless[0]} is one: no run of ours asks for that"
            )
        if self.covered_since is not None:
            found.append(
                f"{self.covered.objects} names were written over or hidden, first at"
                f" {self.covered_since:%Y-%m-%dT%H:%M:%SZ}: nothing of ours does that;"
                " --as-of a time before shows what lies below"
            )
        return tuple(found)


def forecast(repo: Repository, *, progress: Progress, horizon: timedelta = HORIZON) -> Forecast:
    now = retry(repo.clock, repo.store.now)
    progress.step(f"{repo.name}: locks")
    found = _looked_at(repo, progress)
    ends: Ends = {s.key: s.retain_until for s in found}
    covered, size, since = _covered(repo)
    chain = repo.snapshots()
    with Reader(repo) as reader:
        snapshots = tuple(_held(reader, one, ends, progress) for one in chain)
    return Forecast(
        repository=repo.name,
        at=now,
        snapshots=snapshots,
        locked=total(s for s in found if locked_at(s, now)),
        unlocked=total(s for s in found if not locked_at(s, now)),
        expiring=total(s for s in found if locked_at(s, now) and not locked_at(s, now + horizon)),
        endless=tuple(s.key for s in found if locked_at(s, now + RETAIN_MAX * 1.5)),
        curve=curve(found, now),
        covered=Sum(objects=covered, size_bytes=size),
        covered_since=since,
    )


def locked_at(one: Stat, moment: datetime) -> bool:
    return one.retain_until is not None and one.retain_until > moment


def total(found: Iterable[Stat]) -> Sum:
    sizes = [s.size_bytes for s in found]
    return Sum(objects=len(sizes), size_bytes=sum(sizes))


def curve(found: Sequence[Stat], now: datetime) -> tuple[tuple[datetime, int], ...]:
    """How many bytes are still locked from each moment on at which some lock ends. Pure; falls, ends at 0."""
    locked = sorted(
        (s.retain_until, s.size_bytes)
        for s in found
        if s.retain_until is not None and s.retain_until > now
    )
    left = sum(size for _, size in locked)
    steps = [(now, left)]
    for end, group in groupby(locked, key=lambda pair: pair[0]):
        left -= sum(size for _, size in group)
        steps.append((end, left))
    assert left == 0, "every lock ends"
    return tuple(steps)


def weakest(ends: Ends, covered: Callable[[str], bool]) -> tuple[str, datetime | None]:
    """Of what a snapshot needs, the object whose lock ends first, leaving out those that `covered` calls
    covered: everything that the snapshot wants of it is also in an object with a longer lock. Pure."""
    order = sorted(ends, key=lambda k: (_end(ends[k]), k))
    found = next((k for k in order if not covered(k)), order[-1])
    return found, ends[found]


def _end(end: datetime | None) -> float:
    return float("-inf") if end is None else end.timestamp()


def _held(reader: Reader, one: Snapshot, ends: Ends, progress: Progress) -> LockedObject:
    repo, ids = reader.repository, reachable(reader.repository, [one], progress, reader=reader)
    packs = {key_of(p.pack): p.pack for p in reader.catalogue.liveness(ids) if p.live_blobs}
    segments = [f"index/{s}" for s in reader.catalogue.segments_naming(packs.values())]
    # Nobody locks what is not ours, so it must not pass for the weakest of what a snapshot needs.
    always = [k for k in ends if k == CONFIG or (k.startswith(layout.ALWAYS) and layout.ours(k))]
    needed = {k: _known(repo, ends, k) for k in (*packs, *segments, *always, _key(repo, ends, one))}

    def elsewhere(key: str) -> bool:
        return key in packs and _elsewhere(reader, packs[key], ids, needed)

    first, until = weakest(needed, elsewhere)
    return LockedObject(
        sequence=one.sequence,
        finished=one.content.finished,
        asked=asked(one),
        until=until,
        first=first,
        objects=len(needed),
    )


def asked(one: Snapshot) -> datetime | None:
    """Until when the run of this snapshot wanted it locked; None when it did not."""
    told = one.content.facts.get("lock")
    try:
        return None if told is None else datetime.fromisoformat(told["until"])
    except (KeyError, TypeError, ValueError) as bad:
        raise Damage(f"snapshot {one.sequence}: what it says of its lock cannot be read") from bad


def _key(repo: Repository, ends: Ends, one: Snapshot) -> str:
    """The object that the snapshot is read from: when the original is gone, what a rotation sealed anew."""
    again = (snapshot.resealed_key(e, one.key) for e in range(repo.keys.epoch, FIRST_EPOCH, -1))
    return next((k for k in (one.key, *again) if k in ends), one.key)


def _known(repo: Repository, ends: Ends, key: str) -> datetime | None:
    if key not in ends:
        raise Damage(f"{repo.name}: {key} is needed and not there", hint="zaibei backup verify")
    return ends[key]


def _elsewhere(reader: Reader, pack: str, ids: IdSet, needed: Ends) -> bool:
    """Whether each blob that the snapshot wants of this pack is in another one whose lock is longer."""
    end = _end(needed[key_of(pack)])
    wanted = (e.id for e in reader.catalogue.entries(pack) if e.id in ids)
    return all(
        any(_end(needed.get(key_of(p.pack))) > end for p in reader.catalogue.locations(id_))
        for id_ in wanted
    )


def _looked_at(repo: Repository, progress: Progress) -> list[Stat]:
    """Every object with its lock, which a listing does not tell: a call each, some at once."""
    keys = [s.key for s in repo.store.list("") if not s.key.startswith(_NOT_LOOKED_AT)]
    found: list[Stat] = []
    for at in range(0, len(keys), _LOOKED_AT_ONCE):
        some = many(lambda key: _stat(repo, key), keys[at : at + _LOOKED_AT_ONCE])
        found += [s for s in some if s is not None]
        progress.done(len(found), len(keys), unit="objects")
    return found


def _stat(repo: Repository, key: str) -> Stat | None:
    try:
        return retry(repo.clock, lambda: repo.store.stat(key))
    except NotThere:
        return None  # swept between the listing and now


def _covered(repo: Repository) -> tuple[int, int, datetime | None]:
    """Names that were written or hidden after they had been written once: how many, bytes on top, since when."""
    store = repo.store
    if not isinstance(store, VersionedStore):
        return 0, 0, None
    count, size = 0, 0
    since: datetime | None = None
    for _, group in groupby(store.versions(""), key=lambda v: v.key):
        later: list[Version] = list(group)[:-1]
        if later:
            count += 1
            size += sum(v.size_bytes for v in later)
            first = min(v.modified for v in later)
            since = first if since is None else min(since, first)
    return count, size, since
