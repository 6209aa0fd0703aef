"""The negative control: does the checker see a loss when there is one?

Two real PostgreSQL members, the ledger, the checker and the judge of every drill, and two arms. The
honest arm (synchronous, the old primary stopped before the promotion) must PASS with nothing lost.
The sabotaged arm (asynchronous, replication cut, the old primary not fenced) must be condemned for
both its crimes: lost writes and two writers at once. A checker that lets the second pass, or that
condemns the first, proves nothing in the drill beside it.
"""

import hashlib
import random
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from failover.checker import Findings, check
from failover.control.members import _DEADLINE, _SOON, _members
from failover.ledger.format import Intent, Kind, Outcome
from failover.ledger.reader import Reader
from failover.ledger.writer import Ledger
from failover.measure import Stable, measure
from failover.verdict import Bounds, CheckResult, Ruling, Verdict, judge, ledger_whole
from zaibei.config.model import Hazard, Objective
from zaibei.kernel.bilingual import Bilingual, joined, quoted
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import ToolFailed, ZaibeiError
from zaibei.kernel.ids import new_id
from zaibei.kernel.progress import Progress
from zaibei.kernel.wait import wait_until

if TYPE_CHECKING:
    from failover.control.members import _Member, _Members


NAME = "negative-control"
_RULING = {Ruling.PASS: "通过", Ruling.FAIL: "未通过", Ruling.INVALID: "无效"}
_PERIOD = timedelta(milliseconds=5)
_WRITES = 25  # of each stretch; one second of them is not vacuous
_STABLE = Stable(window=timedelta(milliseconds=100))
_OBJECTIVE = Objective(hazard=Hazard.H1, rto=timedelta(seconds=30), rpo=timedelta(0))
# The control asks whether the checker can see, on whatever host the drill runs: the drill's own
# verdict judges the load and the generator.
_BOUNDS = Bounds(lag_p99=_DEADLINE, lag_max=_DEADLINE, host_cpu_some_pct=100.0)
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
