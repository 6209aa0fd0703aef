"""Names and headers of WAL segments: timeline, LSN, gaps between them. Pure."""

import re
import struct
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from backup.format import blob, layout
from backup.format.pack import padme
from zaibei.kernel.errors import Damage, Usage

PREFIX: Final = "wal/"
SEGMENT_BYTES: Final = 16 << 20
PAGE_BYTES: Final = 8192
_PER_LOG: Final = (1 << 32) // SEGMENT_BYTES
_PAYLOAD = struct.Struct(">BIII")  # encoding, offset, raw, stored
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")
_HISTORY = re.compile(r"[0-9A-F]{8}\.history")
_HEADER = struct.Struct("<HHIQI4xQII")  # XLogLongPageHeaderData: magic, info, …, system, sizes
_LONG_HEADER = 0x0002
HEADER_BYTES: Final = _HEADER.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One object of the archive. `segment` None: a timeline history."""

    key: str
    epoch: int
    timeline: int
    segment: int | None
    part: int | None = None

    @property
    def file_name(self) -> str:
        """What PostgreSQL calls it."""
        if self.segment is None:
            return f"{self.timeline:08X}.history"
        return segment_name(self.timeline, self.segment)


def segment_name(timeline: int, segment: int) -> str:
    return f"{timeline:08X}{segment // _PER_LOG:08X}{segment % _PER_LOG:08X}"


def parse_segment(name: str) -> tuple[int, int]:
    """Timeline and number."""
    if _SEGMENT.fullmatch(name) is None or int(name[16:], 16) >= _PER_LOG:
        raise Usage(
            f"{name}: not a segment of {SEGMENT_BYTES >> 20} MiB",
            hint="other values of wal_segment_size are not archived",
        )
    return int(name[:8], 16), int(name[8:16], 16) * _PER_LOG + int(name[16:], 16)


def is_segment(name: str) -> bool:
    return _SEGMENT.fullmatch(name) is not None


def is_history(name: str) -> bool:
    return _HISTORY.fullmatch(name) is not None


def system_of(segment: bytes) -> int | None:
    """The cluster that wrote it: PostgreSQL says so in the first page of every segment. None: too short
    to tell."""
    if len(segment) < _HEADER.size:
        return None
    _, info, _, _, _, system, segment_bytes, page_bytes = _HEADER.unpack_from(segment)
    if not info & _LONG_HEADER or (segment_bytes, page_bytes) != (SEGMENT_BYTES, PAGE_BYTES):
        raise Damage("not the beginning of a WAL segment")
    return int(system)


def lsn(text: str) -> int:
    """`0/3000028` as a number."""
    if _LSN.fullmatch(text) is None:
        raise Usage(f"not an LSN: {text!r}", hint="written as 0/3000028")
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def say_lsn(value: int) -> str:
    return f"{value >> 32:X}/{value & 0xFFFFFFFF:X}"


def gaps(items: Iterable[Item]) -> list[str]:
    """What recovery would miss, one line each. Pure: names only.

    Only the last segment of a timeline may be there as increments; a timeline must begin where the one
    before it had got to.
    """
    whole: dict[int, set[int]] = defaultdict(set)
    parts: dict[int, set[int]] = defaultdict(set)
    for i in items:
        if i.segment is not None:
            (whole if i.part is None else parts)[i.timeline].add(i.segment)
    out: list[str] = []
    reached: int | None = None
    for timeline in sorted(whole.keys() | parts.keys()):
        have = whole[timeline] | parts[timeline]
        first, last = min(have), max(have)
        if reached is not None and first > reached + 1:
            out.append(_missing(timeline, reached + 1, first - 1))
        # Counted by neighbours: a hole may be long, the list is as long as the archive.
        before = first - 1
        for segment in sorted(have):
            if segment > before + 1:
                out.append(_missing(timeline, before + 1, segment - 1))
            elif segment not in whole[timeline] and segment != last:
                out.append(f"wal: only a part of {segment_name(timeline, segment)}")
            before = segment
        reached = last if reached is None else max(reached, last)
    return out


def missing(items: Iterable[Item], *, timeline: int, start: int, stop: int) -> list[str]:
    """Segments between two LSNs of one timeline that are not there, not even as increments."""
    have = {i.segment for i in items if i.timeline == timeline}
    first, last = start // SEGMENT_BYTES, max(start, stop - 1) // SEGMENT_BYTES
    return [segment_name(timeline, s) for s in range(first, last + 1) if s not in have]


def _parsed(key: str) -> re.Match[str]:
    found = layout.WAL.fullmatch(key)
    assert found is not None, "no other name is listed"
    return found


def _payload(data: bytes, offset: int) -> bytes:
    encoding, body = blob.encode(data, bound=SEGMENT_BYTES)
    bare = _PAYLOAD.pack(encoding, offset, len(data), len(body)) + body
    return bare + bytes(padme(len(bare)) - len(bare))


def _missing(timeline: int, first: int, last: int) -> str:
    one = segment_name(timeline, first)
    return f"wal: {one} is missing" + (
        "" if first == last else f", and up to {segment_name(timeline, last)}"
    )
