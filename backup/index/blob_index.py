"""Finds the pack of a blob: immutable sorted segments in the vault, one private table in this
process.

A segment names only packs that are already in the vault. Losing all segments loses nothing: every
pack's trailer holds its entries (`Repository.rebuilt_catalogue`). The table stands on sorted runs
outside memory (`backup.index.sorted_runs`), so it takes the same memory for a thousand blobs and
for ten million.
"""

import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backup.crypto.suite import ID_BYTES
from backup.format.pack import Entry
from backup.index.id_set import IdSet
from backup.index.pack_list import PackList
from backup.index.segment import _ENTRY, _WIDTH, ROW, Segment, _entry, _row
from backup.index.sorted_runs import (
    Pile,
    Rows,
    SortedRun,
    cut,
    merged,
    order_of,
    positions,
    rows_of,
    within,
)

FRESH_MAX: Final = 32_768  # blobs added by this run that are held in memory
_KEY: Final = ID_BYTES + 4  # id and pack: one entry each
_FEW: Final = 5
assert ROW.itemsize == _WIDTH


@dataclass(frozen=True, slots=True)
class Place:
    pack: str
    pack_bytes: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Liveness:
    """How much of a pack somebody needs. Bytes are sealed blobs, without header, trailer and padding."""

    pack: str
    size_bytes: int
    live_blobs: int
    live_bytes: int
    blobs: int


@dataclass(frozen=True, slots=True)
class Lacking:
    """Ids that the catalogue does not know."""

    count: int
    first: tuple[bytes, ...]


class BlobIndex:
    """Every blob of a repository and where it is; and who is packing which now. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._packs = PackList()
        self._runs: tuple[SortedRun, ...] = ()
        self._fresh: dict[bytes, bytes] = {}  # id -> its rows, of what was added since
        self._fresh_rows = 0
        self._claimed: set[bytes] = set()
        self._segments: list[tuple[str, int, int]] = []  # name, number of its first pack, packs
        self._by_pack: tuple[SortedRun, int] | None = None

    def load(
        self, segments: Iterable[Segment], *, without: frozenset[str] = frozenset()
    ) -> "BlobIndex":
        """Everything that the segments name, but for the packs that are not to be relied on."""
        condemned = frozenset(bytes.fromhex(n) for n in without)
        pile = Pile(_WIDTH, _KEY)
        with self._lock:
            for one in segments:
                kept = one if not condemned else _without(one, condemned)
                first = self._packs.extend(kept.names, kept.sizes)
                self._segments.append((kept.name, first, len(kept.names)))
                rows = kept.rows.copy()
                fields = rows.view(ROW).reshape(-1)
                fields["pack"] += np.uint32(first)
                pile.add(rows)
            numbers = self._packs.settle()

            def renumbered(rows: Rows) -> Rows:
                rows = rows.copy()
                fields = rows.view(ROW).reshape(-1)
                fields["pack"] = numbers[fields["pack"]]
                return rows

            # A pack may be named by several segments: then it has the number of its first.
            same = bool((numbers == np.arange(len(numbers))).all())
            self._runs = (*self._runs, pile.settle(None if same else renumbered))
        return self

    def add(self, name: str, size_bytes: int, entries: Iterable[Entry]) -> None:
        with self._lock:
            number = self._packs.add(bytes.fromhex(name), size_bytes)
            for e in entries:
                self._fresh[e.id] = self._fresh.get(e.id, b"") + _row(e, number)
                self._fresh_rows += 1
                self._claimed.discard(e.id)
            self._by_pack = None
            if self._fresh_rows >= FRESH_MAX:
                self._spill()

    def claim(self, id: bytes) -> bool:  # noqa: A002
        """Whether the caller is the first who wants to pack this blob: nobody has, and nobody does.

        A claim ends when the pack that holds the blob is added, so their number is bounded by the
        packs that are open.
        """
        with self._lock:
            if id in self._claimed or self._rows(id):
                return False
            self._claimed.add(id)
            return True

    def locations(self, id: bytes) -> list[Place]:  # noqa: A002
        """Where the blob is; more than one when two writers packed it at the same time."""
        found: dict[int, Entry] = {}
        for row in _ENTRY.iter_unpack(self._rows(id)):
            found.setdefault(row[1], _entry(row))
        return [Place(*self._packs.name_and_size(n), e) for n, e in sorted(found.items())]

    def first_pack(self, id: bytes) -> tuple[str, int] | None:  # noqa: A002
        """Name and size of the first pack that holds it: what each blob of an unchanged file is asked."""
        rows = self._rows(id)
        numbers = [rows[at + ID_BYTES : at + _KEY] for at in range(0, len(rows), _WIDTH)]
        return self._packs.name_and_size(int.from_bytes(min(numbers))) if numbers else None

    def __contains__(self, id: bytes) -> bool:  # noqa: A002
        return bool(self._rows(id))

    def packs(self) -> Iterator[tuple[str, int]]:
        """Name and size of every pack, in name order."""
        with self._lock:
            numbers = self._packs.in_order()
        for number in numbers:
            yield self._packs.name_and_size(int(number))

    def segments_naming(self, packs: Iterable[str]) -> list[str]:
        """The loaded segments that name one of these packs, sorted."""
        with self._lock:
            wanted = np.zeros(self._packs.total, bool)
            for name in packs:
                if (number := self._packs.number(bytes.fromhex(name))) is not None:
                    wanted[number] = True
            hit = wanted[self._packs.settle()]
            return sorted(name for name, at, count in self._segments if hit[at : at + count].any())

    def entries(self, pack: str) -> set[Entry]:
        with self._lock:
            number = self._packs.number(bytes.fromhex(pack))
            if number is None:
                return set()
            run, step = self._ordered_by_pack()
        return {
            _entry((row[1], 0, *row[2:]))
            for row in _BY_PACK.iter_unpack(run.find((number * step).to_bytes(4)))
        }

    def count(self) -> tuple[int, int]:
        """Packs and blobs."""
        with self._lock:
            return self._packs.count(), self._whole().count

    def liveness(self, ids: IdSet) -> Iterator[Liveness]:
        """Every pack, in name order, with what of it is among `ids`. A blob in two packs counts in both."""
        with self._lock:
            run, numbers = self._whole(), self._packs.in_order()
            total = self._packs.total
        live, live_bytes, blobs = (np.zeros(total, np.int64) for _ in range(3))
        for rows, wanted in _side_by_side(run, ids):
            fields = rows.view(ROW).reshape(-1)
            at = fields["pack"].astype(np.int64)
            blobs += np.bincount(at, minlength=total)
            kept = within(rows, wanted, ID_BYTES)
            live += np.bincount(at[kept], minlength=total)
            # Weights are doubles: exact up to 2⁵³, and a block holds far less.
            weighed = np.bincount(at[kept], weights=fields["stored"][kept], minlength=total)
            live_bytes += weighed.astype(np.int64)
        for number in numbers:
            n = int(number)
            name, size = self._packs.name_and_size(n)
            yield Liveness(name, size, int(live[n]), int(live_bytes[n]), int(blobs[n]))

    def raw_sizes(self, ids: Rows) -> NDArray[np.int64]:
        """Of each id, in any order and as often as it comes, how many bytes it opens to; -1: not known."""
        with self._lock:
            run = self._whole()
        order = order_of(ids, ID_BYTES)
        sought = ids[order]
        found = np.full(len(ids), -1, np.int64)
        bits = cut([run])
        prefixes = sought[:, :2].copy().view(">u2").ravel().astype(np.int64) >> (16 - bits)
        edges = np.searchsorted(prefixes, np.arange((1 << bits) + 1))
        for number in range(1 << bits):
            first, last = int(edges[number]), int(edges[number + 1])
            if first < last:
                rows = run.block(number, bits)
                at = positions(sought[first:last], rows, ID_BYTES)
                if len(rows):
                    raw = rows.view(ROW).reshape(-1)["raw"][at]
                    found[first:last] = np.where(at >= 0, raw, -1)
        out = np.empty_like(found)
        out[order] = found
        return out

    def lacking(self, ids: IdSet) -> Lacking:
        """Which ids are in no pack that the catalogue knows."""
        count, first = 0, list[bytes]()
        with self._lock:
            run = self._whole()
        for rows, wanted in _side_by_side(run, ids):
            gone = wanted[~within(wanted, rows, ID_BYTES)]
            count += len(gone)
            first += [g.tobytes() for g in gone[: _FEW - len(first)]]
        return Lacking(count, tuple(first))

    def close(self) -> None:
        with self._lock:
            self._runs, self._fresh, self._by_pack = (), {}, None

    def _rows(self, id: bytes) -> bytes:  # noqa: A002
        assert len(id) == ID_BYTES
        with self._lock:
            fresh, runs = self._fresh.get(id, b""), self._runs
        found = [r.find(id) for r in runs]
        return found[0] if len(found) == 1 and not fresh else b"".join([*found, fresh])

    def _spill(self) -> None:
        """Runs shrink by half from the oldest on: a lookup asks few, and each row is merged seldom."""
        if not self._fresh:
            return
        rows = rows_of(b"".join(self._fresh.values()), _WIDTH)
        pile = Pile(_WIDTH, _KEY)
        pile.add(rows)
        runs = [*self._runs, pile.settle()]
        while len(runs) > 1 and runs[-1].count * 2 >= runs[-2].count:
            runs[-2:] = [merged(runs[-2:], _WIDTH, _KEY)]
        self._runs = tuple(runs)
        self._fresh, self._fresh_rows = {}, 0

    def _whole(self) -> SortedRun:
        self._spill()
        if len(self._runs) != 1:
            self._runs = (merged(self._runs, _WIDTH, _KEY),)
        return self._runs[0]

    def _ordered_by_pack(self) -> tuple[SortedRun, int]:
        """The same rows, led by their pack. Its numbers are spread, as a run wants its prefixes."""
        if self._by_pack is None:
            run = self._whole()
            step = (2**32 - 1) // max(1, self._packs.total)
            pile = Pile(_WIDTH, _KEY)
            bits = cut([run])
            for number in range(1 << bits):
                rows = run.block(number, bits)
                fields = rows.view(ROW).reshape(-1)
                spread = (fields["pack"].astype(np.uint64) * np.uint64(step)).astype(">u4")
                led = np.empty_like(rows)
                led[:, :4] = spread.reshape(-1, 1).view(np.uint8)
                led[:, 4:_KEY] = rows[:, :ID_BYTES]
                led[:, _KEY:] = rows[:, _KEY:]
                pile.add(led)
            self._by_pack = pile.settle(), step
        return self._by_pack


_BY_PACK = struct.Struct(f">I{ID_BYTES}sBBIIII")


def _side_by_side(run: SortedRun, ids: IdSet) -> Iterator[tuple[Rows, Rows]]:
    other = ids.settle()
    bits = cut([run, other])
    for number in range(1 << bits):
        yield run.block(number, bits), other.block(number, bits)


def _without(one: Segment, condemned: frozenset[bytes]) -> Segment:
    gone = np.array([n.tobytes() in condemned for n in one.names], bool)
    if not gone.any():
        return one
    numbers = np.cumsum(~gone) - 1
    fields = one.rows.view(ROW).reshape(-1)
    rows = one.rows[~gone[fields["pack"]]].copy()
    kept = rows.view(ROW).reshape(-1)
    kept["pack"] = numbers[kept["pack"]]
    return Segment(one.name, one.names[~gone], one.sizes[~gone], rows)
