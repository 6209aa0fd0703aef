"""Ask before a drill whether the stack is well enough for it: what is sick already would be measured as the fault's
doing, and the drill's own traffic may be what breaks it.

Each question has one of four answers; unknown is no yes. `drill run` asks the same questions as `drill check`.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

import psycopg

from failover import steady_state
from infra.faults import journal
from infra.lab import disk
from infra.lab.plan import LabPlan
from infra.lab.preflight import available_memory
from infra.postgres import prepare
from infra.sites import StackAccess
from monitors.bounds import bounds
from monitors.check import Unmeasured
from monitors.check import check as ask_alerts
from monitors.rules import all_rules
from monitors.survey import Survey, survey
from zaibei.config.model import Stack
from zaibei.evidence import default_dir
from zaibei.kernel import process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Missing, Refused, Unreachable, Usage, ZaibeiError
from zaibei.kernel.progress import Progress
from zaibei.kernel.state import state_dir
from zaibei.kernel.wait import wait_until

# Critical, and no reason: the drill takes a backup, archives the log and compares the stores itself, and a drill that
# failed is repeated.
_MENDED_BY_A_DRILL = (
    "BackupTooOld", "BackupNeverMade", "BackupMissed", "BackupUnknown", "WalArchiveBehind", "StoreAuditUnknown",
    "DrillFailed", "DrillRecordUnknown",
)  # fmt: skip
_CERTIFICATE = timedelta(days=1)
# A drill compares the stores itself, at its end: that nobody did before is no reason.
_ASKED_BY_A_DRILL = ("StoreDivergence",)
# Of a record that the first backup writes: a drill that takes it itself finds none, and waits for none.
_ASKED_OF_A_BACKUP = ("BackupAnomalous", "WalArchiveGap")
# A member writes the drill's rows, objects and WAL; the operator's folder gets the ledger, the restored copy of
# every database, and the copy of a disk that another program holds.
_MEMBER_BYTES, _OPERATOR_BYTES = 512 << 20, 2 << 30
_INODES_RATIO = 0.05
_MEMORY_BYTES = 1 << 30
_PRESSURE_PCT = 90.0  # PSI cpu some; beyond it the verdict is INVALID, if it lasts
_PRESSURE_MAX_PCT = 98.0  # the drill's own traffic comes on top
_SETTLE, _LOOK = timedelta(seconds=45), timedelta(seconds=1)
_DURABLE = ("on", "remote_apply")
_OVERRIDES = """
SELECT coalesce('role ' || r.rolname, '') || CASE WHEN r.oid IS NOT NULL AND d.oid IS NOT NULL THEN ' in ' ELSE '' END
       || coalesce('database ' || d.datname, ''), split_part(c, '=', 2)
  FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole
  LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
 WHERE c LIKE 'synchronous_commit=%'"""
_FUNCTIONS = """
SELECT 'function ' || p.oid::regprocedure::text || ' in database ' || current_database(), split_part(c, '=', 2)
  FROM pg_proc p, unnest(p.proconfig) c WHERE c LIKE 'synchronous_commit=%'"""
_SERVER = "SELECT 'the server (' || source || ')', reset_val FROM pg_settings WHERE name = 'synchronous_commit'"


class State(StrEnum):
    OK = "ok"
    NOTE = "note"  # worth knowing; the drill copes with it
    REFUSED = "refused"
    UNKNOWN = "unknown"  # could not be asked; as good as refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    name: str
    state: State
    detail: str
    hints: tuple[str, ...] = ()

    @property
    def stops(self) -> bool:
        return self.state in (State.REFUSED, State.UNKNOWN)


Answer = tuple[State, str, tuple[str, ...]]


@dataclass(slots=True, kw_only=True)
class Asked:
    stack: Stack
    lab: LabPlan
    access: StackAccess
    clock: Clock
    backup: bool  # a recent one is wanted; False: the drill takes the first itself
    seen: Survey | None = None  # one round of probes answers two questions

    def survey(self) -> Survey:
        if self.seen is None:
            within = bounds(self.stack)
            self.seen = survey(self.access, within, state=state_dir(), clock=self.clock)
        return self.seen


def names() -> tuple[str, ...]:
    return tuple(_QUESTIONS)


def known(despite: Collection[str]) -> None:
    """Raises Usage for a question that is not asked. Before anything else: the answers take seconds."""
    if unknown := sorted(set(despite) - set(names())):
        raise Usage(
            f"--despite {unknown[0]}: no such question", hint=f"there are {', '.join(names())}"
        )


def check(asked: Asked) -> tuple[Finding, ...]:
    """Every question, in the order in which a person would mend things."""
    found = []
    for name, question in _QUESTIONS.items():
        try:
            state, detail, hints = question(asked)
        except (ZaibeiError, psycopg.Error, OSError) as no_answer:
            first = next(iter(str(no_answer).splitlines()), type(no_answer).__name__)
            state, detail, hints = (
                State.UNKNOWN,
                first,
                (f"--despite {name}, when you know better",),
            )
        found.append(Finding(name=name, state=state, detail=detail, hints=hints))
    return tuple(found)


def demand(found: Sequence[Finding], *, despite: Collection[str]) -> tuple[Finding, ...]:
    """Raises Refused, or Missing where only data is, with everything that stands against a drill and the way out of
    each. Answers with what was found and is ignored on demand.
    """
    against = [f for f in found if f.stops and f.name not in despite]
    if against:
        said = "; ".join(f"{f.name}: {f.detail}" for f in against)
        hints = tuple(dict.fromkeys(h for f in against for h in f.hints))
        kind = Missing if [f.name for f in against] == ["data"] else Refused
        raise kind(f"not fit for a drill: {said}", hint=hints)
    return tuple(f for f in found if f.stops)


def _faults(asked: Asked) -> Answer:
    left = journal.active(asked.lab)
    if not left:
        return State.OK, "no fault is in force", ()
    told = ", ".join(map(str, left.values()))
    return (
        State.REFUSED,
        f"faults of an earlier drill are still there: {told}",
        ("zaibei drill undo",),
    )


def _helpers(asked: Asked) -> Answer:
    left = process.orphans(state_dir())
    if not left:
        return State.OK, "no program of an earlier run is left", ()
    told = ", ".join(f"{pid} ({words})" for pid, words in list(left.items())[:5])
    return (
        State.REFUSED,
        f"programs of a zaibei that has ended still run: {told}",
        ("zaibei drill undo",),
    )


def _writer(asked: Asked) -> Answer:
    if reason := steady_state.why_not_steady(asked.stack, asked.access):
        hint = "zaibei lab status; zaibei lab up brings it there"
        return State.REFUSED, f"the stack is not in its steady state: {reason}", (hint,)
    return (
        State.OK,
        "production writes, the same city follows synchronously, the remote site streams",
        (),
    )


def _data(asked: Asked) -> Answer:
    if (count := steady_state.people(asked.access)) is None:
        return State.REFUSED, "the base databases are empty", ("zaibei data load",)
    return State.OK, f"{count} persons are there", ()


def _backup(asked: Asked) -> Answer:
    why = (
        steady_state.why_no_recent_backup(asked.stack, now=asked.clock.now())
        if asked.backup
        else None
    )
    if why:
        hints = ("zaibei backup run", "or --prepare, which takes one before the fault")
        return State.REFUSED, f"no recent backup: {why}", hints
    return (
        State.OK,
        "every vault has a recent backup" if asked.backup else "the drill takes one",
        (),
    )


def _alerts(asked: Asked) -> Answer:
    rules = tuple(
        r for r in all_rules() if r.severity == "critical" and r.alert not in _MENDED_BY_A_DRILL
    )
    found = ask_alerts(rules, asked.survey(), bounds(asked.stack))
    if found.firing:
        told = "; ".join(f"{f.alert}: {f.summary['en']}" for f in found.firing)
        runbooks = dict.fromkeys(f.runbook.removesuffix(".yml") for f in found.firing)
        return (
            State.REFUSED,
            f"critical alerts fire: {told}",
            tuple(f"zaibei runbook show {r}" for r in runbooks),
        )
    if doubts := doubts_of(found.unmeasured, backup=asked.backup):
        told = "; ".join(f"{d.alert} at {d.at or 'the stack'}: {d.reason}" for d in doubts[:5])
        return (
            State.UNKNOWN,
            f"not measured: {told}",
            ("zaibei monitor check", "--despite alerts, when you know better"),
        )
    return State.OK, f"none of {len(rules)} critical alerts fires", ()


def doubts_of(found: Sequence[Unmeasured], *, backup: bool) -> list[Unmeasured]:
    """Those that speak against a drill. `backup`: one must be there already."""
    passed_over = _ASKED_BY_A_DRILL if backup else (*_ASKED_BY_A_DRILL, *_ASKED_OF_A_BACKUP)
    return [one for one in found if one.alert not in passed_over]


def _disks(asked: Asked) -> Answer:
    wanted = [(h.name, h.disk, _MEMBER_BYTES) for h in asked.lab.hosts]
    wanted.append(("the operator's state folder", state_dir(), _OPERATOR_BYTES))
    short = [why for name, path, need in wanted if (why := why_too_full(name, path, need))]
    if short:
        return State.REFUSED, "; ".join(short), ("zaibei runbook show free-disk",)
    return State.OK, "room and inodes on every member and in the state folder", ()


def why_too_full(name: str, path: Path, need: int) -> str | None:
    at = os.statvfs(path)
    free = at.f_bavail * at.f_frsize
    if free < need:
        return f"{name} has {free >> 20} MiB free, a drill wants {need >> 20} MiB"
    if at.f_files and at.f_favail < at.f_files * _INODES_RATIO:
        return f"{name} has {at.f_favail} of {at.f_files} inodes free"
    return None


def _certificates(asked: Asked) -> Answer:
    left = {
        s.labels: s.value
        for s in asked.survey().samples
        if s.metric == "zaibei_cert_expiry_seconds"
    }
    if not left:
        return (
            State.UNKNOWN,
            "no certificate was seen",
            ("--despite certificates, when you know better",),
        )
    where, first = min(left.items(), key=lambda e: e[1])
    told = f"the first to expire is {' '.join(where)}, in {first / 3600:.0f} h"
    if first < _CERTIFICATE.total_seconds():
        return State.REFUSED, told, ("zaibei runbook show renew-certificates",)
    return State.OK, told, ()


def _synchronous(asked: Asked) -> Answer:
    """What a session has set for itself PostgreSQL shows to nobody else."""
    databases = sorted({"postgres", *(d.name for d in asked.stack.databases)})
    weak: dict[str, str] = {}
    for database in databases:
        with prepare.connect(asked.access, database, user="zaibei_probe") as db:
            weak |= not_durable(db)
    if weak:
        told = "; ".join(f"{where}: {value}" for where, value in weak.items())
        return (
            State.REFUSED,
            f"writes are acknowledged before the standby has them, synchronous_commit of {told}",
            ("ALTER ROLE … RESET synchronous_commit, or ALTER DATABASE, FUNCTION, SYSTEM",),
        )
    return (
        State.OK,
        f"synchronous_commit is on for every role, database and function of {len(databases)} databases",
        (),
    )


def not_durable(db: "psycopg.Connection[tuple[object, ...]]") -> dict[str, str]:
    """Where this server or database acknowledges a write before the standby has it, and by which value."""
    rows = [
        row for query in (_SERVER, _OVERRIDES, _FUNCTIONS) for row in db.execute(query).fetchall()
    ]
    return {str(where): str(value) for where, value in rows if str(value) not in _DURABLE}


def _pressure(asked: Asked) -> Answer:
    now = pressure_pct()
    if now is None:
        return (
            State.UNKNOWN,
            "the kernel shows no cpu pressure",
            ("--despite pressure, when you know better",),
        )
    told = f"cpu pressure {now:g} %"
    if now > _PRESSURE_MAX_PCT:
        told = f"the machine is overloaded: {told}, {_PRESSURE_MAX_PCT:g} % is the bound"
        return State.REFUSED, told, ("wait, or --despite pressure: the verdict will be INVALID",)
    if now > _PRESSURE_PCT:
        return State.NOTE, f"{told}: above {_PRESSURE_PCT:g} % the verdict is INVALID", ()
    return State.OK, told, ()


def pressure_pct() -> float | None:
    """How much of the last ten seconds something waited for a core."""
    with suppress(OSError):
        for line in Path("/proc/pressure/cpu").read_text().splitlines():
            kind, *figures = line.split()
            if kind == "some":
                return float(dict(f.split("=") for f in figures)["avg10"])
    return None


def settle(clock: Clock, progress: Progress) -> None:
    """Wait a little for what was just booted and loaded to come to rest; the question is asked afterwards."""
    progress.step("asking whether the stack is well enough")
    with suppress(Unreachable):
        wait_until(
            lambda: f"{now:g} %" if (now := pressure_pct() or 0.0) > _PRESSURE_PCT else None,
            what="the cpu pressure to fall", deadline=_SETTLE, interval=_LOOK, clock=clock,
        )  # fmt: skip


def _memory(asked: Asked) -> Answer:
    free = available_memory()
    if free < _MEMORY_BYTES:
        return (
            State.REFUSED,
            f"{free >> 20} MiB of memory are available, a drill wants {_MEMORY_BYTES >> 20}",
            (),
        )
    return State.OK, f"{free >> 20} MiB of memory are available", ()


def _wall_clock(asked: Asked) -> Answer:
    """The evidence log orders drills by it: a clock that went back makes a drill of before its predecessor."""
    newest = max((p.stat().st_mtime for p in default_dir().rglob("*") if p.is_file()), default=0.0)
    behind = newest - asked.clock.now().timestamp()
    if behind > 1:
        return (
            State.REFUSED,
            f"the clock is {behind:.0f} s behind the newest evidence",
            ("set the clock",),
        )
    return State.OK, "the clock is not behind the newest evidence", ()


def _mounts(asked: Asked) -> Answer:
    held = [f"{h.name} by {', '.join(who)}" for h in asked.lab.hosts if (who := disk.holders(h))]
    if held:
        told = f"other programs hold the disk of {'; '.join(held)}: after a power loss it is copied"
        return State.NOTE, told, ()
    return State.OK, "no other program holds a site's disk", ()


_QUESTIONS: dict[str, Callable[[Asked], Answer]] = {
    "faults": _faults,
    "helpers": _helpers,
    "writer": _writer,
    "data": _data,
    "backup": _backup,
    "alerts": _alerts,
    "disks": _disks,
    "certificates": _certificates,
    "synchronous-commit": _synchronous,
    "pressure": _pressure,
    "memory": _memory,
    "clock": _wall_clock,
    "mounts": _mounts,
}


def told(found: Sequence[Finding]) -> Iterator[str]:
    """A line each, for people."""
    marks = {State.OK: "✓", State.NOTE: "–", State.REFUSED: "✗", State.UNKNOWN: "?"}
    for f in found:
        yield f"{marks[f.state]} {f.name:18} {f.detail}"
