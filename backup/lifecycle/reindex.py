"""Writes new index segments for the packs that stay, before old segments that also name doomed
packs are removed.

The invariant of the index: every pack that is not marked is named by a segment that is not marked.
Safe to repeat and to die in: what another segment covers already is not written again.
"""

from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime

from backup.index.id_set import IdSet
from backup.index.segment import SEGMENT_PACKS, PackEntries, Segment, decode_segment, encode_segment
from backup.repository.repository import Repository
from backup.repository.vault import retry
from zaibei.kernel.errors import Damage


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """`dirty`: segments that name what goes; nothing else needs them now."""

    dirty: tuple[str, ...]
    written: int
    packs: int  # that got a new segment


def cover(
    repo: Repository,
    *,
    going: Container[str],
    retired: frozenset[str] = frozenset(),
    damaged: frozenset[str] = frozenset(),
    write: bool = True,
) -> Covered:
    """`retired`: segments that are marked already, and so cover nothing. `damaged`: what they named was read
    from the packs themselves; any other damaged one is raised."""
    covered, dirty = IdSet(), list[str]()

    def excused(key: str, bad: Damage) -> None:
        if key.removeprefix("index/") not in damaged:
            raise bad

    for one in repo.segments(excused):
        if one.name in retired or any(name in going for name in names_in(one)):
            dirty.append(one.name)
        else:
            covered.update(one.names.tobytes())
    done: set[str] = set()
    waiting: list[PackEntries] = []
    until: datetime | None = None
    written = 0
    for name in dirty if write else ():
        key = f"index/{name}"
        mine = [
            held
            for held in decode_segment(repo.keys, name, repo.read(key))
            if held.name not in going
            and held.name not in done
            and bytes.fromhex(held.name) not in covered
        ]
        if not mine:
            continue
        done |= {held.name for held in mine}
        waiting += mine
        # What an old segment was locked for, the new one must be there for as long.
        locked = retry(repo.clock, lambda key=key: repo.store.stat(key)).retain_until  # type: ignore[misc]
        until = max((t for t in (until, locked) if t is not None), default=None)
        while len(waiting) >= SEGMENT_PACKS:
            write_segment(repo, waiting[:SEGMENT_PACKS], until)
            waiting, written = waiting[SEGMENT_PACKS:], written + 1
    if waiting:
        write_segment(repo, waiting, until)
        written += 1
    return Covered(dirty=tuple(dirty), written=written, packs=len(done))


def write_segment(
    repo: Repository, packs: list[PackEntries], retain_until: datetime | None
) -> None:
    name, sealed = encode_segment(repo.keys, packs)
    # A lock that has ended is no lock to ask for.
    if retain_until is not None and retain_until <= retry(repo.clock, repo.store.now):
        retain_until = None
    repo.create(f"index/{name}", sealed, retain_until=retain_until)


def names_in(segment: Segment) -> list[str]:
    return [n.tobytes().hex() for n in segment.names]
