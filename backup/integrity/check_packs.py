"""Reads packs, all or a budget's worth, and compares their blobs with the index."""

import os
import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from backup.format import layout, mark
from backup.format.pack import check_blobs, check_name, key_of
from backup.index.blob_index import BlobIndex
from backup.integrity.report import Report
from backup.integrity.unneeded import Unneeded
from backup.repository import marks
from backup.repository.repository import Repository
from backup.writer.pack_health import Level, PackHealth
from infra.objectstore.contract import Stat
from zaibei.kernel.errors import Damage
from zaibei.kernel.prefetch import ahead
from zaibei.kernel.printable import printable
from zaibei.kernel.progress import Progress

SHARE: Final = 0.1
WORKERS: Final = 3  # twice as many packs are in memory at most
_PACKS = "packs/"
_STRANGE: Final = 5  # names that are not ours, told of each folder


def still(
    there: Iterable[tuple[str, int]], known: Collection[str], seen: set[str]
) -> Iterator[tuple[str, int]]:
    """The same, and which of the known ones passed by."""
    for name, size in there:
        if name in known:
            seen.add(name)
        yield name, size


def told_again(
    out: Report, ledger: PackHealth, seen: set[str], unneeded: Unneeded, bad: set[str]
) -> None:
    """What an earlier verification read and found damaged, and this one did not read: a look at the names
    does not make it whole."""
    told = {f.object for f in out.findings}
    for one in ledger.damaged_packs():
        if one.name not in seen or key_of(one.name) in told:
            continue
        if one.name in unneeded:
            out.note(f"{key_of(one.name)} is marked, nobody needs it: {one.why}")
            continue
        out.found(key_of(one.name), Damage(one.why), by_content=True)
        out.note(f"{key_of(one.name)} was found damaged at {one.at}, and not read again since")
        bad.add(one.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much a sample may read. What is given bounds it, all of them together; at least one pack is read."""

    share: float | None = SHARE  # of the bytes of all packs
    size_bytes: int | None = None
    time: timedelta | None = None

    def bytes_of(self, total: int) -> int:
        by_share = total if self.share is None else round(total * self.share)
        return by_share if self.size_bytes is None else min(by_share, self.size_bytes)


def _marked(repo: Repository, out: Report) -> frozenset[str]:
    with out.collecting(mark.PREFIX):
        found = mark.packs_of(marks.standing(repo, lambda stat, bad: out.found(stat.key, bad)))
        if found:
            out.note(f"{len(found)} packs are marked for removal")
        return found
    return frozenset()


def _not_there(repo: Repository, marked: frozenset[str]) -> frozenset[str]:
    if not marked:
        return marked
    return marked - {s.key.rpartition("/")[2] for s in repo.store.list(_PACKS)}


def _present(
    repo: Repository, held: BlobIndex, out: Report, bad: set[str], unneeded: Unneeded
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
            if not layout.ours(stat.key):
                top, _, tail = stat.key.partition("/")
                strange[top] = strange.get(top, 0) + 1
                if top in layout.FOLDERS and strange[top] <= _STRANGE:
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
    if not (stat.key.startswith(_PACKS) and layout.ours(stat.key)):
        return None
    return stat.key.rpartition("/")[2]


def _contents(
    repo: Repository,
    held: BlobIndex,
    ledger: PackHealth,
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


def _pack(repo: Repository, held: BlobIndex, name: str, size_bytes: int) -> None:
    """Not digested where that could tell nothing more: every byte was opened under the pack's own key, and the
    index gives this name to these blobs at these places, and to no other pack a blob of it. So neither a changed
    byte nor a pack under another's name gets by."""
    data = repo.read_pack(name, size_bytes)
    entries, all_opened = check_blobs(repo.keys, name, data)
    indexed = held.entries(name)
    if indexed and indexed != set(entries):
        raise Damage(f"{repo.name}: pack {name}: index and trailer differ")
    # Of two packs with the same blobs only the digest tells which is which.
    if not (indexed and all_opened and len(held.locations(entries[0].id)) == 1):
        check_name(repo.keys, name, data)
