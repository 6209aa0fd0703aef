"""Decides where a stream of bytes is cut into blobs.

PostgreSQL relations in fixed blocks of whole pages, so that a changed page changes one block; files
by their content, so that a byte inserted at the front moves one cut and not all.

The seed makes the cuts of two repositories differ. It is no defence against an attacker who sees
the sizes of single blobs: keyed rolling hashes have been broken from those. Nobody without the keys
sees them: blobs lie in packs in random order, the list of their lengths is sealed, and a pack's own
size is padded.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, Protocol

from backup.format.blob import BLOB_BYTES_MAX

if TYPE_CHECKING:
    from pyfastcdc import FastCDC


PAGE_BYTES: Final = 8192  # of PostgreSQL


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Cutter(Protocol):
    def cut(self, source: Source) -> Iterator[bytes]:
        """Pieces in order, none empty, none above BLOB_BYTES_MAX; together exactly the source."""


@dataclass(frozen=True, slots=True)
class Blocks:
    size_bytes: int

    def __post_init__(self) -> None:
        assert 0 < self.size_bytes <= BLOB_BYTES_MAX
        assert self.size_bytes % PAGE_BYTES == 0, "a block holds whole pages"

    def cut(self, source: Source) -> Iterator[bytes]:
        while piece := _full(source, self.size_bytes):
            yield piece


@dataclass(frozen=True, slots=True)
class Content:
    """FastCDC. Bytes that are the same in two streams are cut the same, but for a piece at each end."""

    seed: int
    least: int = 256 << 10
    average: int = 512 << 10
    most: int = 4 << 20

    def __post_init__(self) -> None:
        assert 0 < self.least <= self.average <= self.most <= BLOB_BYTES_MAX
        assert 0 <= self.seed < 2**63, "the cutter shifts it left by one, in 64 bits"

    def cut(self, source: Source) -> Iterator[bytes]:
        # Most files are small: they are one piece, and no window is set up for them.
        held = _full(source, self.least)
        if len(held) < self.least:
            if held:
                yield held
            return
        cutter = _fastcdc(self.seed, self.least, self.average, self.most)
        with _window(2 * self.most) as window:
            window[: len(held)] = held
            have = len(held)
            while True:
                more = _fill(source, window[have : have + self.most])
                have += more
                begin = 0
                for chunk in cutter.cut_buf(window[:have]):
                    end = chunk.offset + chunk.length
                    if end < have or more < self.most:
                        yield bytes(window[begin:end])
                        begin = end
                if more < self.most:
                    return
                # The last cut was made by the end of the window, not by the content.
                window[: have - begin] = window[begin:have]
                have -= begin


RELATION: Final = Blocks(256 << 10)
OTHER: Final = Blocks(1 << 20)
_IS_RELATION = re.compile(
    r"(?:base/\d+|global|pg_tblspc/\d+/[^/]+/\d+)/t?\d+(?:_[a-z]+)?(?:\.\d+)?"
)


@cache
def _fastcdc(seed: int, least: int, average: int, most: int) -> "FastCDC":
    # Imported when a file is large enough to be cut: a run that finds nothing changed does without.
    from pyfastcdc import FastCDC  # noqa: PLC0415

    return FastCDC(average, min_size=least, max_size=most, seed=seed)


def for_database(path: str) -> Cutter:
    """`base/5/16384.1` in blocks of pages, anything else as files are."""
    return RELATION if _IS_RELATION.fullmatch(path) else OTHER


_spare: list[bytearray] = []


@contextmanager
def _window(size: int) -> Iterator[memoryview]:
    """Room for what is read, the last one's if it is free: new room is new pages, and joining what is left over with
    what is read copied every byte once more, under the interpreter's lock."""
    room = _spare.pop() if _spare and len(_spare[-1]) == size else bytearray(size)
    try:
        yield memoryview(room)
    finally:
        _spare[:] = [room]


def _fill(source: Source, room: memoryview) -> int:
    """How much of it could be filled before the source ended."""
    into: Callable[[memoryview], int | None] | None = getattr(source, "readinto", None)
    have = 0
    while have < len(room):
        if into is not None:
            got = into(room[have:]) or 0
        else:
            some = source.read(len(room) - have)
            got = len(some)
            room[have : have + got] = some
        if not got:
            break
        have += got
    return have


def _full(source: Source, size: int) -> bytes:
    """`size` bytes, or what is left. Pipes and sockets give less than they are asked for."""
    first = source.read(size)
    if not first or len(first) == size:
        return first
    parts, have = [first], len(first)
    while have < size and (more := source.read(size - have)):
        parts.append(more)
        have += len(more)
    return b"".join(parts)
