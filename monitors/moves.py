"""Remember where the writer was, so that a takeover is seen after it is over.

The record outlives the exporter: one that is restarted in the outage still sees that the writer moved.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from monitors.metrics import Sample, sample
from monitors.probes.postgres import Member
from zaibei.kernel.errors import Damage
from zaibei.kernel.state import write_atomic

_MAX_BYTES = 1 << 16
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Who writes, and the last move. Times are RFC 3339."""

    site: str
    timeline: int
    moves: int = 0
    previous: str | None = None  # whence it came with the last move
    moved_at: str | None = None


def seen(before: Seat | None, members: Mapping[str, Member], *, now: datetime) -> Seat | None:
    """Pure. Without a writer that answers nothing is known to have moved.

    Of two writers the younger timeline counts. The same site on an older timeline is another cluster, not a move.
    """
    writers = [(m.timeline, site) for site, m in members.items() if not m.in_recovery]
    if not writers:
        return before
    timeline, site = max(writers)
    if before is None:
        return Seat(site=site, timeline=timeline)
    if site == before.site and timeline <= before.timeline:
        return replace(before, timeline=timeline)
    return Seat(
        site=site,
        timeline=timeline,
        moves=before.moves + 1,
        previous=before.site,
        moved_at=now.isoformat(),
    )


def note(file: Path, members: Mapping[str, Member], *, now: datetime) -> Seat | None:
    """`seen`, with what the file remembers. A record that cannot be read or written is begun again."""
    try:
        before = _read(file)
    except (OSError, ValueError, TypeError, Damage):
        before = None
    after = seen(before, members, now=now)
    if after is not None and after != before:
        try:
            write_atomic(file, json.dumps({"format": _FORMAT} | asdict(after), indent=2))
        except OSError:
            return after  # the state's disk has its own alert
    return after


def samples(seat: Seat | None, *, sites: tuple[str, ...], now: datetime) -> Iterator[Sample]:
    if seat is None:
        return
    yield sample("zaibei_writer_moves", seat.moves)
    if seat.moved_at is None or seat.previous not in sites or seat.site not in sites:
        return
    age = now - datetime.fromisoformat(seat.moved_at)
    yield sample(
        "zaibei_writer_moved_age_seconds", max(0.0, age.total_seconds()), seat.previous, seat.site
    )


def _read(file: Path) -> Seat | None:
    try:
        with file.open("rb") as opened:
            raw = json.loads(opened.read(_MAX_BYTES))
    except FileNotFoundError:
        return None
    if not isinstance(raw, dict) or raw.pop("format", None) != _FORMAT:
        raise Damage(f"{file}: not a record of the writer")
    read = Seat(**raw)
    if read.moved_at is not None and datetime.fromisoformat(read.moved_at).tzinfo is None:
        raise Damage(f"{file}: a time without a zone")
    if (
        not isinstance(read.site, str)
        or type(read.timeline) is not int
        or type(read.moves) is not int
    ):
        raise Damage(f"{file}: not a record of the writer")
    return read
