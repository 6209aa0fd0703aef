"""The negative control: does the checker see a loss when there is one?

Two real PostgreSQL members, the ledger, the checker and the judge of every drill, and two arms. The
honest arm (synchronous, the old primary stopped before the promotion) must PASS with nothing lost.
The sabotaged arm (asynchronous, replication cut, the old primary not fenced) must be condemned for
both its crimes: lost writes and two writers at once. A checker that lets the second pass, or that
condemns the first, proves nothing in the drill beside it.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg

from failover.check import Findings, check
from failover.ledger import Intent, Kind, Ledger, Outcome, Reader
from failover.measure import Stable, measure
from failover.verdict import Bounds, CheckResult, Ruling, Verdict, judge, ledger_whole
from zaibei.config.model import Hazard, Objective
from zaibei.kernel import process, tree
from zaibei.kernel.bilingual import Bilingual, joined, quoted
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Missing, ToolFailed, ZaibeiError
from zaibei.kernel.ids import new_id
from zaibei.kernel.process import run
from zaibei.kernel.progress import Progress
from zaibei.kernel.wait import wait_until

NAME = "negative-control"
_BIN = Path("/usr/lib/postgresql/15/bin")
_OWNER = "postgres"
_MEMORY = Path("/dev/shm")
_ROOM = "zaibei-control-"
_ROOM_BYTES = 512 << 20  # the members take about 100 MiB
_DEADLINE = timedelta(seconds=20)
_RULING = {Ruling.PASS: "通过", Ruling.FAIL: "未通过", Ruling.INVALID: "无效"}
_SOON = timedelta(milliseconds=20)
_PERIOD = timedelta(milliseconds=5)
_WRITES = 25  # of each stretch; one second of them is not vacuous
_STABLE = Stable(window=timedelta(milliseconds=100))
_OBJECTIVE = Objective(hazard=Hazard.H1, rto=timedelta(seconds=30), rpo=timedelta(0))
# The control asks whether the checker can see, on whatever host the drill runs: the drill's own
# verdict judges the load and the generator.
_BOUNDS = Bounds(lag_p99=_DEADLINE, lag_max=_DEADLINE, host_cpu_some_pct=100.0)

# No TCP: the directory of the socket is 0700 and the member's own, so trust is trust in its owner.
_SETTINGS = """
listen_addresses = ''
unix_socket_permissions = 0700
shared_buffers = 16MB
max_connections = 20
max_wal_senders = 4
max_worker_processes = 2
autovacuum = off
wal_level = replica
hot_standby = on
log_min_messages = warning
wal_receiver_status_interval = 1s
"""
_TABLE = """
CREATE TABLE sample_registration (
  idempotency_key text PRIMARY KEY, payload_sha256 text NOT NULL, epoch int NOT NULL)"""
_EPOCH = "('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int"
_INSERT = f"INSERT INTO sample_registration VALUES (%s, %s, {_EPOCH}) RETURNING epoch"  # noqa: S608
_COPIES = "SELECT CASE WHEN current_setting('synchronous_standby_names') = '' THEN 1 ELSE 2 END"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    verdict: Verdict
    findings: Findings
    ledger_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlResult:
    condemned: bool  # the sabotaged arm failed for both its crimes
    acquitted: bool  # the honest arm passed, with nothing lost
    lost: int  # that the checker found in the sabotaged arm
    lost_made: int  # that the saboteur lost on purpose
    overlap: int
    detail: str
    took: timedelta
    honest: Arm | None = None
    sabotaged: Arm | None = None

    @property
    def discriminates(self) -> bool:
        return self.condemned and self.acquitted

    def as_check(self) -> CheckResult:
        """A blind checker spoils the measurement; it does not make the service bad."""
        return CheckResult(
            name=NAME,
            ran=self.honest is not None and self.sabotaged is not None,
            passed=self.discriminates,
            detail=self.detail,
            if_failed=Ruling.INVALID,
        )


def run_control(workdir: Path, clock: Clock, seed: int, progress: Progress) -> ControlResult:
    """Both arms; their ledgers stay in `workdir` as evidence.

    An engine that cannot be run is not a pass: the result says so, and `as_check` did not run.
    """
    began_s = clock.monotonic()
    rng = random.Random(seed)
    honest: Arm | None = None
    sabotaged: Arm | None = None
    made = 0
    trouble = ""
    try:
        with _members(rng, clock) as members:
            progress.step("control: honest arm")
            writer = _Writer.begin(workdir, "control-honest", clock, rng)
            survivor = _honest(members, writer)
            honest = writer.judged(survivor)
            progress.step("control: sabotaged arm")
            writer = _Writer.begin(workdir, "control-sabotaged", clock, rng)
            promoted, made = _sabotaged(members, survivor, writer)
            sabotaged = writer.judged(promoted)
    except (ZaibeiError, psycopg.Error, OSError) as error:
        trouble = Bilingual(
            f"the control did not run: {error}", f"对照没有执行：{quoted(error).zh}"
        )
    found = sabotaged.findings if sabotaged else None
    return ControlResult(
        condemned=sabotaged is not None and _condemned(sabotaged, made),
        acquitted=honest is not None and _acquitted(honest),
        lost=found.lost if found else 0,
        lost_made=made,
        overlap=found.overlap if found else 0,
        detail=trouble or _say(honest, sabotaged, made),
        took=timedelta(seconds=clock.monotonic() - began_s),
        honest=honest,
        sabotaged=sabotaged,
    )


def _condemned(arm: Arm, made: int) -> bool:
    """For the right crimes, to the last write: a checker that finds some of a loss is not one."""
    found = arm.findings
    return arm.verdict.ruling is Ruling.FAIL and found.lost == made > 0 and found.overlap > 0


def _acquitted(arm: Arm) -> bool:
    found = arm.findings
    return arm.verdict.ruling is Ruling.PASS and found.lost == found.overlap == 0


def _say(honest: Arm | None, sabotaged: Arm | None, made: int) -> str:
    assert honest is not None
    assert sabotaged is not None
    found = sabotaged.findings
    said = joined(honest.verdict.reasons)
    return Bilingual(
        f"sabotaged arm: {sabotaged.verdict.ruling}, {found.lost} of {made} lost writes found,"
        f" {found.overlap} of two writers at once; honest arm: {honest.verdict.ruling}"
        + (f" ({said})" if said else ""),
        f"破坏组：{_RULING[sabotaged.verdict.ruling]}，丢失的 {made} 笔写入中找出 {found.lost} 笔，"
        f"双写 {found.overlap} 笔；诚实组：{_RULING[honest.verdict.ruling]}"
        + (f"（{said.zh}）" if said else ""),
    )


# -- the arms -------------------------------------------------------------------------------------


def _honest(members: "_Members", writer: "_Writer") -> "_Member":
    """Synchronous, and fenced before promoted."""
    old = members.first()
    new = members.standby_of(old)
    old.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
    old.sql("SELECT pg_reload_conf()")
    wait_until(
        lambda: _not_yet(old, "SELECT sync_state = 'sync' FROM pg_stat_replication"),
        what="the standby is synchronous",
        deadline=_DEADLINE,
        clock=writer.clock,
        interval=_SOON,
    )
    with old.connect() as primary:
        writer.write(primary, _WRITES)
    old.stop()
    writer.fault("old primary stopped")
    writer.write_to_nobody(old, 3)
    new.promote()
    with new.connect() as primary:
        writer.write(primary, _WRITES)
    return new


def _sabotaged(members: "_Members", old: "_Member", writer: "_Writer") -> tuple["_Member", int]:
    """Asynchronous, cut off, and promoted while the old primary goes on. Returns what that lost."""
    new = members.standby_of(old)
    with old.connect() as primary:
        writer.write(primary, _WRITES)
        kept = old.one("SELECT pg_current_wal_flush_lsn()::text")
        wait_until(
            lambda: _not_yet(new, f"SELECT pg_last_wal_replay_lsn() >= '{kept}'"),
            what="the standby has the first writes",
            deadline=_DEADLINE,
            clock=writer.clock,
            interval=_SOON,
        )
        new.sql("ALTER SYSTEM SET primary_conninfo = ''")
        new.sql("SELECT pg_reload_conf()")
        wait_until(
            lambda: _not_yet(new, "SELECT count(*) = 0 FROM pg_stat_wal_receiver"),
            what="the standby receives no more",
            deadline=_DEADLINE,
            clock=writer.clock,
            interval=_SOON,
        )
        made = writer.write(primary, _WRITES)  # acknowledged by the old primary alone
        writer.fault("promoted without a fence")
        new.promote()
        with new.connect() as usurper:
            for _ in range(_WRITES):  # turn by turn: two writers at once, both acknowledging
                writer.write(usurper, 1)
                made += writer.write(primary, 1)
            writer.write(usurper, _WRITES)
    return new, made


def _not_yet(member: "_Member", question: str) -> str | None:
    return None if member.one(question) is True else f"not yet: {question}"


# -- the writer -----------------------------------------------------------------------------------


@dataclass
class _Writer:
    """The drill's ledger, kept by a writer so simple that its own record can be counted by hand."""

    ledger: Ledger
    clock: Clock
    rng: random.Random
    seq: int = 0
    due_s: float = 0.0
    fault_s: float | None = None

    @classmethod
    def begin(cls, workdir: Path, name: str, clock: Clock, rng: random.Random) -> "_Writer":
        drill = new_id(name, clock, rng)
        ledger = Ledger.create(workdir / f"{drill}.jsonl", drill=drill, clock=clock)
        return cls(ledger=ledger, clock=clock, rng=rng)

    def write(self, at: "psycopg.Connection[tuple[object, ...]]", n: int) -> int:
        """n acknowledged writes through one connection. An error is the control's own failure."""
        copies = at.execute(_COPIES).fetchone()
        assert copies is not None
        for _ in range(n):
            intent = self._intend()
            sent_s = self.clock.monotonic()
            row = at.execute(_INSERT, (intent.op_id, intent.payload_sha256)).fetchone()
            assert row is not None
            self.ledger.complete(
                intent.done(
                    sent_s=sent_s,
                    completed_s=self.clock.monotonic(),
                    outcome=Outcome.OK,
                    door="member",
                    epoch=int(str(row[0])),
                    copies=int(str(copies[0])),
                )
            ).result()
        return n

    def write_to_nobody(self, member: "_Member", n: int) -> None:
        """The clients' side of an outage: refused before anything was sent."""
        for _ in range(n):
            intent = self._intend()
            sent_s = self.clock.monotonic()
            try:
                member.connect().close()
            except psycopg.OperationalError as refused:
                detail = str(refused).splitlines()[0][:120]
            else:
                raise ToolFailed(f"{member.data}: answers, though it was stopped")
            self.ledger.complete(
                intent.done(
                    sent_s=sent_s,
                    completed_s=self.clock.monotonic(),
                    outcome=Outcome.FAIL,
                    door="member",
                    detail=f"never sent: {detail}",
                )
            ).result()

    def fault(self, what: str) -> None:
        self.fault_s = self.clock.monotonic()
        self.ledger.note(what, at_s=self.fault_s).result()

    def judged(self, survivor: "_Member") -> Arm:
        """Read everything on the new primary only, then the same checker and judge as any drill."""
        closed = self.ledger.close()
        reader = Reader(self.ledger.path)
        ops = list(reader.ops())
        with survivor.connect() as at:
            found = check(
                ops,
                (
                    (str(i), str(sha), int(str(epoch)))
                    for i, sha, epoch in at.execute(
                        "SELECT idempotency_key, payload_sha256, epoch FROM sample_registration"
                    )
                ),
                None,
                prefix=f"{self.ledger.drill}-",
            )
        assert self.fault_s is not None
        verdict = judge(
            found,
            measure(ops, fault_s=self.fault_s, stable=_STABLE),
            _OBJECTIVE,
            [ledger_whole(reader.ending)],
            required=["ledger-whole"],
            host_cpu_some_pct=0.0,  # not asked here: see _BOUNDS
            bounds=_BOUNDS,
        )
        return Arm(verdict=verdict, findings=found, ledger_sha256=closed.sha256)

    def _intend(self) -> Intent:
        now_s = self.clock.monotonic()
        wait_s = self.due_s - now_s
        if wait_s > 0:
            self.clock.sleep(timedelta(seconds=wait_s))
        self.due_s = max(self.due_s, now_s) + _PERIOD.total_seconds()
        op_id = f"{self.ledger.drill}-writer-{self.seq:05d}"
        digest = hashlib.sha256(self.rng.randbytes(32)).hexdigest()
        intent = Intent(
            op_id=op_id,
            kind=Kind.ROW,
            client="writer",
            seq=self.seq,
            payload_sha256=digest,
            intended_s=self.clock.monotonic(),
        )
        self.ledger.intend(intent).result()
        self.seq += 1
        return intent


# -- the members ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Member:
    data: Path
    socket: Path  # its directory
    user: str | None

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(
            host=str(self.socket), user=_OWNER, dbname=_OWNER, autocommit=True, connect_timeout=5
        )

    def sql(self, statement: str) -> None:
        with self.connect() as at:
            at.execute(statement)

    def one(self, question: str) -> object:
        with self.connect() as at:
            row = at.execute(question).fetchone()
            return None if row is None else row[0]

    def start(self) -> "subprocess.Popen[bytes]":
        """Our own child, and not pg_ctl's, which would leave it to init."""
        with (self.data / "log").open("ab") as log:
            return process.start(
                [_BIN / "postgres", "-D", self.data, "-k", self.socket],
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self.user,
                cwd=self.data,
                dies_by=signal.SIGQUIT,
            )

    def why_not_up(self) -> str | None:
        try:
            self.connect().close()
        except psycopg.OperationalError as not_yet:
            return str(not_yet).strip()
        return None

    def stop(self) -> None:
        self.ctl("stop", "-m", "immediate")

    def promote(self) -> None:
        self.ctl("promote")

    def ctl(self, *what: str) -> None:
        run(
            [_BIN / "pg_ctl", *what, "-w", "-t", "20", "-s", "-D", self.data],
            user=self.user,
            deadline=_DEADLINE,
            cwd=self.data,
        )


class _Members:
    """Members under one directory, each ended when the control ends."""

    def __init__(self, root: Path, user: str | None, ending: ExitStack, clock: Clock) -> None:
        self._root, self._user, self._ending, self._clock = root, user, ending, clock
        self._n = 0

    def first(self) -> _Member:
        member = self._new()
        run(
            [
                *(_BIN / "initdb", "-D", member.data, "-U", _OWNER, "--auth=trust"),
                *("--no-sync", "--wal-segsize=1", "--no-instructions", "--locale=C", "-E", "UTF8"),
            ],
            user=self._user,
            deadline=_DEADLINE,
            cwd=self._root,
        )
        with (member.data / "postgresql.conf").open("a") as conf:
            conf.write(_SETTINGS)
        self._start(member)
        member.sql(_TABLE)
        return member

    def standby_of(self, primary: _Member) -> _Member:
        member = self._new()
        # Before the copy, not after it: the copy brings postgresql.auto.conf along, and a standby that
        # inherits the synchronous setting would wait for itself once it is promoted.
        primary.sql("ALTER SYSTEM RESET ALL")
        primary.sql("SELECT pg_reload_conf()")
        run(
            [
                *(_BIN / "pg_basebackup", "-D", member.data, "-h", primary.socket, "-U", _OWNER),
                *("-R", "-X", "stream", "-c", "fast", "--no-sync"),
            ],
            user=self._user,
            deadline=_DEADLINE,
            cwd=self._root,
        )
        self._start(member)
        return member

    def _new(self) -> _Member:
        self._n += 1
        name = f"m{self._n}"
        socket = self._root / f"{name}.s"
        socket.mkdir(mode=0o700)
        if self._user:
            shutil.chown(socket, self._user, self._user)
        return _Member(self._root / name, socket, self._user)

    def _start(self, member: _Member) -> None:
        self._ending.callback(process.end, member.start(), how=signal.SIGQUIT, within=_DEADLINE)
        wait_until(
            member.why_not_up,
            what="a member of the control to start",
            deadline=_DEADLINE,
            clock=self._clock,
            interval=_SOON,
            hint=f"see {member.data / 'log'}",
        )


def _place() -> Path:
    """In memory where there is room: the control shows replication and fencing, not power loss, and
    three clusters made and removed on the disk would slow the fsyncs of the ledger beside it.

    Both are short, because a socket's path has 107 bytes at the most, and the owner can reach both.
    """
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES:
        return _MEMORY
    return Path("/tmp")


def _sweep() -> None:
    """Rooms of a control that was killed: they take memory, and nothing else will ever remove them."""
    for place in (_MEMORY, Path("/tmp")):
        for room in place.glob(f"{_ROOM}*"):
            owner, _, rest = room.name.removeprefix(_ROOM).partition(".")
            if tree.started(owner) != rest.partition(".")[0]:
                shutil.rmtree(room, ignore_errors=True)


@contextmanager
def _members(rng: random.Random, clock: Clock) -> Iterator[_Members]:
    if not (_BIN / "initdb").exists():
        raise Missing(f"{_BIN / 'initdb'}: no such program", hint="apt-get install postgresql-15")
    _sweep()
    mine = f"{_ROOM}{os.getpid()}.{tree.started('self')}."
    root = Path(tempfile.mkdtemp(prefix=mine, dir=_place()))
    user = _OWNER if os.geteuid() == 0 else None
    try:
        if user:
            shutil.chown(root, user, user)
        with ExitStack() as ending:
            yield _Members(root, user, ending, clock)
    finally:
        shutil.rmtree(root, ignore_errors=True)
