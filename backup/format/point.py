"""What a consistency point depends on, and therefore what must not be removed before it. Pure.

A point depends on the base backup that recovery starts from, and on the bucket and file snapshots
that it ties to the moment. It names snapshots by number and digest. A copied repository numbers
them differently, and another snapshot may stand in for a lost one, so they are also found by what
they say about themselves.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from backup.format import wal_segment
from backup.format.forget_statement import HEALED, LOST, Forgotten
from backup.format.snapshot import Snapshot
from zaibei.kernel.errors import Damage

KIND: Final = "point"
Named = tuple[int, str]  # number and digest


def named_by(one: Snapshot) -> tuple[Named, ...]:
    """As the point says it; nothing for what is no point."""
    if one.content.kind != KIND:
        return ()
    facts: Mapping[str, Any] = one.content.facts
    told = [facts.get("base"), *facts.get("bound", ())]
    return tuple((int(b["sequence"]), str(b["digest"])) for b in told if b)


def is_copy(one: Snapshot) -> bool:
    return "copied_from" in one.content.facts


def stands_on(snapshots: Iterable[Snapshot]) -> dict[int, frozenset[int]]:
    """For each point the snapshots here that it needs, by number."""
    held = list(snapshots)
    return {
        one.sequence: frozenset(
            s.sequence
            for named in named_by(one)
            for s in standing_for(held, named, copied=is_copy(one))
            if s.content.kind != KIND  # nothing stands on a point
        )
        for one in held
        if one.content.kind == KIND
    }


def standing_for(
    snapshots: Iterable[Snapshot], named: Named, *, copied: bool
) -> tuple[Snapshot, ...]:
    """The one that was named, else every copy of it and what stands for it, oldest first. `copied`: the point
    is a copy, and its numbers are another repository's."""
    sequence, digest = named
    others = []
    for one in snapshots:
        if one.digest == digest:
            return (one,)
        facts: Mapping[str, Any] = one.content.facts
        same = (facts.get("copied_from") or {}).get("digest") == digest
        if same or (not copied and sequence in facts.get("stands_for", ())):
            others.append(one)
    return tuple(others)


def lacks_base(point: Snapshot, kept: Sequence[Snapshot]) -> bool:
    """Whether nobody can say any more what log recovery to the point needs."""
    return any(
        not standing_for(kept, named, copied=is_copy(point)) for named in named_by(point)[:1]
    )


def still_named(snapshots: Iterable[Snapshot], gone: Mapping[int, Forgotten]) -> frozenset[int]:
    """Forgotten, and yet a kept point stands on it: the point was made while the statement was written."""
    return frozenset(
        sequence
        for one in snapshots
        for sequence, digest in named_by(one)
        if (said := gone.get(sequence)) is not None
        and said.link.digest == digest
        and said.why not in (LOST, HEALED)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """`checksum` does not depend on the order of rows: the sum of a 64-bit hash of each."""

    rows: int
    checksum: str


Counts = Mapping[str, Mapping[str, TableFacts]]  # database, then schema.table


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedMoment:
    """The moment, as PostgreSQL names it. `counted`: what the tables held, if they were counted; `quiet`: nobody
    wrote from the counting to the mark, so the counts are exactly the point's."""

    name: str
    at: datetime
    system: int
    timeline: int
    lsn: str
    counted: Counts | None = None
    quiet: bool = False

    @property
    def segment(self) -> int:
        # The record ends at the LSN: one that ends a segment lies in that segment.
        return max(0, wal_segment.lsn(self.lsn) - 1) // wal_segment.SEGMENT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Another snapshot of the same vault. `versions`: of a bucket, its version set by count and digest."""

    sequence: int
    digest: str
    kind: str
    source: str
    versions: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    mark: NamedMoment
    base: Bound
    bound: tuple[Bound, ...]
    copied: bool = False  # into another repository: the numbers are the first one's


def point_of(snapshot: Snapshot) -> Point:
    """Raises Damage for what is not a point's facts."""
    facts = snapshot.content.facts
    counted = facts.get("counted")
    try:
        return Point(
            mark=NamedMoment(
                name=facts["name"],
                at=datetime.fromisoformat(facts["at"]),
                system=int(facts["system_identifier"]),
                timeline=int(facts["timeline"]),
                lsn=facts["lsn"],
                quiet=bool(facts["quiet"]),
                counted=None
                if counted is None
                else {
                    d: {t: TableFacts(**f) for t, f in tables.items()}
                    for d, tables in counted.items()
                },
            ),
            base=Bound(**facts["base"]),
            bound=tuple(Bound(**b) for b in facts["bound"]),
            copied=is_copy(snapshot),
        )
    except (KeyError, TypeError, ValueError) as odd:
        raise Damage(f"snapshot {snapshot.sequence}: not a point: {odd}") from odd
