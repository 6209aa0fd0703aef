"""Loads the index of a vault from its segments, or from the trailers of the packs themselves."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from backup.format import layout, mark
from backup.format.pack import Entry, fetch_trailer
from backup.hints import CLEAR_INDEX
from backup.index.blob_index import BlobIndex
from backup.index.segment import SEGMENT_BYTES_MAX, Segment, read_segment
from backup.repository import marks
from backup.repository.vault import ATTEMPTS, OpenVault, retry
from infra.objectstore.contract import NotThere, Stat
from zaibei.kernel.errors import Damage
from zaibei.kernel.prefetch import ahead

_PACKS: Final = "packs/"
_READERS: Final = 3  # of segments
_TRAILERS: Final = 8  # small reads: a store far away answers slowly, not little
Damaged = Callable[[str, Damage], None]


def catalogue(
    repo: OpenVault, *, without: frozenset[str], damaged: Damaged | None = None
) -> BlobIndex:
    return BlobIndex().load(segments(repo, damaged), without=without)


def segments(
    repo: OpenVault, damaged: Damaged | None = None, retired: Damaged | None = None
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
                elif stat.key.removeprefix("index/") in mark.segments_of(
                    marks.standing(repo, lambda _stat, _bad: None)
                ):
                    if retired is not None:
                        retired(stat.key, bad)
                elif damaged is None:
                    bad.hints = (*bad.hints, CLEAR_INDEX)
                    raise
                else:
                    damaged(stat.key, bad)
        if not swept:
            return


def rebuilt(repo: OpenVault, damaged: Damaged | None = None) -> BlobIndex:
    held = BlobIndex()
    _told_by_packs(repo, layout.ours_in(repo.store.list(_PACKS)), held, damaged)
    return held


def complete(repo: OpenVault, held: BlobIndex, damaged: Damaged) -> None:
    """Where a segment cannot be read: what it named, from the ends of the packs that no other one names."""
    known = held.packs()
    next_ = next(known, None)
    unnamed: list[Stat] = []
    # Both in name order, so neither is held in memory.
    for stat in layout.ours_in(repo.store.list(_PACKS)):
        name = stat.key.rpartition("/")[2]
        while next_ is not None and next_[0] < name:
            next_ = next(known, None)
        if next_ is None or next_[0] != name:
            unnamed.append(stat)
    _told_by_packs(repo, unnamed, held, damaged)


def _told_by_packs(
    repo: OpenVault, packs: Iterable[Stat], held: BlobIndex, damaged: Damaged | None
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


def _swept(repo: OpenVault, key: str, bad: Damage) -> bool:
    """Whether a sweep took it away between our look at the list and the read."""
    return isinstance(bad.__cause__, NotThere) and all(s.key != key for s in repo.listed(key))
