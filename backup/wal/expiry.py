"""Decides which WAL no restore can need. Pure; where a fact is missing, everything stays.

That is WAL older than the oldest base backup that is kept, and increments of segments that are
there whole. A cluster that was taken back in time writes low numbers again, so a low number alone
is not old: the object must also have been there before that oldest backup was.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from backup.format import point
from backup.format.snapshot import Snapshot
from backup.format.wal_segment import SEGMENT_BYTES, Item, lsn
from zaibei.kernel.errors import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base backup that is kept: the first segment that it needs, and when the store took it in."""

    segment: int
    modified: datetime


def bases(
    snapshots: Iterable[Snapshot], modified: Mapping[str, datetime], *, system: int
) -> list[Base] | None:
    """None: one of them, or a point whose base is lost, does not say what it needs, and then nobody knows what
    is superfluous."""
    out = []
    there = list(snapshots)
    for one in there:
        mine = str(one.content.facts.get("system_identifier")) == str(system)
        if one.content.kind == point.KIND and mine and point.lacks_base(one, there):
            return None
        if one.content.kind != "postgres":
            continue
        facts = one.content.facts
        if str(facts.get("system_identifier")) != str(system):
            if "system_identifier" not in facts:
                return None
            continue
        try:
            out.append(
                Base(
                    segment=lsn(str(facts["start_lsn"])) // SEGMENT_BYTES,
                    modified=modified[one.key],
                )
            )
        except (KeyError, Usage):
            return None
    return out


def superfluous(
    items: Iterable[Item],
    modified: Mapping[str, datetime],
    kept: Iterable[Base] | None,
    *,
    now: datetime,
    grace: timedelta,
) -> list[str]:
    """Keys. Histories stay: they are small, and every way through the timelines is read from them."""
    every = [i for i in items if i.segment is not None and i.key in modified]
    bound = list(kept or ())
    whole = {
        (i.epoch, i.timeline, i.segment)
        for i in every
        if i.part is None and now - modified[i.key] >= grace
    }
    out = []
    for i in every:
        assert i.segment is not None
        replaced = i.part is not None and (i.epoch, i.timeline, i.segment) in whole
        old = (
            bool(bound)
            and i.segment < min(b.segment for b in bound)
            and modified[i.key] < min(b.modified for b in bound)
            and now - modified[i.key] >= grace
        )
        if replaced or old:
            out.append(i.key)
    return out
