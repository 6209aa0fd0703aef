"""Writes WAL from a vault to files with PostgreSQL's names, for a recovery that needs no program of
ours.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backup.errors import WalGap
from backup.format.wal_segment import SEGMENT_BYTES, Item, segment_name
from backup.wal.archive import Archive
from backup.wal.timelines import Place, Route, parse_history, route

# Recovery stops after the first record that begins at or after the LSN; it may begin in the next one.
AFTER_LSN: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    names: tuple[str, ...]
    way: Route


def fetch_wal(
    archive: Archive,
    into: Path,
    *,
    from_segment: int,
    from_timeline: int,
    towards: int | None = None,
    beside: Iterable[Place] = (),
    whole: bool,
    upto: int | None = None,
    done: Callable[[int, int], None] = lambda _n, _of: None,
) -> Fetched:
    """`beside`: what the backup itself brings. Up to the first hole; a hole is refused (WalGap) when the
    whole is asked for, or when it lies at or before the segment `upto`. Otherwise only recovery can
    tell whether it came far enough, and it does: a target that it did not reach is its error.
    """
    items = archive.items()
    histories = archive.histories(items)
    way = route(
        items,
        {t: parse_history(data) for t, data in histories.items()},
        from_timeline=from_timeline,
        from_segment=from_segment,
        towards=towards,
        beside=beside,
    )
    if way.hole and (whole or (upto is not None and way.reached < upto)):
        raise WalGap(
            f"{archive.repository.name}: {way.hole}",
            hint="restore from the other vault, or to a target before the gap",
        )
    held: dict[Place, list[Item]] = defaultdict(list)
    for i in items:
        if i.segment is not None:
            held[i.timeline, i.segment].append(i)
    places = [p for p in way.places if p in held and (upto is None or p[1] <= upto + AFTER_LSN)]
    for n, place in enumerate(places, 1):
        data = _segment(archive, held[place])
        if (cut := way.cuts.get(place)) is not None:
            data = data[:cut].ljust(SEGMENT_BYTES, b"\0")
        (into / segment_name(*place)).write_bytes(data)
        done(n, len(places))
    # Only the way's own: recovery chooses its timeline by the histories it finds.
    lineage = [t for t in way.lineage if t in histories]
    for timeline in lineage:
        (into / f"{timeline:08X}.history").write_bytes(histories[timeline])
    return Fetched(names=tuple(segment_name(*p) for p in places), way=way)


def _segment(archive: Archive, items: list[Item]) -> bytes:
    for item in items:
        if item.part is None:
            return archive.open(item)
    return archive.assemble(items)
