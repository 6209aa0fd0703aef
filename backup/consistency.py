"""A consistency point: one name for a moment of the database, a version set of each bucket, and file trees.

Order: the name goes into PostgreSQL's log first, then the buckets are listed. A row names an object that was there before the
row; so what rows of the point name is in the version set, unless it was removed in between, and the list of dangling
references says which. The point is committed in a vault only when that vault holds a base backup, the whole log up to
the point without a gap, and every version: what cannot be restored gets no name.
"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import psycopg

from backup import points, wal
from backup.compare import TableFacts, databases, table_facts
from backup.fanout import Fanout, Outcome
from backup.moment import why_not_from
from backup.postgres import KIND as POSTGRES
from backup.postgres import wal_needed_from
from backup.repository import Repository
from backup.roomchecks import Check
from backup.route import parse_history, route
from backup.snapshot import Content, Snapshot
from backup.target import Recovered, Target
from backup.writer import Writer
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Refused, Unreachable, Usage, ZaibeiError
from zaibei.kernel.progress import Progress
from zaibei.kernel.wait import wait_until

KIND: Final = points.KIND
ARCHIVED_WITHIN: Final = timedelta(seconds=60)
_NAME_MAX = 63  # PostgreSQL cuts a longer one off, silently
_POLL = timedelta(milliseconds=500)
Counts = Mapping[str, Mapping[str, TableFacts]]  # database, then schema.table


class Ran(Protocol):
    """What came of a bucket's or a tree's run: as much of `job.Run` as is needed."""

    @property
    def outcomes(self) -> tuple[Outcome, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
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
        return max(0, wal.lsn(self.lsn) - 1) // wal.SEGMENT_BYTES


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
    mark: Mark
    base: Bound
    bound: tuple[Bound, ...]
    copied: bool = False  # into another repository: the numbers are the first one's


def mark(
    conninfo: str, password: str | None, *, name: str, clock: Clock, count_rows: bool = False
) -> Mark:
    """Name the moment on the writer, and close its segment so that the archive gets it at once.

    `conninfo` is the writer's. Raises Usage for a name PostgreSQL would cut, Refused without the right to do it."""
    if not name or len(name.encode()) > _NAME_MAX or not name.isprintable() or "'" in name:
        raise Usage(
            f"not a name for a point: {name!r}", hint=f"at most {_NAME_MAX} bytes, no quotes"
        )
    counted: dict[str, dict[str, TableFacts]] | None = None
    try:
        with psycopg.connect(conninfo, password=password, autocommit=True) as connection:
            before = _one(connection, b"SELECT pg_current_wal_insert_lsn()::text")
            if count_rows:
                counted = {
                    d: table_facts(_at(conninfo, d, password)) for d in databases(_at(conninfo, None, password))
                }  # fmt: skip
            still = _one(connection, b"SELECT pg_current_wal_insert_lsn()::text") == before
            row = connection.execute(
                "SELECT pg_create_restore_point(%s)::text,"
                " ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int,"
                " (SELECT system_identifier FROM pg_control_system())",
                (name,),
            ).fetchone()
            at = clock.now()
            connection.execute("SELECT pg_switch_wal()")
    except psycopg.errors.InsufficientPrivilege as no:
        raise Refused(
            f"no right to name a point: {_first_line(no)}",
            hint="GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO the role",
        ) from no
    except psycopg.errors.ObjectNotInPrerequisiteState as no:
        raise Refused(
            f"a point is named on the writer: {_first_line(no)}",
            hint="add target_session_attrs=read-write to the conninfo",
        ) from no
    except psycopg.OperationalError as no:
        raise Unreachable(
            f"no point could be named: {_first_line(no)}",
            hint="lead the conninfo to the writer, and to a database that is there: dbname=postgres",
        ) from no
    assert row is not None, "a function has a value"
    lsn, timeline, system = row
    return Mark(
        name=name,
        at=at,
        system=system,
        timeline=timeline,
        lsn=lsn,
        counted=counted,
        quiet=count_rows and still,
    )


def commit_points(
    one: Mark,
    runs: Sequence[Ran],
    writers: Sequence[Writer],
    *,
    clock: Clock,
    progress: Progress,
    within: timedelta = ARCHIVED_WITHIN,
) -> tuple[Outcome, ...]:
    """In each vault that holds all of it; the others say what they lack."""
    out: list[Outcome] = []
    for writer in writers:
        repo = writer.repository
        try:
            progress.step(f"waiting for the log in {repo.name}")
            base = newest_base(repo, one)
            wait_until(
                lambda repo=repo, base=base: why_not_recoverable(repo, base, one),  # type: ignore[misc]
                what=f"the log of point {one.name} in {repo.name}",
                deadline=within,
                clock=clock,
                interval=_POLL,
                hint="is `zaibei backup wal` running, and does this vault answer it?",
            )
            bound = tuple(_bound_in(repo, run) for run in runs)
            with Fanout([writer], progress) as fanout:
                out += fanout.commit(_content(one, base, bound, clock))
        except ZaibeiError as bad:
            writer.close()
            out.append(Outcome(vault=repo.name, snapshot=None, written=None, error=bad.message))
    return tuple(out)


def newest_base(repo: Repository, one: Mark) -> Snapshot:
    """The newest base backup of this cluster that was consistent before the point. Raises Refused."""
    target = Target(how="lsn", value=one.lsn, timeline=one.timeline)
    for snapshot in reversed(repo.snapshots()):
        content = snapshot.content
        if (
            (content.kind, content.complete) == (POSTGRES, True)
            and content.facts.get("system_identifier") == str(one.system)
            and why_not_from(snapshot, target) is None
        ):
            return snapshot
    raise Refused(
        f"{repo.name}: no base backup of system {one.system} from before the point",
        hint="zaibei backup run first",
    )


def why_not_recoverable(
    repo: Repository, base: Snapshot, one: Mark, *, items: Sequence[wal.Item] | None = None
) -> str | None:
    """Why recovery from this base would not reach the point with what the vault holds now, or held in `items`."""
    needed = wal_needed_from(base)
    assert needed is not None, "a base backup is a database's"
    archive = wal.Archive(repo, one.system)
    items = archive.items() if items is None else items
    try:
        way = route(
            items,
            {t: parse_history(data) for t, data in archive.histories(items).items()},
            from_timeline=needed[1],
            from_segment=needed[2],
            towards=one.timeline,
            beside=_brought(base),
        )
    except Usage as not_yet:
        return not_yet.message
    here = (one.timeline, one.segment)
    if not any((i.timeline, i.segment) == here and i.part is None for i in items):
        return f"{wal.segment_name(*here)} is not there"
    if here not in way.places:
        return way.hole or f"no way leads to {wal.segment_name(*here)}"
    return None


def point_of(snapshot: Snapshot) -> Point:
    """Raises Damage for what is not a point's facts."""
    facts = snapshot.content.facts
    counted = facts.get("counted")
    try:
        return Point(
            mark=Mark(
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
            copied=points.is_copy(snapshot),
        )
    except (KeyError, TypeError, ValueError) as odd:
        raise Damage(f"snapshot {snapshot.sequence}: not a point: {odd}") from odd


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


def counts_differ(one: Mark, now: Counts) -> list[str] | None:
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
    one: Mark, recovered: Recovered | None, now: Counts, *, masked: bool = False
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


def _brought(base: Snapshot) -> list[tuple[int, int]]:
    """The segments that the backup itself brings."""
    facts = base.content.facts
    if facts.get("wal") != "fetch":
        return []
    (timeline, first), (_, last) = (wal.parse_segment(n) for n in facts["wal_needed"])
    return [(timeline, n) for n in range(first, last + 1)]


def _bound_in(repo: Repository, run: Ran) -> Bound:
    """Raises Refused when the run did not get into this vault whole."""
    for outcome in run.outcomes:
        if outcome.vault == repo.name and outcome.snapshot is not None:
            content = outcome.snapshot.content
            if not content.complete:
                raise Refused(
                    f"{repo.name}: snapshot {outcome.snapshot.sequence} is incomplete:"
                    f" {'; '.join(content.problems[:3])}"
                )
            return Bound(
                sequence=outcome.snapshot.sequence,
                digest=outcome.snapshot.digest,
                kind=content.kind,
                source=str(content.facts.get("source", "")),
                versions=content.facts.get("versions"),
            )
    raise Refused(f"{repo.name}: a bucket or tree of the point is not in this vault")


def _content(one: Mark, base: Snapshot, bound: Sequence[Bound], clock: Clock) -> Content:
    return Content(
        kind=KIND,
        label=one.name,
        host=socket.gethostname(),
        started=one.at,
        finished=clock.now(),
        tree=(),
        entries=0,
        size_bytes=0,
        complete=True,
        facts={
            "name": one.name,
            "at": one.at.isoformat(),
            "system_identifier": str(one.system),
            "timeline": one.timeline,
            "lsn": one.lsn,
            "segment": wal.segment_name(one.timeline, one.segment),
            "quiet": one.quiet,
            "counted": None
            if one.counted is None
            else {d: {t: asdict(f) for t, f in ts.items()} for d, ts in one.counted.items()},
            "base": asdict(
                Bound(sequence=base.sequence, digest=base.digest, kind=POSTGRES, source="")
            ),
            "bound": [asdict(b) for b in bound],
        },
    )


def _at(conninfo: str, database: str | None, password: str | None) -> str:
    return psycopg.conninfo.make_conninfo(
        conninfo,
        **({"dbname": database} if database else {}),
        **({"password": password} if password else {}),
    )


def _one(connection: psycopg.Connection, query: bytes) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None, "a function has a value"
    return row[0]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
