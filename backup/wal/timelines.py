"""Chooses the WAL that a recovery reads: from a backup to the newest timeline, up to the first
hole. Pure.

A segment in which a timeline begins is read from the new timeline. Where that copy is missing the
old one serves up to the fork, and no further: what the old writer wrote after it belongs to no
history.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from backup.format.wal_segment import SEGMENT_BYTES, Item, lsn, segment_name
from zaibei.kernel.errors import Damage, Usage

History = tuple[tuple[int, int], ...]  # each timeline before, and the LSN where it was left
Place = tuple[int, int]  # timeline, segment
_COMMENT: Final = "#"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`hole`: why recovery cannot go on to the end of what the archive holds; None when it can."""

    timeline: int
    lineage: tuple[int, ...]
    places: tuple[Place, ...]
    cuts: Mapping[Place, int]  # zeros from this byte on
    hole: str | None

    @property
    def reached(self) -> int:
        """The last segment on the way; -1: there is none."""
        return self.places[-1][1] if self.places else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leg:
    timeline: int
    begin: int  # LSN
    stop: int | None  # LSN of the fork; None: the last leg


def parse_history(data: bytes) -> History:
    """PostgreSQL's own format: `timeline TAB lsn TAB why` a line."""
    out = []
    for line in data.decode(errors="replace").splitlines():
        text = line.strip()
        if not text or text.startswith(_COMMENT):
            continue
        try:
            timeline, at, *_ = text.split(maxsplit=2)
            out.append((int(timeline), lsn(at)))
        except (ValueError, Usage) as bad:
            raise Damage(f"not a line of a timeline history: {text!r}") from bad
    return tuple(out)


def route(
    items: Iterable[Item],
    histories: Mapping[int, History],
    *,
    from_timeline: int,
    from_segment: int,
    towards: int | None = None,
    beside: Iterable[Place] = (),
) -> Route:
    """`beside`: segments that the backup itself brings. `towards`: the timeline to end on; None: the newest.
    Raises Usage when no history leads there from the backup."""
    whole: set[Place] = set(beside)
    parts: set[Place] = set()
    for i in items:
        if i.segment is not None:
            (whole if i.part is None else parts).add((i.timeline, i.segment))
    timeline, legs = _newest(histories, from_timeline, from_segment, towards)
    holes = [
        f"wal: timeline {t} is there and no history leads to it from timeline {from_timeline}"
        for t in sorted({t for t, _ in whole | parts} | histories.keys())
        if t > timeline and towards is None
    ]
    places: list[Place] = []
    cuts: dict[Place, int] = {}
    for n, leg in enumerate(legs):
        first = max(leg.begin // SEGMENT_BYTES, from_segment)
        if leg.stop is None:
            end = max((s for t, s in whole | parts if t == leg.timeline and s >= first), default=-1)
        else:
            end = leg.stop // SEGMENT_BYTES - 1
        # A timeline of which nothing was archived yet: the way ends at the fork, and that is no hole.
        broken = first if leg.stop is None and end < 0 else None
        for segment in range(first, end + 1):
            here = (leg.timeline, segment)
            if here in whole or here in parts:
                places.append(here)
            # A part is enough only at the very end.
            if here not in whole and (segment < end or leg.stop is not None):
                holes.insert(0, _said(here, partly=here in parts))
                broken = segment
                break
        if broken is not None:
            _before_the_fork(legs[:n], broken, whole | parts, places, cuts)
            break
    return Route(
        timeline=timeline,
        lineage=tuple(leg.timeline for leg in legs),
        places=tuple(places),
        cuts=cuts,
        hole="; ".join(holes) or None,
    )


def _newest(
    histories: Mapping[int, History], from_timeline: int, from_segment: int, towards: int | None
) -> tuple[int, list[_Leg]]:
    """The newest timeline that descends from where the backup began, or the wanted one, and the way to it."""
    for timeline in sorted((t for t in histories if t > from_timeline), reverse=True):
        if towards not in (None, timeline):
            continue
        legs = _legs(timeline, histories[timeline])
        for n, leg in enumerate(legs):
            if leg.timeline == from_timeline and leg.stop is not None:
                if leg.stop // SEGMENT_BYTES >= from_segment:
                    return timeline, legs[n:]
                break
    if towards not in (None, from_timeline):
        raise Usage(
            f"no history leads from timeline {from_timeline}, where the backup began, to {towards}",
            hint="choose a timeline that descends from the backup, or another backup",
        )
    return from_timeline, [_Leg(timeline=from_timeline, begin=0, stop=None)]


def _legs(timeline: int, history: History) -> list[_Leg]:
    out, begin = [], 0
    for before, left in history:
        out.append(_Leg(timeline=before, begin=begin, stop=left))
        begin = left
    return [*out, _Leg(timeline=timeline, begin=begin, stop=None)]


def _before_the_fork(
    passed: list[_Leg], segment: int, there: set[Place], places: list[Place], cuts: dict[Place, int]
) -> None:
    """The new timeline's copy of the forked segment is not there: the old one, up to the fork."""
    for leg in reversed(passed):
        here = (leg.timeline, segment)
        if leg.stop is None or leg.stop // SEGMENT_BYTES != segment:
            return
        if here in there and here not in places:
            places.append(here)
            cuts[here] = leg.stop % SEGMENT_BYTES
            return


def _said(place: Place, *, partly: bool) -> str:
    name = segment_name(*place)
    return f"wal: only a part of {name}" if partly else f"wal: {name} is missing"
