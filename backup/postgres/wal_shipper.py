"""Ships one vault's share of the spool: what it lacks, sealed, in the order of the WAL.

Segments whose first page names another cluster are never shipped.
"""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from backup.format.wal_segment import (
    HEADER_BYTES,
    PAGE_BYTES,
    SEGMENT_BYTES,
    Item,
    is_history,
    is_segment,
    parse_segment,
    system_of,
)
from backup.wal.archive import Archive
from zaibei.kernel.errors import Damage, ZaibeiError, in_a_line

PARTIAL: Final = ".partial"
Position = tuple[int, int]  # timeline, byte


def grown(path: Path, start: int = 0) -> bytes | None:
    """The written part of a growing segment from `start` on; None when it is gone: finished between two
    looks. Whoever looks twice a second does not read 16 MiB each time.

    The file is zeros to its end, so the part ends at the last byte that is not zero. A record that
    ends in zeros is whole all the same; only the LSN that `status` tells is short by them.
    """
    with suppress(FileNotFoundError), path.open("rb") as f:
        f.seek(start)
        return f.read().rstrip(b"\0")
    return None


def opening(path: Path) -> bytes:
    """The first bytes, which say whose it is; none when it is gone."""
    with suppress(FileNotFoundError), path.open("rb") as f:
        return f.read(HEADER_BYTES)
    return b""


@dataclass(slots=True, eq=False, kw_only=True)
class WalShipper:
    """One vault's progress."""

    archive: Archive
    spool: Path
    epoch_of: Callable[[int], int]
    done: set[str] = field(default_factory=set)  # files the vault holds whole
    parts: dict[str, int] = field(default_factory=dict)  # segment -> increments in the vault
    shipped: dict[str, int] = field(default_factory=dict)  # segment -> bytes, by this process
    position: Position | None = None
    running: Future[None] | None = None
    error: str | None = None
    listed: bool = False

    def items(self) -> list[Item]:
        """What the vault holds, as far as this process knows; no call to the store."""
        whole = [parse_segment(n) for n in list(self.done) if is_segment(n)]
        growing = [parse_segment(n) for n in list(self.parts)]
        return [Item(key="", epoch=t, timeline=t, segment=s) for t, s in whole] + [
            Item(key="", epoch=t, timeline=t, segment=s, part=1) for t, s in growing
        ]

    def ship(self, retain_until: datetime | None) -> None:
        """One round. What went wrong is in `error`; the next round tries again."""
        try:
            if not self.listed:
                self._learn()
            self._finished(retain_until)
            self._growing(retain_until)
            self.error = None
        except (ZaibeiError, OSError) as bad:
            self.error = in_a_line(bad)

    def _learn(self) -> None:
        for i in self.archive.items():
            if i.part is None:
                self.done.add(i.file_name)
            else:
                self.parts[i.file_name] = max(self.parts.get(i.file_name, 0), i.part)
        self.listed = True

    def _finished(self, retain_until: datetime | None) -> None:
        for path in sorted(self.spool.iterdir()):
            name = path.name
            if is_segment(name):
                timeline, segment = parse_segment(name)
            elif is_history(name):
                timeline, segment = int(name[:8], 16), None
            else:
                continue
            if name not in self.done:
                data = path.read_bytes()
                if segment is not None and len(data) != SEGMENT_BYTES:
                    continue  # torn: it is put aside before the receiver starts again
                if segment is not None and not self._ours(data, path):
                    raise Damage(f"{path}: not the beginning of a WAL segment")
                self.archive.put(
                    data,
                    epoch=self.epoch_of(timeline),
                    timeline=timeline,
                    segment=segment,
                    retain_until=retain_until,
                )
                self.done.add(name)
            if segment is not None:
                self.parts.pop(name, None)
                self._reach((timeline, (segment + 1) * SEGMENT_BYTES))

    def _growing(self, retain_until: datetime | None) -> None:
        for path in sorted(self.spool.glob(f"*{PARTIAL}")):
            name = path.name.removesuffix(PARTIAL)
            if not is_segment(name) or name in self.done or not self._ours(opening(path), path):
                continue
            shipped = self.shipped.get(name, 0)
            start = shipped - shipped % PAGE_BYTES
            data = grown(path, start)
            if data is None:
                continue
            timeline, segment = parse_segment(name)
            if start + len(data) > shipped:
                part = self.parts.get(name, 0) + 1
                self.archive.put(
                    data,
                    epoch=self.epoch_of(timeline),
                    timeline=timeline,
                    segment=segment,
                    part=part,
                    offset=start,
                    retain_until=retain_until,
                )
                self.parts[name] = part
                shipped = self.shipped[name] = start + len(data)
            self._reach((timeline, segment * SEGMENT_BYTES + shipped))

    def _ours(self, data: bytes, path: Path) -> bool:
        """False: too short to tell. The last guard, by what the segment says of itself: a server may change
        between the question and the stream. Raises Damage for another system's."""
        system = system_of(data)
        if system not in (None, self.archive.system):
            raise Damage(
                f"{path}: a segment of system {system}, not of {self.archive.system}; it is not shipped",
                hint="stop the archiver and move the file away: two clusters were mixed in the spool",
            )
        return system is not None

    def _reach(self, position: Position) -> None:
        if self.position is None or self.position < position:
            self.position = position
