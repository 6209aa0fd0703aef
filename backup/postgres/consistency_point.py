"""A consistency point: one name for a moment of the database, a version set of each bucket, and file trees.

Order: the name goes into PostgreSQL's log first, then the buckets are listed. A row names an object that was there before the
row; so what rows of the point name is in the version set, unless it was removed in between, and the list of dangling
references says which. The point is committed in a vault only when that vault holds a base backup, the whole log up to
the point without a gap, and every version: what cannot be restored gets no name.
"""

import socket
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final, Protocol

import psycopg

from backup.format import point as points
from backup.format import wal_segment
from backup.format.facts import POSTGRES
from backup.format.point import Bound, NamedMoment, TableFacts
from backup.format.snapshot import Content, Snapshot
from backup.postgres.moment import why_not_from
from backup.postgres.recovery_target import Target
from backup.postgres.table_facts import table_facts
from backup.repository.repository import Repository
from backup.sources.fanout import Fanout, Judge, Outcome
from backup.wal.required import why_not_recoverable
from backup.writer.writer import Writer
from infra.postgres.server import databases
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Refused, Unreachable, Usage, ZaibeiError
from zaibei.kernel.progress import Progress
from zaibei.kernel.wait import wait_until

KIND: Final = points.KIND
ARCHIVED_WITHIN: Final = timedelta(seconds=60)
_NAME_MAX = 63  # PostgreSQL cuts a longer one off, silently
_POLL = timedelta(milliseconds=500)


class Ran(Protocol):
    """What came of a bucket's or a tree's run: as much of `job.Run` as is needed."""

    @property
    def outcomes(self) -> tuple[Outcome, ...]: ...


def mark(
    conninfo: str, password: str | None, *, name: str, clock: Clock, count_rows: bool = False
) -> NamedMoment:
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
                    d: table_facts(_at(conninfo, d, password))
                    for d in databases(_at(conninfo, None, password))
                }
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
    return NamedMoment(
        name=name,
        at=at,
        system=system,
        timeline=timeline,
        lsn=lsn,
        counted=counted,
        quiet=count_rows and still,
    )


def commit_points(
    one: NamedMoment,
    runs: Sequence[Ran],
    writers: Sequence[Writer],
    *,
    clock: Clock,
    progress: Progress,
    within: timedelta = ARCHIVED_WITHIN,
    judge: Judge | None = None,
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
            with Fanout([writer], progress, judge=judge) as fanout:
                out += fanout.commit(_content(one, base, bound, clock))
        except ZaibeiError as bad:
            writer.close()
            out.append(Outcome(vault=repo.name, snapshot=None, written=None, error=bad.message))
    return tuple(out)


def newest_base(repo: Repository, one: NamedMoment) -> Snapshot:
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


def _content(one: NamedMoment, base: Snapshot, bound: Sequence[Bound], clock: Clock) -> Content:
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
            "segment": wal_segment.segment_name(one.timeline, one.segment),
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
