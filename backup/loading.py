"""The index as it is read from a vault: from its segments, or from the ends of the packs themselves."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from backup import marks, names
from backup.ahead import ahead
from backup.index import SEGMENT_BYTES_MAX, Catalogue, Segment, read_segment
from backup.pack import Entry, fetch_trailer
from backup.repository import ATTEMPTS, Repository, retry
from infra.objectstore.contract import NotThere, Stat
from zaibei.kernel.errors import Damage

_PACKS: Final = "packs/"
_READERS: Final = 3  # of segments
_TRAILERS: Final = 8  # small reads: a store far away answers slowly, not little
HINT: Final = "zaibei backup repair: the packs themselves say what it named"
Damaged = Callable[[str, Damage], None]


def catalogue(
    repo: Repository, *, without: frozenset[str], damaged: Damaged | None = None
) -> Catalogue:
    return Catalogue().load(segments(repo, damaged), without=without)


def segments(
    repo: Repository, damaged: Damaged | None = None, retired: Damaged | None = None
) -> Iterator[Segment]:
    """`retired` is told of a bad segment that is marked: no loss, and worth a line."""

    def read(stat: Stat) -> Segment:
        if stat.size_bytes > SEGMENT_BYTES_MAX:
            raise Damage(f"{repo.name}: {stat.key} has {stat.size_bytes} bytes")
        return read_segment(repo.keys, stat.key.removeprefix("index/"), repo.read(stat.key))

    seen: set[str] = set()
    for _ in range(ATTEMPTS):
        listed = [s for s in repo.listed("index/") if s.key not in seen]
        swept = False
        for stat, done in ahead(listed, read, workers=_READERS):
            seen.add(stat.key)
            try:
                yield done.result()
            except Damage as bad:
                if _swept(repo, stat.key, bad):
                    swept = True
                elif stat.key.removeprefix("index/") in marks.segments_of(
                    marks.standing(repo, lambda _stat, _bad: None)
                ):
                    if retired is not None:
                        retired(stat.key, bad)
                elif damaged is None:
                    bad.hints = (*bad.hints, HINT)
                    raise
                else:
                    damaged(stat.key, bad)
        if not swept:
            return
        # What it named is named by a segment that was written before it was removed.


def rebuilt(repo: Repository, damaged: Damaged | None = None) -> Catalogue:
    held = Catalogue()
    _told_by_packs(repo, names.ours_in(repo.store.list(_PACKS)), held, damaged)
    return held


def complete(repo: Repository, held: Catalogue, damaged: Damaged) -> None:
    """Where a segment cannot be read: what it named, from the ends of the packs that no other one names."""
    known = held.packs()
    next_ = next(known, None)
    unnamed: list[Stat] = []
    # Both in name order, so neither is held in memory.
    for stat in names.ours_in(repo.store.list(_PACKS)):
        name = stat.key.rpartition("/")[2]
        while next_ is not None and next_[0] < name:
            next_ = next(known, None)
        if next_ is None or next_[0] != name:
            unnamed.append(stat)
    _told_by_packs(repo, unnamed, held, damaged)


def _told_by_packs(
    repo: Repository, packs: Iterable[Stat], held: Catalogue, damaged: Damaged | None
) -> None:
    def read(stat: Stat) -> tuple[str, int, tuple[Entry, ...]]:
        def part(start: int, length: int) -> bytes:
            return retry(repo.clock, lambda: repo.store.read(stat.key, start=start, length=length))

        name = stat.key.rpartition("/")[2]
        return name, stat.size_bytes, fetch_trailer(repo.keys, name, stat.size_bytes, part)

    for stat, done in ahead(packs, read, workers=_TRAILERS):
        try:
            held.add(*done.result())
        except Damage as bad:
            if damaged is None:
                raise
            damaged(stat.key, bad)


def _swept(repo: Repository, key: str, bad: Damage) -> bool:
    """Whether a sweep took it away between our look at the list and the read."""
    return isinstance(bad.__cause__, NotThere) and all(s.key != key for s in repo.listed(key))
