"""The clean room: a snapshot becomes a PostgreSQL that runs, apart from everything.

No TCP, a socket in a private directory, an unprivileged user, none of the backup's own settings: a restored
`archive_command` or `primary_conninfo` would reach out of the room and into production. WAL is laid beside
it as files, so recovery needs no program of ours.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

import psycopg

from backup import moment, wal
from backup.errors import WalGap
from backup.fetch import fetch_wal
from backup.mask.apply import Masked, Masking, mask_room
from backup.postgres import BIN, files_alone
from backup.reader import Reader
from backup.repository import Repository
from backup.restore import restore_files
from backup.roomchecks import Check, checksums, no_checksums, verified
from backup.roomchecks import amcheck as amcheck_
from backup.settle import open_doors, settle
from backup.snapshot import Snapshot
from backup.target import Action, Recovered, Target, last_completed, stopped, strayed
from zaibei.kernel import environment, process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Missing, ToolFailed, Usage, ZaibeiError
from zaibei.kernel.progress import Progress
from zaibei.kernel.wait import wait_until

USER: Final = "postgres"
RECOVERY_WITHIN: Final = timedelta(hours=4)
STOP_WITHIN: Final = timedelta(minutes=2)
PORT: Final = 5432  # only a part of the socket's name
__all__ = ["Action", "Check", "Recovered", "Room", "Target", "restored"]
_LOG_TAIL = 4000
_WHERE = b"""
SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() = 'paused' ELSE false END,
       coalesce(pg_last_wal_replay_lsn()::text, ''), pg_last_xact_replay_timestamp(),
       (SELECT timeline_id FROM pg_control_checkpoint())
"""
_WRITES = b"""
SELECT pg_current_wal_lsn()::text, ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
"""
_SOCKET_PATH_MAX = 90
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
def restored(
    repo: Repository,
    snapshot: Snapshot,
    *,
    workdir: Path,
    clock: Clock,
    progress: Progress,
    target: Target | None = None,
    user: str = USER,
    amcheck: bool = False,
    pages: bool = False,
    masking: Masking | None = None,
    within: timedelta = RECOVERY_WITHIN,
) -> Iterator[Room]:
    """Restore, recover, start, hand over; stop and wipe when left. `pages`: first every page's checksum,
    which takes a clean stop and a second start. `amcheck`: pg_amcheck. `masking`: personal data is masked
    before anybody but us gets in, or the room stays closed (Refused, Damage). Raises WalGap or Damage when
    the log does not reach the target, ToolFailed (with the server's log), Unreachable when recovery is not
    through in time."""
    with tempfile.TemporaryDirectory(prefix="zb-", dir=workdir) as made:
        room = restore_database(
            repo,
            snapshot,
            target or Target(),
            Path(made),
            clock=clock,
            progress=progress,
            user=user,
            closed=masking is not None,
        )
        lacking = no_checksums(room.data, account=_account(user)) if pages else None
        if lacking is not None:
            room.checks.append(lacking)
        elif pages:
            with running(room, clock=clock, progress=progress, user=user, within=within):
                pass
            progress.step("checking every page's checksum")
            room.checks.append(checksums(room.data, account=_account(user)))
        with running(room, clock=clock, progress=progress, user=user, within=within):
            if amcheck:
                progress.step("checking every table and index")
                room.checks.append(_looked_through(room, user))
            if masking is not None:
                _mask(room, masking, clock, progress)
            yield room


def restore_database(
    repo: Repository,
    snapshot: Snapshot,
    target: Target,
    into: Path,
    *,
    clock: Clock,
    progress: Progress,
    user: str = USER,
    closed: bool = False,
) -> Room:
    """Files in `into/data`, WAL in `into/archive`, checked against the manifest, ready to start."""
    if snapshot.content.kind != "postgres":
        raise Usage(f"snapshot {snapshot.sequence} holds {snapshot.content.kind}, not postgres")
    if len(str(into)) > _SOCKET_PATH_MAX:
        raise Usage(f"{into}: too long a path for a socket", hint="restore under a shorter one")
    moment.demand(repo, snapshot, target, now=clock.now())
    begun = clock.monotonic()
    room = Room(directory=into, snapshot=snapshot, target=target)
    archive = into / "archive"
    archive.mkdir()
    with (
        _phase(room, "files", clock),
        Reader(repo, damaged=lambda key, bad: progress.note(f"{key}: {bad.message}")) as reader,
    ):
        restore_files(
            reader, snapshot, room.data, progress=progress, view=files_alone, special=False
        )
        room.data.chmod(0o700)
        _give(into, user)
    with _phase(room, "manifest", clock):
        progress.step("checking every file against the manifest")
        room.checks.append(
            verified(
                room.data,
                brings_wal=snapshot.content.facts["wal"] == "fetch",
                files=int(snapshot.content.facts["files"]),
                account=_account(user),
            )
        )
    with _phase(room, "wal", clock):
        progress.step("fetching WAL")
        facts = snapshot.content.facts
        start = wal.lsn(str(facts["start_lsn"])) // wal.SEGMENT_BYTES
        brought = [p.name for p in (room.data / "pg_wal").iterdir() if wal.is_segment(p.name)]
        first_timeline = int(facts["start_timeline"])
        fetched = fetch_wal(
            wal.Archive(repo, int(facts["system_identifier"])),
            archive,
            from_segment=start,
            from_timeline=first_timeline,
            towards=target.timeline,
            beside=[wal.parse_segment(name) for name in brought],
            whole=target.how == "latest",
            upto=wal.lsn(target.value) // wal.SEGMENT_BYTES if target.how == "lsn" else None,
            done=lambda n, of: progress.done(n, of, unit="segments"),
        )
        if not fetched.names and not brought:
            raise Usage(
                f"{repo.name}: no WAL for snapshot {snapshot.sequence}",
                hint="it was taken without WAL and the archive is empty: choose another vault",
            )
        room.hole = fetched.way.hole
        if fetched.way.timeline > first_timeline or target.timeline is not None:
            room.towards = str(fetched.way.timeline)
        detail = f"{len(fetched.names)} from the archive, "
        detail += f"as far as it goes: {room.hole}" if room.hole else "no gap"
        room.checks.append(Check(name="wal", passed=True, detail=detail))
    settle(
        into,
        archive,
        port=PORT,
        account=_account(user),
        recovery={"recovery_target_timeline": room.towards, **target.settings()},
        closed=closed,
    )
    _give(into, user)
    room.took = timedelta(seconds=clock.monotonic() - begun)
    return room


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
    last = last_completed(said)
    return Damage(
        f"recovery to {what}: {short}: the vault's log does not hold it"
        + (f": its last commit is of {last}" if last else ""),
        hint=(
            "is the target right, and later than the backup? the other vault may hold more",
            "--to latest goes as far as the log does",
        ),
    )


def _mask(room: Room, masking: Masking, clock: Clock, progress: Progress) -> None:
    """Leaving by an error leaves the room closed, and then it is wiped."""
    if room.target.action is Action.PAUSE:
        raise Usage("a paused room is read-only, so nothing in it can be masked")
    with _phase(room, "masking", clock):
        # What replay read is there in plain, and so is what it wrote until a checkpoint lets it go.
        shutil.rmtree(room.directory / "archive")
        for path in room.directory.glob("from-backup.*"):
            path.unlink()
        room.masked = mask_room(room.dsn, masking, directory=room.directory, progress=progress)
    room.checks.append(Check(name="masking", passed=True, detail=str(room.masked)))
    open_doors(room.directory)
    with psycopg.connect(room.dsn(), autocommit=True) as connection:
        connection.execute("SELECT pg_reload_conf()")


def _account_of(room: Room) -> Check:
    done = room.recovered
    assert done is not None, "through"
    at = "none after the backup began" if done.last_commit is None else done.last_commit.isoformat()
    how = "promoted" if done.promoted else "paused, read-only,"
    detail = f"{how} at {done.lsn} of timeline {done.timeline}; last commit: {at}"
    backup_end = wal.lsn(str(room.snapshot.content.facts["stop_lsn"]))
    if (why := strayed(room.target, done, until=backup_end)) is not None:
        return Check(name="recovery", passed=False, detail=f"{detail}: not {room.target}: {why}")
    if room.target.at is not None and done.last_commit is None:
        # Two clocks are compared, the host's that took the backup and the server's that wrote the commits.
        detail += "; right if nothing was committed between the end of the backup and the target"
        return Check(name="recovery", passed=None, detail=detail, needed=False)
    return Check(name="recovery", passed=True, detail=detail)


def _looked_through(room: Room, user: str) -> Check:
    if room.target.action is Action.PAUSE:
        return Check(name="pg_amcheck", passed=None, detail="the room is read-only")
    return amcheck_(room.directory, port=PORT, role=USER, account=_account(user))


def _give(path: Path, user: str) -> None:
    """All of it to the room's user. PostgreSQL refuses to run as root, and that is right."""
    if os.geteuid() != 0:
        return
    try:
        account = pwd.getpwnam(user)
    except KeyError as unknown:
        raise Missing(f"no system user {user}", hint="apt install postgresql-15") from unknown
    os.chown(path, account.pw_uid, account.pw_gid)
    for base, directories, files in os.walk(path):
        for name in (*directories, *files):
            os.chown(Path(base) / name, account.pw_uid, account.pw_gid, follow_symlinks=False)


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
