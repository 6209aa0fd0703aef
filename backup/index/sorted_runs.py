"""Sorted rows of one width, kept outside memory: what an index of ten million chunks stands on.

A run is a private file without a name (it goes with the process): its rows in order, and a table of
where each prefix begins. A lookup is one pread, or none in a small run. Runs are merged prefix by
prefix, so memory is bounded by a block whatever they hold. Prefixes are assumed to be spread
evenly: ids are keyed MACs, and nobody outside can skew them.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from zaibei.kernel.errors import NoSpace, ZaibeiError

Rows = NDArray[np.uint8]  # (count, width)
Numbers = NDArray[np.uint64]

BUFFER_BYTES: Final = 32 << 20  # rows waiting to be sorted
BLOCK_BYTES: Final = 4 << 20  # of a merge, of a scan
# A run as small as this is read once and kept: a pread for each lookup lets go of the interpreter's lock, and
# a restore of 9,000 files waited 10,000 times to have it back.
_KEPT_BYTES: Final = 4 << 20
_AT_A_LOOKUP: Final = 32  # rows that one pread brings, on average
_BITS_MIN: Final = 12  # every run can be cut into so many blocks
_BITS_MAX: Final = 22  # and its table takes at most 16 MiB
_LEAD_BYTES: Final = 8
_NO_SPACE = (28, 122)  # ENOSPC, EDQUOT


def rows_of(raw: bytes | bytearray, width: int) -> Rows:
    return np.frombuffer(raw, np.uint8).reshape(-1, width)


def none(width: int) -> Rows:
    return np.empty((0, width), np.uint8)


def order_of(rows: Rows, key: int) -> NDArray[np.int64]:
    """The order by the first `key` bytes; equal ones stay as they came."""
    lead = _lead(rows)
    order = np.argsort(lead)
    lead = lead[order]
    same = lead[1:] == lead[:-1]
    if same.any():
        # Eight bytes decide nearly always; only where they do not the whole key is compared.
        touched = np.zeros(len(rows), bool)
        touched[1:] |= same
        touched[:-1] |= same
        at = np.flatnonzero(touched)
        among = order[at]
        part = rows[among]
        order[at] = among[np.lexsort((among, *reversed(list(_columns(part, key)))))]
    return order


def repeats(rows: Rows, key: int) -> NDArray[np.bool_]:
    """Of sorted rows: which have the key of the one before."""
    out = np.zeros(len(rows), bool)
    if len(rows) > 1:
        lead = _lead(rows)
        at = np.flatnonzero(lead[1:] == lead[:-1])
        out[at + 1] = (rows[at, :key] == rows[at + 1, :key]).all(axis=1)
    return out


def sorted_unique(rows: Rows, key: int) -> Rows:
    """By the first `key` bytes; of equal ones the first that came."""
    rows = rows[order_of(rows, key)]
    again = repeats(rows, key)
    return rows[~again] if again.any() else rows


def within(rows: Rows, ids: Rows, key: int) -> NDArray[np.bool_]:
    """Which of the rows begin with one of the ids. Both sorted by it, the ids unique."""
    if not len(rows) or not len(ids):
        return np.zeros(len(rows), bool)
    return _at(rows, ids, key) >= 0


def positions(rows: Rows, ids: Rows, key: int) -> NDArray[np.int64]:
    """For each row the place of its key among the sorted ids (the first of equal ones); -1 where it is not."""
    if not len(rows) or not len(ids):
        return np.full(len(rows), -1, np.int64)
    return _at(rows, ids, key)


class SortedRun:
    """Sorted rows in a file of their own. Immutable, so any number of threads may look."""

    __slots__ = ("_bits", "_file", "_kept", "_table", "count", "width")

    def __init__(self, blocks: Iterable[Rows], width: int, *, expected: int) -> None:
        """`blocks` in order, each sorted, no key in two of them."""
        self.width = width
        self._bits = min(_BITS_MAX, max(_BITS_MIN, (expected // _AT_A_LOOKUP).bit_length()))
        self._file = _private()
        counts = np.zeros(1 << self._bits, np.int64)
        for rows in blocks:
            if len(rows):
                prefixes = (_lead(rows) >> np.uint64(64 - self._bits)).astype(np.int64)
                first, last = int(prefixes[0]), int(prefixes[-1])
                counts[first : last + 1] += np.bincount(
                    prefixes - first, minlength=last - first + 1
                )
                _write(self._file, np.ascontiguousarray(rows))
        table = np.zeros((1 << self._bits) + 1, np.uint32)
        np.cumsum(counts, out=table[1:])
        self._table = table.data  # asked one by one, a memoryview answers sooner than an array
        self.count = self._table[-1]
        self._kept = self._pread(0, self.count) if self.count * width <= _KEPT_BYTES else None

    def find(self, prefix: bytes) -> bytes:
        """All rows that begin with `prefix` (at least 4 bytes), joined."""
        at = int.from_bytes(prefix[:4]) >> (32 - self._bits)
        raw = self._read(self._table[at], self._table[at + 1])
        found = []
        at = raw.find(prefix)
        while at >= 0:
            # Inside a row the same bytes mean something else.
            if at % self.width == 0:
                found.append(raw[at : at + self.width])
            at = raw.find(prefix, at + 1)
        return b"".join(found)

    def block(self, number: int, bits: int) -> Rows:
        """The rows whose first `bits` bits are `number`."""
        assert bits <= _BITS_MIN, "every run can be cut so fine, and not finer"
        more = self._bits - bits
        raw = self._read(self._table[number << more], self._table[(number + 1) << more])
        return rows_of(raw, self.width)

    def _read(self, first: int, last: int) -> bytes:
        if first == last:
            return b""
        if self._kept is not None:
            return self._kept[first * self.width : last * self.width]
        return self._pread(first, last)

    def _pread(self, first: int, last: int) -> bytes:
        raw = os.pread(self._file.fileno(), (last - first) * self.width, first * self.width)
        assert len(raw) == (last - first) * self.width, "a run is read as it was written"
        return raw


def cut(runs: Sequence[SortedRun]) -> int:
    """Bits to cut these runs by, so that a block of all of them is small."""
    size = sum(r.count * r.width for r in runs)
    return min(_BITS_MIN, (size // BLOCK_BYTES).bit_length())


def merged(
    runs: Sequence[SortedRun], width: int, key: int, change: Callable[[Rows], Rows] | None = None
) -> SortedRun:
    """One run of all; of equal keys the one of the earlier run. `change` must not touch the first 32 bits."""
    bits = cut(runs)

    def blocks() -> Iterator[Rows]:
        for number in range(1 << bits):
            rows = np.concatenate([none(width), *(r.block(number, bits) for r in runs)])
            yield sorted_unique(change(rows) if change else rows, key)

    return SortedRun(blocks(), width, expected=sum(r.count for r in runs))


class Pile:
    """Rows in any order, until somebody asks for the run of all of them. Thread-safe."""

    def __init__(self, width: int, key: int) -> None:
        self._width, self._key = width, key
        self._lock = threading.Lock()
        self._waiting: list[Rows] = []
        self._waiting_bytes = 0
        self._runs: list[SortedRun] = []

    def add(self, rows: Rows) -> None:
        assert rows.shape[1:] == (self._width,)
        with self._lock:
            self._waiting.append(rows)
            self._waiting_bytes += rows.nbytes
            if self._waiting_bytes >= BUFFER_BYTES:
                self._flush()

    def settle(self, change: Callable[[Rows], Rows] | None = None) -> SortedRun:
        with self._lock:
            if self._waiting or not self._runs:
                self._flush()
            if len(self._runs) > 1 or change is not None:
                self._runs = [merged(self._runs, self._width, self._key, change)]
            return self._runs[0]

    def _flush(self) -> None:
        rows = np.concatenate([none(self._width), *self._waiting])
        self._waiting, self._waiting_bytes = [], 0
        self._runs.append(
            SortedRun([sorted_unique(rows, self._key)], self._width, expected=len(rows))
        )


def _lead(rows: Rows) -> Numbers:
    raw = np.ascontiguousarray(rows[:, :_LEAD_BYTES])
    return raw.view(">u8").ravel().astype(np.uint64)


def _columns(rows: Rows, key: int) -> Iterator[NDArray[np.unsignedinteger]]:
    at = 0
    while at < key:
        size = 8 if key - at >= 8 else 4 if key - at >= 4 else 1
        raw = np.ascontiguousarray(rows[:, at : at + size])
        yield raw.view(f">u{size}").ravel().astype(f"u{size}")
        at += size


def _at(rows: Rows, ids: Rows, key: int) -> NDArray[np.int64]:
    leads, wanted = _lead(ids), _lead(rows)
    at = np.searchsorted(leads, wanted)
    near = np.minimum(at, len(ids) - 1)
    out = np.where((ids[near, :key] == rows[:, :key]).all(axis=1), near, -1).astype(np.int64)
    # Two ids with the same first eight bytes: the wanted one may be the second.
    for row in np.flatnonzero((out < 0) & (leads[near] == wanted)):
        this = int(near[row]) + 1
        while this < len(ids) and leads[this] == wanted[row]:
            if (ids[this, :key] == rows[row, :key]).all():
                out[row] = this
                break
            this += 1
    return out


def _private() -> FileIO:
    # As SQLite does: /tmp is memory on many machines, and this is here to save memory.
    place = os.environ.get("TMPDIR") or ("/var/tmp" if Path("/var/tmp").is_dir() else None)
    try:
        made = tempfile.TemporaryFile(buffering=0, dir=place)  # noqa: SIM115 — its run closes it
    except OSError as bad:
        raise ZaibeiError(
            f"no temporary file can be made{f' in {place}' if place else ''}: {bad.strerror}",
            hint="point TMPDIR at a directory on a disk that may be written",
        ) from bad
    assert isinstance(made, FileIO)
    return made


def _write(file: FileIO, rows: Rows) -> None:
    rest = rows.data.cast("B")
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as bad:
        if bad.errno in _NO_SPACE:
            raise NoSpace(
                "no room for the index of the repository beside memory",
                hint="point TMPDIR at a disk with 60 bytes a chunk of the repository",
            ) from bad
        raise
