"""Is everything there that a restore needs, and is it what was written? Three levels, each holding the one
before: `structure` (signatures, chain, index, listings, sizes), `sample` (packs read whole, least recently
read first, within a budget), `full` (every byte of every object). The fourth level is to restore: `room`.
"""

import os
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from backup import (
    copies,
    doubt,
    forgotten,
    heads,
    listings,
    loading,
    marks,
    names,
    neededlog,
    points,
    resealed,
    snapshot,
    strays,
    traces,
    wal,
)
from backup.ahead import ahead
from backup.findings import Level, Report
from backup.forgotten import Forgotten, Link, check_chain
from backup.index import Catalogue
from backup.ledger import Ledger
from backup.pack import check_blobs, check_name, key_of
from backup.reader import Reader
from backup.repository import CONFIG, Repository, access, read_config
from backup.snapshot import Snapshot
from backup.unneeded import Unneeded
from infra.objectstore.contract import NotThere, Stat
from zaibei.kernel.errors import Damage
from zaibei.kernel.printable import printable
from zaibei.kernel.progress import Progress

__all__ = ["Budget", "Level", "Report", "verify"]

SHARE: Final = 0.1
WORKERS: Final = 3  # twice as many packs are in memory at most
_PACKS = "packs/"
_STRANGE: Final = 5  # names that are not ours, told of each folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much a sample may read. What is given bounds it, all of them together; at least one pack is read."""

    share: float | None = SHARE  # of the bytes of all packs
    size_bytes: int | None = None
    time: timedelta | None = None

    def bytes_of(self, total: int) -> int:
        by_share = total if self.share is None else round(total * self.share)
        return by_share if self.size_bytes is None else min(by_share, self.size_bytes)


def verify(
    repo: Repository,
    level: Level,
    *,
    rng: random.Random,
    progress: Progress,
    budget: Budget | None = None,
    ledger: Ledger | None = None,
) -> Report:
    """Without a ledger a sample is by lot: nobody remembers what was read before."""
    begun = repo.clock.monotonic()
    out = Report(repository=repo.name, level=level)

    def damaged(key: str, why: Damage) -> None:
        out.found(key, why)

    progress.step(f"{repo.name}: structure")
    _recipients(repo, out)
    chain = _chain(repo, out)
    marked = _marked(repo, out)
    # Nobody misses a marked pack, and so nobody may count on one that is not there.
    held = Catalogue().load(
        loading.segments(repo, damaged, lambda key, why: out.note(f"{key} is marked: {why}")),
        without=_not_there(repo, marked),
    )
    out.packs, out.blobs = held.count()
    bad: set[str] = set()
    with Reader(repo, held) as reader, Ledger(None) as forgetful:
        own = ledger or forgetful
        unneeded = Unneeded(reader, chain, marked, progress)
        doubted, seen = {one.name for one in own.damaged_packs()}, set[str]()
        there = doubt.still(_present(repo, held, out, bad, unneeded), doubted, seen)
        if level is Level.STRUCTURE:
            for _ in there:
                pass
        else:
            own.know(there)
        progress.step(f"{repo.name}: listings of {len(chain)} snapshots")
        listings.check(reader, chain, out, progress)
        if level is not Level.STRUCTURE:
            seen -= _contents(
                repo, held, own, out, bad, unneeded, rng=rng, progress=progress, budget=budget
            )
        doubt.told_again(out, own, seen, unneeded, bad)
        _wal(repo, out, whole=level is Level.FULL)
        _needed_log(repo, out, chain)
        if level is Level.FULL:
            traces.check(repo, out)
        if bad:
            listings.who_needs(reader, chain, bad, out, progress)
        if out.findings and out.packs_unindexed:
            out.note(
                f"{out.packs_unindexed} packs are in no index segment: zaibei backup repair finds them again, and"
                " with them perhaps what is missed here; try that first"
            )
        took = timedelta(seconds=repo.clock.monotonic() - begun)
        own.finish(out, at=repo.clock.now(), took=took)
        if level is not Level.STRUCTURE:
            out.coverage = own.coverage(repo.clock.now())
    return out


def _recipients(repo: Repository, out: Report) -> None:
    """Config and every key object, also those that were not needed to open."""
    with out.collecting(CONFIG):
        config = read_config(repo.store, clock=repo.clock)
        if config != repo.config:
            raise Damage(f"{repo.name}: config changed since the repository was opened")
        found = access(repo.store, config, clock=repo.clock)
        for key, bad in found.damage.items():
            with out.collecting(key):
                raise bad
        for key, stranger in found.strangers.items():
            out.note(f"{key}: {stranger.why}")
        for key, bad in found.statements.damage.items():
            out.found(key, bad)
        for old in found.statements.retired.values():
            out.note(old.message)
        for key in sorted(found.statements.missing):
            out.note(f"{key} is not there any more; whom a rotation left behind since stays out")


def _chain(repo: Repository, out: Report) -> list[Snapshot]:
    """The snapshots that can be read; holes, false links and a lost end are damage."""
    chain: list[Snapshot] = []
    links: dict[int, Link] = {}
    sequences: list[int] = []
    with out.collecting(snapshot.PREFIX):
        sequences = repo.present()
    present = frozenset(sequences)
    told: dict[int, Forgotten] = {}
    gone: set[int] = set()
    with out.collecting(forgotten.PREFIX):
        told = repo.forgotten(out.found)
        gone, links = set(told), {s: f.link for s, f in told.items()}
    with out.collecting(snapshot.PREFIX):
        strays.check(repo, out, max((*present, *gone), default=0))
    for sequence in gone.intersection(sequences):
        if told[sequence].why in (forgotten.LOST, forgotten.HEALED):
            out.note(f"{snapshot.key_of(sequence)} is damaged, and a statement says so")
            continue
        with out.collecting(snapshot.key_of(sequence)):
            _taken_back(repo, sequence, links[sequence])
    sequences = [s for s in sequences if s not in gone]
    if (lost := heads.lost(repo)) is not None:
        known = heads.remembered(repo)
        out.found(snapshot.key_of(known[0]) if known else snapshot.PREFIX, lost)
    for sequence in sequences:
        try:
            found = resealed.snapshot_of(repo, sequence)
        except Damage as bad:
            copies.told(repo, out, snapshot.key_of(sequence), bad)
            continue
        one = found.value
        chain.append(one)
        links[sequence] = one.link
        # The copies are looked at below, all of them.
        copies.passed_over(out, one.key, {k: b for k, b in found.passed.items() if k == one.key})
    with out.collecting(snapshot.PREFIX):
        check_chain([links[s] for s in sorted(links)], name=repo.name)
    for one in chain:
        with out.collecting(one.key):
            _stands(repo, one, chain, told, present)
    copies.check_snapshots(repo, out, {one.sequence: one for one in chain}, told)
    out.snapshots = len(chain)
    return chain


def _stands(
    repo: Repository,
    one: Snapshot,
    chain: Sequence[Snapshot],
    told: Mapping[int, Forgotten],
    there: Collection[int],
) -> None:
    """A point is as good as what it names: a copy of that will do, and what is kept though it was forgotten."""
    named = points.still_named([one], told).intersection(there)
    for sequence, digest in points.named_by(one):
        if sequence not in named and not points.standing_for(
            chain, (sequence, digest), copied=points.is_copy(one)
        ):
            raise Damage(
                f"{repo.name}: point {one.content.label} (snapshot {one.sequence}) stands on snapshot"
                f" {sequence}, which is not there",
                hint=f"heal it; or let the point go: zaibei backup forget {one.sequence}",
            )


def _taken_back(repo: Repository, sequence: int, link: Link) -> None:
    """A forgotten snapshot may be taken back while it is there, so it must be the one that was forgotten."""
    try:
        one = repo.snapshot(sequence)
    except Damage as bad:
        if isinstance(bad.__cause__, NotThere):
            return  # swept meanwhile
        raise
    if link.digest not in (None, one.digest):
        raise Damage(f"{repo.name}: snapshot {sequence} is not the one that was forgotten")


def _marked(repo: Repository, out: Report) -> frozenset[str]:
    with out.collecting(marks.PREFIX):
        found = marks.packs_of(marks.standing(repo, lambda stat, bad: out.found(stat.key, bad)))
        if found:
            out.note(f"{len(found)} packs are marked for removal")
        return found
    return frozenset()


def _not_there(repo: Repository, marked: frozenset[str]) -> frozenset[str]:
    if not marked:
        return marked
    return marked - {s.key.rpartition("/")[2] for s in repo.store.list(_PACKS)}


def _present(
    repo: Repository, held: Catalogue, out: Report, bad: set[str], unneeded: Unneeded
) -> Iterator[tuple[str, int]]:
    """Packs that are in the vault. What the index names must be there in its size. One listing of
    everything, beside the index in the same order: neither is held in memory."""
    indexed = held.packs()
    wanted = next(indexed, None)
    strange: dict[str, int] = {}
    first: dict[str, list[str]] = {}

    def lost(name: str, why: str) -> None:
        if name in unneeded:
            out.note(f"{key_of(name)} is marked, nobody needs it: it {why}")
            return
        bad.add(name)
        out.found(key_of(name), Damage(f"{repo.name}: pack {name} {why}"))

    for stat in repo.store.list(""):
        name = _pack_name(stat)
        if name is None:
            if not names.ours(stat.key):
                top, _, tail = stat.key.partition("/")
                strange[top] = strange.get(top, 0) + 1
                if top in names.FOLDERS and strange[top] <= _STRANGE:
                    first.setdefault(top, []).append(printable(os.fsencode(tail)))
            continue
        while wanted is not None and wanted[0] < name:
            lost(wanted[0], "is missing")
            wanted = next(indexed, None)
        if wanted is None or wanted[0] != name:
            out.packs_unindexed += 1
        else:
            if wanted[1] != stat.size_bytes:
                lost(name, f"has {stat.size_bytes} bytes, not {wanted[1]}")
            wanted = next(indexed, None)
        yield name, stat.size_bytes
    while wanted is not None:
        lost(wanted[0], "is missing")
        wanted = next(indexed, None)
    for top, count in strange.items():
        if top in first:
            more = ", …" if count > len(first[top]) else ""
            out.note(
                f"{top}/: {count} objects that are not zaibei's; nothing reads them, and they may be"
                f" deleted: {', '.join(first[top])}{more}"
            )
        else:
            out.note(f"{printable(os.fsencode(top))}: {count} objects that are not zaibei's")


def _pack_name(stat: Stat) -> str | None:
    if not (stat.key.startswith(_PACKS) and names.ours(stat.key)):
        return None
    return stat.key.rpartition("/")[2]


def _contents(
    repo: Repository,
    held: Catalogue,
    ledger: Ledger,
    out: Report,
    bad: set[str],
    unneeded: Unneeded,
    *,
    rng: random.Random,
    progress: Progress,
    budget: Budget | None,
) -> set[str]:
    """Packs read whole, a few at once: reading, digest, opening and inflating leave the interpreter. Which."""
    full = out.level is Level.FULL
    total = ledger.total_bytes()
    allowed = total if full else (budget or Budget()).bytes_of(total)
    end = None if full or budget is None else budget.time
    begun = repo.clock.monotonic()
    done_with: set[str] = set()

    def chosen() -> Iterator[tuple[str, int]]:
        spent = 0
        for name, size in ledger.due(rng.randbytes(32).hex()):
            late = end is not None and repo.clock.monotonic() - begun >= end.total_seconds()
            if spent and not full and (late or spent + size > allowed):
                return
            spent += size
            yield name, size

    progress.step(f"{repo.name}: reading packs")
    for (name, size), done in ahead(chosen(), lambda p: _pack(repo, held, *p), workers=WORKERS):
        sound = False
        with out.collecting(key_of(name), by_content=True):
            try:
                done.result()
                sound = True
            except Damage as why:
                if name in unneeded:
                    out.note(f"{key_of(name)} is marked, nobody needs it: {why.message}")
                else:
                    bad.add(name)
                    raise
        out.packs_read += 1
        out.bytes_read += size
        ledger.record(name, at=repo.clock.now(), sound=sound)
        done_with.add(name)
        progress.done(out.bytes_read, allowed, unit="B")
    return done_with


def _pack(repo: Repository, held: Catalogue, name: str, size_bytes: int) -> None:
    """Not digested where that could tell nothing more: every byte was opened under the pack's own key, and the
    index gives this name to these blobs at these places, and to no other pack a blob of it. So neither a changed
    byte nor a pack under another's name gets by."""
    data = repo.read_pack(name, size_bytes)
    entries, all_opened = check_blobs(repo.keys, name, data)
    indexed = held.entries(name)
    if indexed and indexed != set(entries):
        raise Damage(f"{repo.name}: pack {name}: index and trailer differ")
    # Of two packs with the same blobs only the digest tells which is which.
    if not (indexed and all_opened and len(held.places(entries[0].id)) == 1):
        check_name(repo.keys, name, data)


def _needed_log(repo: Repository, out: Report, chain: Sequence[Snapshot]) -> None:
    lacking: list[tuple[Snapshot, str]] = []
    with out.collecting(wal.PREFIX):
        lacking = list(neededlog.lacking(repo, chain))
    for one, why in lacking:
        with out.collecting(one.key):
            raise Damage(
                f"{repo.name}: snapshot {one.sequence} ({one.content.kind}) does not restore: {why}",
                hint="heal it from the other vault; without that, take a new base backup",
            )


def _wal(repo: Repository, out: Report, *, whole: bool) -> None:
    found: list[int] = []
    passed: set[str] = set()
    lost: set[str] = set()
    with out.collecting(wal.PREFIX):
        found = wal.systems(repo)
    for system in found:
        archive = wal.Archive(repo, system)
        with out.collecting(archive.prefix):
            held = archive.items()
            out.wal_objects += len(held)
            for gap in wal.gaps(held):
                with out.collecting(archive.prefix):
                    raise Damage(f"{repo.name}: system {system}: {gap}")
            for item, done in ahead(held if whole else [], archive.look, workers=WORKERS):
                try:
                    one = done.result()
                except Damage as bad:
                    copies.told(repo, out, item.key, bad, by_content=True)
                    lost.add(item.key)
                    continue
                out.bytes_read += len(one.value)
                copies.passed_over(out, item.key, one.passed, by_content=True)
                passed.update(one.passed)
    if whole:
        copies.check_log(repo, out, told=passed, lost=lost)
