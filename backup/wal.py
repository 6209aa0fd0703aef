"""The archive of PostgreSQL's log in a vault: finished segments, timeline histories, and the growing end.

    wal/system=<id>/epoch=1/timeline=00000001/000000010000000000000003              a finished segment
    wal/system=<id>/epoch=1/timeline=00000001/000000010000000000000004.part/000001  an increment
    wal/system=<id>/epoch=2/timeline=00000002/00000002.history

The system identifier is in every name: a cluster made anew counts timelines and segments from one again, and
its log in the place of another's would be a log of neither.

An increment holds the bytes since the one before, from the start of the last page; they are laid over each
other in order. So a quiet database costs nothing and a busy one costs what it writes. A finished segment
makes its increments superfluous. Two writers of one name with different bytes is Damage: that is how a
second primary is seen here.
"""

import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from backup import blob, names, resealed
from backup.pack import padme
from backup.repository import Repository, retry
from backup.resealed import Found
from backup.seal import Kind, seal_whole
from infra.objectstore.contract import AlreadyThere
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


def systems(repo: Repository) -> list[int]:
    """The clusters whose WAL is there."""
    return sorted({int(_parsed(stat.key)["system"]) for stat in repo.named(PREFIX)})


def _parsed(key: str) -> re.Match[str]:
    found = names.WAL.fullmatch(key)
    assert found is not None, "no other name is listed"
    return found


@dataclass(frozen=True, slots=True)
class Archive:
    """One cluster's log. `system`: its identifier, as in pg_control."""

    repository: Repository
    system: int

    @property
    def prefix(self) -> str:
        return f"{PREFIX}system={self.system}/"

    def items(self) -> list[Item]:
        """In name order."""
        out = []
        for stat in self.repository.named(self.prefix):
            found = _parsed(stat.key)
            timeline = int(found["timeline"], 16)
            out.append(
                Item(
                    key=stat.key,
                    epoch=int(found["epoch"]),
                    timeline=timeline,
                    segment=parse_segment(found["segment"])[1] if found["segment"] else None,
                    part=int(found["part"]) if found["part"] else None,
                )
            )
        return out

    def put(
        self,
        data: bytes,
        *,
        epoch: int,
        timeline: int,
        segment: int | None,
        part: int | None = None,
        offset: int = 0,
        retain_until: datetime | None = None,
    ) -> Item:
        """Safe to repeat. Raises Damage when the name holds other bytes."""
        base = f"{self.prefix}epoch={epoch}/timeline={timeline:08X}/"
        if segment is None:
            key = f"{base}{timeline:08X}.history"
        else:
            key = base + segment_name(timeline, segment)
            key += "" if part is None else f".part/{part:06d}"
        item = Item(key=key, epoch=epoch, timeline=timeline, segment=segment, part=part)
        repo = self.repository
        sealed = seal_whole(repo.keys, Kind.WAL, key, _payload(data, offset))
        try:
            retry(repo.clock, lambda: repo.store.create(key, sealed, retain_until=retain_until))
        except AlreadyThere as taken:
            if self.read(item) != (offset, data):
                raise Damage(
                    f"{repo.name}: {key} is there with other bytes",
                    hint="two writers of one timeline: find the second primary, fence it",
                ) from taken
        return item

    def read(self, item: Item) -> tuple[int, bytes]:
        """Offset in its segment, and bytes."""
        return self._payload_of(item, self.repository.opened(Kind.WAL, item.key))

    def look(self, item: Item) -> Found[bytes]:
        """`open`, and what was passed over for it."""
        found = resealed.opened(self.repository, Kind.WAL, item.key)
        return Found(self._payload_of(item, found.value)[1], found.key, found.passed)

    def _payload_of(self, item: Item, plain: bytes) -> tuple[int, bytes]:
        try:
            encoding, offset, raw, stored = _PAYLOAD.unpack_from(plain)
        except struct.error as bad:
            raise Damage(f"{item.key}: {bad}") from bad
        body = plain[_PAYLOAD.size : _PAYLOAD.size + stored]
        data = blob.decode(encoding, body, raw_bytes=raw, bound=SEGMENT_BYTES)
        if offset + raw > SEGMENT_BYTES:
            raise Damage(f"{item.key}: more than a segment")
        return offset, data

    def open(self, item: Item) -> bytes:
        return self.read(item)[1]

    def histories(self, items: Iterable[Item]) -> dict[int, bytes]:
        """By timeline."""
        return {i.timeline: self.open(i) for i in items if i.segment is None}

    def assemble(self, parts: Sequence[Item]) -> bytes:
        """A segment from its increments; what was not written yet is zeros, where recovery ends."""
        out = bytearray(SEGMENT_BYTES)
        for item in sorted(parts, key=lambda i: i.part or 0):
            offset, data = self.read(item)
            out[offset : offset + len(data)] = data
        return bytes(out)


def _payload(data: bytes, offset: int) -> bytes:
    encoding, body = blob.encode(data, bound=SEGMENT_BYTES)
    bare = _PAYLOAD.pack(encoding, offset, len(data), len(body)) + body
    return bare + bytes(padme(len(bare)) - len(bare))


def _missing(timeline: int, first: int, last: int) -> str:
    one = segment_name(timeline, first)
    return f"wal: {one} is missing" + (
        "" if first == last else f", and up to {segment_name(timeline, last)}"
    )
