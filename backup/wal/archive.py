"""The archive of PostgreSQL's WAL in a vault: finished segments, timeline histories, and the
growing end.

    wal/system=<id>/epoch=1/timeline=00000001/000000010000000000000003              a finished segment
    wal/system=<id>/epoch=1/timeline=00000001/000000010000000000000004.part/000001  an increment
    wal/system=<id>/epoch=2/timeline=00000002/00000002.history

The system identifier is in every name: a new cluster counts timelines and segments from one again,
and its WAL mixed with another's would be neither's.

An increment holds the bytes since the one before, from the start of the last page; they are laid
over each other in order. So a quiet database costs nothing and a busy one costs what it writes. A
finished segment makes its increments superfluous. Two writers of one name with different bytes are
Damage: that is how a second primary is seen here.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from backup.crypto.seal import Kind, seal_whole
from backup.format import blob
from backup.format.wal_segment import (
    _PAYLOAD,
    PREFIX,
    SEGMENT_BYTES,
    Item,
    _parsed,
    _payload,
    parse_segment,
    segment_name,
)
from backup.repository import resealed
from backup.repository.repository import Repository
from backup.repository.resealed import Found
from backup.repository.vault import retry
from infra.objectstore.contract import AlreadyThere
from zaibei.kernel.errors import Damage


def systems(repo: Repository) -> list[int]:
    """The clusters whose WAL is there."""
    return sorted({int(_parsed(stat.key)["system"]) for stat in repo.named(PREFIX)})


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
