"""The clean room: a snapshot becomes a PostgreSQL that runs, apart from everything.

No TCP, a socket in a private directory, an unprivileged user, none of the backup's own settings: a restored
`archive_command` or `primary_conninfo` would reach out of the room and into production. WAL is laid beside
it as files, so recovery needs no program of ours.
"""

import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import psycopg

from backup import wal
from backup.errors import WalGap
from backup.fetch import fetch_wal
from backup.postgres import BIN
from backup.reader import Reader
from backup.repository import Repository
from backup.restore import restore_files
from backup.settle import settle
from backup.snapshot import Snapshot
from zaibei.kernel import process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Missing, ToolFailed, Usage, ZaibeiError
from zaibei.kernel.progress import Progress
from zaibei.kernel.wait import wait_until

USER: Final = "postgres"
RECOVERY_WITHIN: Final = timedelta(hours=4)
TOOL_WITHIN: Final = timedelta(hours=1)
STOP_WITHIN: Final = timedelta(minutes=2)
PORT: Final = 5432  # only a part of the socket's name
_LOG_TAIL = 4000
_SOCKET_PATH_MAX = 90
# How PostgreSQL says that the log ended before it was where it had to be.
_TOO_SHORT = (
    "recovery ended before configured recovery target was reached",
    "WAL ends before",
    "could not locate required checkpoint record",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How far to recover. `how`: latest, time, lsn or name."""

    how: str = "latest"
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> "Target":
        """`latest`, `time=2026-11-22T04:00:00Z`, `lsn=0/3000028`, `name=before-the-migration`."""
        how, _, value = text.partition("=")
        if how == "latest" and not value:
            return cls()
        if how not in ("time", "lsn", "name") or not value or "'" in value or "\n" in value:
            raise Usage(
                f"not a recovery target: {text!r}",
                hint="latest, time=2026-11-22T04:00:00Z, lsn=0/3000028 or name=RESTORE_POINT",
            )
        if how == "lsn":
            wal.lsn(value)
        if how == "time" and _aware(value) is None:
            raise Usage(f"not a time with an offset: {value!r}", hint="2026-11-22T04:00:00Z")
        return cls(how=how, value=value)

    def settings(self) -> dict[str, str]:
        if self.how == "latest":
            return {}
        return {f"recovery_target_{self.how}": self.value, "recovery_target_action": "promote"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`passed` None: it did not run, and why."""

    name: str
    passed: bool | None
    detail: str


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
    within: timedelta = RECOVERY_WITHIN,
) -> Iterator[Room]:
    """Restore, recover, start, hand over; stop and wipe when left. Raises WalGap or Damage when
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
        )
        with running(room, clock=clock, progress=progress, user=user, within=within):
            if amcheck:
                room.checks.append(_amcheck(room, user))
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
) -> Room:
    """Files in `into/data`, WAL in `into/archive`, checked against the manifest, ready to start."""
    if snapshot.content.kind != "postgres":
        raise Usage(f"snapshot {snapshot.sequence} holds {snapshot.content.kind}, not postgres")
    if len(str(into)) > _SOCKET_PATH_MAX:
        raise Usage(f"{into}: too long a path for a socket", hint="restore under a shorter one")
    begun = clock.monotonic()
    room = Room(directory=into, snapshot=snapshot, target=target)
    archive = into / "archive"
    archive.mkdir()
    with _phase(room, "files", clock), Reader(repo) as reader:
        restore_files(reader, snapshot, room.data, progress=progress)
        room.data.chmod(0o700)
        _give(into, user)
    with _phase(room, "manifest", clock):
        progress.step("checking every file against the manifest")
        room.checks.append(_verified(room, user))
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
        if fetched.way.timeline > first_timeline:
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
    progress.step(f"recovering to {room.target.how} {room.target.value}".rstrip())
    with room.log.open("wb") as log:
        child = subprocess.Popen(
            [
                str(BIN / "postgres"),
                "-D",
                str(room.data),
                "-c",
                f"config_file={room.data.parent}/room.conf",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=room.directory,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            start_new_session=True,
            user=_account(user),
            group=_account(user),
            extra_groups=None if _account(user) is None else [],
        )
    try:
        with _phase(room, "recovery", clock):
            wait_until(
                lambda: _why_not_through(room, child),
                what="recovery",
                deadline=within,
                clock=clock,
                interval=timedelta(milliseconds=100),
                hint=f"the server's log: {room.log}",
            )
        room.took += timedelta(seconds=clock.monotonic() - begun)
        room.checks.append(
            Check(name="recovery", passed=True, detail=f"promoted at {room.recovered_lsn}")
        )
        yield
    finally:
        _stop(child)


def _why_not_through(room: Room, child: "subprocess.Popen[bytes]") -> str | None:
    if child.poll() is not None:
        raise _ended(room)
    try:
        with psycopg.connect(room.dsn(), connect_timeout=2, autocommit=True) as connection:
            row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
            if row is None or row[0]:
                return "still in recovery"
            row = connection.execute(
                "SELECT pg_current_wal_lsn()::text,"
                " ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"
            ).fetchone()
            assert row is not None, "a function has a value"
            room.recovered_lsn, room.timeline = row
    except psycopg.OperationalError as bad:
        return str(bad).strip()
    return None


def _ended(room: Room) -> ZaibeiError:
    """PostgreSQL's own judgement is what counts: a target it did not reach is never a success."""
    said = _tail(room.log)
    short = next((why for why in _TOO_SHORT if why in said), None)
    if short is None:
        return ToolFailed(f"postgres ended in recovery: {said}")
    what = f"{room.target.how} {room.target.value}".rstrip()
    if room.hole:
        return WalGap(
            f"recovery to {what}: {short}: {room.hole}",
            hint="restore from the other vault, or to a target before the gap",
        )
    return Damage(
        f"recovery to {what}: {short}: the vault's log does not hold it",
        hint="is the target right, and later than the backup? the other vault may hold more",
    )


def _verified(room: Room, user: str) -> Check:
    argv = [str(BIN / "pg_verifybackup")]
    if room.snapshot.content.facts["wal"] != "fetch":
        argv.append("--no-parse-wal")
    process.run(
        [*argv, str(room.data)], deadline=TOOL_WITHIN, cwd=room.directory, user=_account(user)
    )
    return Check(
        name="pg_verifybackup",
        passed=True,
        detail=f"{room.snapshot.content.facts['files']} files, SHA-256",
    )


def _amcheck(room: Room, user: str) -> Check:
    if not (BIN / "pg_amcheck").exists():
        return Check(name="pg_amcheck", passed=None, detail="the program is not here")
    try:
        process.run(
            [
                *(BIN / "pg_amcheck", "--all", "--install-missing", "--heapallindexed"),
                *("-h", room.directory, "-p", str(PORT), "-U", USER),
            ],
            deadline=TOOL_WITHIN,
            cwd=room.directory,
            user=_account(user),
        )
    except ToolFailed as bad:
        return Check(name="pg_amcheck", passed=False, detail=bad.message)
    return Check(name="pg_amcheck", passed=True, detail="every table and B-tree index")


def _stop(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGINT)  # fast shutdown
    try:
        child.wait(STOP_WITHIN.total_seconds())
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGQUIT)  # the room is wiped; nothing here must survive
        child.wait(STOP_WITHIN.total_seconds())


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


def _aware(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


@contextmanager
def _phase(room: Room, name: str, clock: Clock) -> Iterator[None]:
    begun = clock.monotonic()
    yield
    room.phases[name] = timedelta(seconds=clock.monotonic() - begun)
