"""What a consistency point stands on, and so what may not leave before it: the base backup that recovery starts
from, and the bucket and file snapshots that it ties to the moment. Pure, and without a database's driver.

A point names snapshots by number and digest. In a copied repository they have other numbers, and where one was
lost another stands for it; so they are looked for by what they were, too.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from backup.forgotten import HEALED, LOST, Forgotten
from backup.snapshot import Snapshot

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
