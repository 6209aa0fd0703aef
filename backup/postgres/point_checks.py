"""Checks a consistency point against a restored server: rows, objects, bound snapshots."""

from collections.abc import Sequence

from backup.format import point as points
from backup.format.point import Bound, Counts, NamedMoment, Point, point_of
from backup.format.snapshot import Snapshot
from backup.postgres.checks import Check
from backup.postgres.consistency_point import KIND
from backup.postgres.recovery_target import Recovered
from backup.repository.repository import Repository
from zaibei.kernel.errors import Damage, Usage


def unused(repos: Sequence[Repository], name: str) -> None:
    """Raises Usage when a point has the name: recovery would stop at the first one it meets."""
    for repo in repos:
        for snapshot in repo.snapshots():
            if snapshot.content.kind == KIND and snapshot.content.facts.get("name") == name:
                raise Usage(f"{repo.name} has a point {name!r}", hint="a name is used once")


def find_point(repos: Sequence[Repository], name: str) -> tuple[Repository, Snapshot, Point]:
    """In the first vault that has it. Raises Usage when none has."""
    for repo in repos:
        for snapshot in reversed(repo.snapshots()):
            if snapshot.content.kind == KIND and snapshot.content.facts.get("name") == name:
                return repo, snapshot, point_of(snapshot)
    raise Usage(f"no point {name!r}", hint="zaibei backup list shows them")


def bound_snapshot(repo: Repository, point: Point, bound: Bound) -> Snapshot:
    """What the point is tied to, or what stands for it. Raises Damage when there is neither."""
    try:
        one = repo.snapshot(bound.sequence)
        if one.digest == bound.digest:
            return one
        why = Damage(f"{repo.name}: snapshot {bound.sequence} is not the one that the point names")
    except Damage as bad:
        why = bad
    named = (bound.sequence, bound.digest)
    if found := points.standing_for(repo.snapshots(), named, copied=point.copied):
        return found[-1]
    raise why


def counts_differ(one: NamedMoment, now: Counts) -> list[str] | None:
    """Tables that do not hold what was counted; None: it cannot be known, because somebody wrote meanwhile
    and something differs. Pure."""
    assert one.counted is not None, "it was counted"
    names = {(d, t) for d, tables in one.counted.items() for t in tables}
    names |= {(d, t) for d, tables in now.items() for t in tables}
    differing = [
        f"{d}.{t}"
        for d, t in sorted(names)
        if one.counted.get(d, {}).get(t) != now.get(d, {}).get(t)
    ]
    return differing if one.quiet or not differing else None


def checks(
    one: NamedMoment, recovered: Recovered | None, now: Counts, *, masked: bool = False
) -> list[Check]:
    """Is the room at the point, and are the rows those that were counted? Pure."""
    reached = recovered is not None and recovered.lsn == one.lsn
    at = recovered.lsn if recovered else "nowhere"
    out = [
        Check(
            name="point",
            passed=reached,
            detail=f"recovered to {at}, the point is at {one.lsn}"
            + ("" if reached else ": an earlier restore point has the same name"),
        )
    ]
    if one.counted is None:
        return out
    if masked:
        why = "masking changed what was counted"
        return [*out, Check(name="row counts", passed=None, detail=why, needed=False)]
    differing = counts_differ(one, now)
    if differing is None:
        why = "somebody wrote between the counting and the point"
        out.append(Check(name="row counts", passed=None, detail=why, needed=False))
    else:
        tables = sum(len(t) for t in one.counted.values())
        said = (
            f"differ: {', '.join(differing[:5])}"
            if differing
            else f"{tables} tables, checksums too"
        )
        out.append(Check(name="row counts", passed=not differing, detail=said))
    return out
