"""The second half of garbage collection: removes what was marked a grace period ago and is still
not needed.

It runs with the deleter's credentials and removes versions for good, never behind delete markers.
It removes in the reverse of the order of writing: snapshot, index, packs, and the mark last, which
until then explains why a pack is missing. Every step may be repeated, and may be the last one.
Locked objects stay and are reported with the day on which they unlock.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from backup.format import mark, snapshot, wal_segment
from backup.format.mark import TERMS, Mark, Terms
from backup.format.pack import key_of
from backup.index.blob_index import BlobIndex
from backup.lifecycle.gc_mark import View, looked, still_roots, time_of
from backup.lifecycle.reindex import cover, names_in
from backup.repository import leases, marks, resealed, rollback
from backup.repository.chain import statements
from backup.repository.repository import Repository
from backup.repository.vault import retry
from backup.wal import archive as wal_archive
from backup.wal.expiry import bases, superfluous
from backup.writer import heartbeats
from infra.objectstore.contract import LitteredStore, Locked, NotThere, ObjectStore
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.progress import Progress

if TYPE_CHECKING:
    from datetime import datetime


UNFINISHED_MIN: Final = timedelta(hours=1)  # no object takes so long to write, whatever the grace
LOCKED_MAX: Final = 1000  # told one by one; the count is exact


@dataclass(slots=True, kw_only=True)
class Swept:
    """What was removed, by kind of object; with `dry_run` what would be."""

    removed: dict[str, int] = field(default_factory=dict)
    removed_bytes: int = 0
    resurrected: int = 0
    waiting: int = 0  # marks whose grace is not over, or that a living run still may not know
    locked: int = 0
    locked_until: list[tuple[str, datetime | None]] = field(default_factory=list)
    unlocks_at: datetime | None = None  # the earliest
    refused: str | None = None

    @property
    def complete(self) -> bool:
        """Locked objects are no failure: that is the vault's job."""
        return self.refused is None


def sweep(
    repo: Repository,
    deleter: ObjectStore,
    progress: Progress,
    *,
    terms: Terms = TERMS,
    dry_run: bool = False,
) -> Swept:
    """`deleter`: the same place as the identity that may remove. Raises Damage and removes nothing when what
    the snapshots need is not all there, or when a snapshot is gone that this machine has seen: what it needed
    would be nobody's."""
    rollback.check(repo, repo.sequences())
    out = Swept()
    now = time_of(repo, only_look=dry_run)
    hand = _Hand(repo, deleter, out, now=now, dry_run=dry_run)
    standing = marks.standing(repo)
    ripe = _ripe(repo, standing, now, terms)
    out.waiting = len(standing) - len(ripe)
    going = frozenset[str]()
    if ripe:
        # After the question what is ripe: whoever relied on these packs has committed by now.
        with looked(repo, progress, terms=terms, only_look=dry_run) as (seen, reader):
            going = _not_needed(reader.catalogue, seen, mark.packs_of(ripe))
        out.resurrected = len(mark.packs_of(ripe)) - len(going)
    try:
        hand.remove("snapshots", _forgotten_for_good(repo, now, terms))
        if ripe:
            _packs(repo, hand, ripe, going)
        hand.remove("wal", _old_log(repo, now, terms))
        hand.remove("runs", heartbeats.over(repo, now, since=2 * terms.grace))
        hand.remove("leases", leases.over(repo, now))
        if isinstance(deleter, LitteredStore):
            old = now - max(terms.grace, UNFINISHED_MIN)
            if count := deleter.unfinished(old, remove=not dry_run):
                out.removed["unfinished files"] = count
    except Refused as no:
        out.refused = no.message
    return out


def clear(repo: Repository, deleter: ObjectStore, *, dry_run: bool = False) -> Swept:
    """Remove marks and forget statements that cannot be read: the next `gc.mark` names again what is not needed.

    Not beside another collection: one that is asleep may have read the mark while it was whole, and would go on
    with packs that a new run takes for good again.
    """
    out = Swept()
    now = time_of(repo, only_look=dry_run)
    hand = _Hand(repo, deleter, out, now=now, dry_run=dry_run)
    try:
        hand.remove("unreadable", all_of(repo))
    except Refused as no:
        out.refused = no.message
    return out


def _ripe(
    repo: Repository, standing: tuple[Mark, ...], now: datetime, terms: Terms
) -> tuple[Mark, ...]:
    """Marks whose grace is over, and that no living run began before: such a run may not know the mark."""
    alive = [run.started for run in heartbeats.live(repo, now)]
    return tuple(
        m
        for m in standing
        if now - m.since >= terms.grace and all(started > m.since for started in alive)
    )


def _not_needed(held: BlobIndex, seen: View, packs: frozenset[str]) -> frozenset[str]:
    """Of marked packs those whose every needed blob is in a pack that stays."""
    leaving = set(mark.packs_of(seen.marks))
    for pack in sorted(packs):
        for e in held.entries(pack):
            if e.id in seen.needed and not any(
                p.pack not in leaving and seen.there(p.pack) for p in held.locations(e.id)
            ):
                # It stays, and whatever else holds the same blob may go after all.
                leaving.discard(pack)
                break
    return frozenset(packs & leaving)


def _packs(repo: Repository, hand: "_Hand", ripe: tuple[Mark, ...], going: frozenset[str]) -> None:
    stay = mark.packs_of(ripe) - going
    retired = mark.segments_of(ripe)
    # First what stays is named by a segment that stays; then the old segments go; then the packs.
    old = {*cover(repo, going=going, retired=retired, write=not hand.dry_run).dirty, *retired}
    hand.remove("index", (f"index/{name}" for name in sorted(old)))
    hand.remove("packs", (key_of(name) for name in sorted(going)))
    if hand.dry_run:
        return
    left = {s.key for prefix in ("packs/", "index/") for s in repo.store.list(prefix)}
    named = {
        name
        for one in repo.segments()
        for name in names_in(one)
        if name in going and key_of(name) not in left
    }
    hand.remove(
        "marks",
        (
            mark.key_of(m.name)
            for m in ripe
            if not any(key_of(p) in left for p in m.packs - stay)
            and not any(f"index/{s}" in left for s in m.segments)
            and not m.packs & named
        ),
    )


def _old_log(repo: Repository, now: datetime, terms: Terms) -> list[str]:
    """WAL that neither a kept base backup needs nor one that may still be taken back."""
    found = wal_archive.systems(repo)
    if not found:
        return []
    kept = repo.snapshots()
    for sequence in still_roots(repo, tuple(kept), terms, now):
        with suppress(Damage):  # lost: it cannot be taken back
            kept.append(repo.snapshot(sequence))
    taken_in = {s.key: s.modified for s in repo.listed(snapshot.PREFIX)}
    out: list[str] = []
    for system in found:
        archive = wal_archive.Archive(repo, system)
        modified = {s.key: s.modified for s in repo.listed(archive.prefix)}
        out += superfluous(
            archive.items(),
            modified,
            bases(kept, taken_in, system=system),
            now=now,
            grace=terms.grace,
        )
    # With what a rotation sealed anew, and that first: left alone it would stand for the original for ever.
    again: dict[str, list[str]] = defaultdict(list)
    for one in resealed.there(repo, wal_segment.PREFIX):
        again[one.of].append(one.key)
    return [name for key in out for name in (*again[key], key)]


def _forgotten_for_good(repo: Repository, now: datetime, terms: Terms) -> list[str]:
    """Snapshot objects that may not be taken back any more."""
    stay = still_roots(repo, repo.snapshots(), terms, now)
    gone = {snapshot.key_of(s) for s in repo.forgotten() if s not in stay}
    # Also what a rotation sealed anew: else the copy would outlive the snapshot.
    tops = ["", *(snapshot.resealed_key(e, "") for e in range(2, repo.keys.epoch + 1))]
    return [
        stat.key
        for top in tops
        for stat in repo.listed(top + snapshot.PREFIX)
        if stat.key.removeprefix(top) in gone
    ]


class _Hand:
    """Removes, and counts."""

    def __init__(
        self,
        repo: Repository,
        deleter: ObjectStore,
        out: Swept,
        *,
        now: datetime,
        dry_run: bool,
    ) -> None:
        self._repo, self._deleter, self._out, self._now = repo, deleter, out, now
        self.dry_run = dry_run

    def remove(self, kind: str, keys: Iterable[str]) -> None:
        for key in keys:
            self._remove(kind, key)

    def _remove(self, kind: str, key: str) -> None:
        clock, out = self._repo.clock, self._out
        try:
            stat = retry(clock, lambda: self._repo.store.stat(key))
        except NotThere:
            return
        if stat.retain_until is not None and stat.retain_until > self._now:
            self._locked(key, stat.retain_until)
            return
        if not self.dry_run:
            try:
                retry(clock, lambda: self._deleter.remove(key, version=stat.version))
            except Locked:
                self._locked(key, None)
                return
        out.removed[kind] = out.removed.get(kind, 0) + 1
        out.removed_bytes += stat.size_bytes

    def _locked(self, key: str, until: datetime | None) -> None:
        out = self._out
        out.locked += 1
        if len(out.locked_until) < LOCKED_MAX:
            out.locked_until.append((key, until))
        if until is not None:
            out.unlocks_at = min(until, out.unlocks_at or until)


def all_of(repo: "Repository") -> Iterator[str]:
    """Keys of the marks and statements that cannot be read."""
    from backup.repository import marks  # noqa: PLC0415 - it imports the repository, which imports us

    found: list[str] = []
    statements(repo, lambda key, _: found.append(key))
    marks.standing(repo, lambda stat, _: found.append(stat.key))
    yield from found
