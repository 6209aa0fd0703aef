"""Where a stream of bytes is cut. Fixed blocks now: page-aligned for PostgreSQL, so that a changed page
changes one block. A content-defined cutter joins by keeping the protocol."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from backup.blob import BLOB_BYTES_MAX

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


RELATION: Final = Blocks(256 << 10)
OTHER: Final = Blocks(1 << 20)
_IS_RELATION = re.compile(
    r"(?:base/\d+|global|pg_tblspc/\d+/[^/]+/\d+)/t?\d+(?:_[a-z]+)?(?:\.\d+)?"
)


def for_database(path: str) -> Cutter:
    """`base/5/16384.1` in blocks of pages, anything else as files are."""
    return RELATION if _IS_RELATION.fullmatch(path) else OTHER


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
