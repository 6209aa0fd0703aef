"""Starts PostgreSQL on a restored data directory, waits for recovery to end, and stops it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

import psycopg

from backup.errors import WalGap
from backup.format import wal_segment
from backup.format.snapshot import Snapshot
from backup.mask.apply import Masked
from backup.postgres.checks import Check
from backup.postgres.recovery_target import (
    Action,
    Recovered,
    Target,
    last_completed,
    stopped,
    strayed,
)
from infra.postgres.server import BIN
from zaibei.kernel import environment, process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, ToolFailed, Usage, ZaibeiError
from zaibei.kernel.progress import Progress
from zaibei.kernel.wait import wait_until

USER: Final = "postgres"
STOP_WITHIN: Final = timedelta(minutes=2)
PORT: Final = 5432  # only a part of the socket's name
_LOG_TAIL = 4000
_WHERE = b"""
SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() = 'paused' ELSE false END,
       coalesce(pg_last_wal_replay_lsn()::text, ''), pg_last_xact_replay_timestamp(),
       (SELECT timeline_id FROM pg_control_checkpoint())
"""
_WRITES = b"""
SELECT pg_current_wal_lsn()::text, ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
"""
# How PostgreSQL says that the log ended before it was where it had to be.
_TOO_EARLY = "requested recovery stop point is before consistent recovery point"
_TOO_SHORT = (
    "recovery ended before configured recovery target was reached",
    "WAL ends before",
    "could not locate required checkpoint record",
)


@dataclass(slots=True, kw_only=True)
class Room:
    """A database that was restored and runs. Gone when its `with` ends."""

    directory: Path
    snapshot: Snapshot
    target: Target
    took: timedelta = timedelta(0)  # from nothing to answering queries
    phases: dict[str, timedelta] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    recovered_lsn: str = ""
    timeline: int = 0
    recovered: Recovered | None = None  # None: not through yet
    masked: Masked | None = None  # None: in plain
    towards: str = "latest"  # recovery_target_timeline
    hole: str | None = None  # where the archive's WAL breaks off, when it does

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "postgres.log"

    def dsn(self, database: str = "postgres", *, user: str = USER) -> str:
        return f"host={self.directory} port={PORT} user={user} dbname={database}"


@contextmanager
def running(
    room: Room, *, clock: Clock, progress: Progress, user: str = USER, within: timedelta
) -> Iterator[None]:
    """PostgreSQL up and through recovery; stopped cleanly on the way out, whatever happened inside."""
    begun = clock.monotonic()
    again = room.recovered is not None
    progress.step("starting again" if again else f"recovering to {room.target}")
    with room.log.open("wb") as log:
        child = process.start(
            [BIN / "postgres", "-D", room.data, "-c", f"config_file={room.data.parent}/room.conf"],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=room.directory,
            env=environment.child(),
            user=_account(user),
            dies_by=signal.SIGQUIT,
        )
    try:
        with _phase(room, "start" if again else "recovery", clock):
            wait_until(
                lambda: _why_not_through(room, child),
                what="recovery",
                deadline=within,
                clock=clock,
                interval=timedelta(milliseconds=100),
                hint=f"the server's log: {room.log}",
            )
        room.took += timedelta(seconds=clock.monotonic() - begun)
        if not again:
            room.checks.append(_account_of(room))
        yield
    finally:
        process.end(child, how=signal.SIGINT, within=STOP_WITHIN)  # fast shutdown


def _why_not_through(room: Room, child: "subprocess.Popen[bytes]") -> str | None:
    if child.poll() is not None:
        raise _ended(room)
    try:
        with psycopg.connect(room.dsn(), connect_timeout=2, autocommit=True) as connection:
            row = connection.execute(_WHERE).fetchone()
            assert row is not None, "a function has a value"
            recovering, paused, lsn, last_commit, timeline = row
            if recovering and not (paused and room.target.action is Action.PAUSE):
                return "still in recovery"
            if not recovering:
                row = connection.execute(_WRITES).fetchone()
                assert row is not None, "a function has a value"
                room.recovered_lsn, timeline = row
            else:
                room.recovered_lsn = lsn
            room.timeline = timeline
            # The second start of a promoted room replays nothing and would forget the first.
            room.recovered = room.recovered or Recovered(
                lsn=lsn or room.recovered_lsn,
                timeline=timeline,
                promoted=not recovering,
                last_commit=last_commit,
                stopped=stopped(room.log.read_text(errors="replace")),
            )
    except psycopg.OperationalError as bad:
        return str(bad).strip()
    return None


def _ended(room: Room) -> ZaibeiError:
    """PostgreSQL's own judgement is what counts: a target it did not reach is never a success."""
    said = _tail(room.log)
    if _TOO_EARLY in said:
        return Usage(
            f"recovery to {room.target}: the target is before the end of the backup, snapshot"
            f" {room.snapshot.sequence}",
            hint="take an older snapshot: zaibei backup list shows when each ended",
        )
    short = next((why for why in _TOO_SHORT if why in said), None)
    if short is None:
        return ToolFailed(f"postgres ended in recovery: {said}")
    what = str(room.target)
    if room.hole:
        return WalGap(
            f"recovery to {what}: {short}: {room.hole}",
            hint="restore from the other vault, or to a target before the gap",
        )
    last, named = last_completed(said), room.target.how == "name"
    return Damage(
        f"recovery to {what}: {short}: the vault's log does not hold it after snapshot"
        f" {room.snapshot.sequence}" + (f": its last commit is of {last}" if last else ""),
        hint=(
            "is the target right, and later than the backup? the other vault may hold more",
            *(["a name from before this backup: give an older snapshot by its number"] * named),
            "--to latest goes as far as the log does",
        ),
    )


def _account_of(room: Room) -> Check:
    done = room.recovered
    assert done is not None, "through"
    at = "none after the backup began" if done.last_commit is None else done.last_commit.isoformat()
    how = "promoted" if done.promoted else "paused, read-only,"
    detail = f"{how} at {done.lsn} of timeline {done.timeline}; last commit: {at}"
    backup_end = wal_segment.lsn(str(room.snapshot.content.facts["stop_lsn"]))
    if (why := strayed(room.target, done, until=backup_end)) is not None:
        return Check(name="recovery", passed=False, detail=f"{detail}: not {room.target}: {why}")
    if room.target.at is not None and done.last_commit is None:
        # Two clocks are compared, the host's that took the backup and the server's that wrote the commits.
        detail += "; right if nothing was committed between the end of the backup and the target"
        return Check(name="recovery", passed=None, detail=detail, needed=False)
    return Check(name="recovery", passed=True, detail=detail)


def _account(user: str) -> str | None:
    """Who runs it: root steps down, anybody else stays who they are."""
    return user if os.geteuid() == 0 else None


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-_LOG_TAIL:].strip()


@contextmanager
def _phase(room: Room, name: str, clock: Clock) -> Iterator[None]:
    begun = clock.monotonic()
    yield
    room.phases[name] = timedelta(seconds=clock.monotonic() - begun)
