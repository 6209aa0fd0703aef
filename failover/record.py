"""What a drill was asked, what it found out so far, and what it ended with: plain data."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from backup import run as backup_run
from failover import preflight as fitness
from failover import service
from failover.checker import Findings
from failover.clients.traffic import Counts
from failover.control.negative_control import ControlResult
from failover.measure import Measures
from failover.observer import Watch
from failover.scenario import Scenario
from failover.verdict import CheckResult, Ruling, Verdict
from infra.faults.model import Injected
from infra.lab.plan import LabPlan
from infra.sites import StackAccess
from loadtest.results import SurgeResult
from zaibei.config.model import Objective, Stack
from zaibei.kernel.bilingual import Bilingual
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import ZaibeiError, in_a_line
from zaibei.kernel.progress import Progress

_T = TypeVar("_T")
_WORDS = 1000  # characters of an error that go into the detail of a check


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Why the fault was ended before its time."""

    reason: Bilingual
    harmful: bool  # FAIL; False: the measurement was lost, INVALID


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A named restore point, and the monotonic moments it certainly lies between."""

    name: str
    lsn: str
    before_s: float
    after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    verified: bool
    detail: str
    vault: str
    snapshot: int
    target: str
    took: timedelta
    rows_compared: int
    tables_compared: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    done: bool
    detail: str
    took: timedelta
    switchover: timedelta | None
    writer: str | None
    healed: int
    divergent: int
    object_detail: str
    disagreeing: tuple[str, ...]
    replica_detail: str

    @property
    def compared(self) -> bool:
        return self.divergent >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the person at the command line asked for."""

    stack: Stack
    scenario: Scenario
    seed: int
    prepare: bool
    keep_lab: bool  # False: with `prepare`, take the lab down again
    despite: tuple[str, ...] = ()  # questions of the preflight whose answer is overruled
    scale: float = 1.0


@dataclass(slots=True, kw_only=True)
class Run:
    """What is known so far; each step adds what it found."""

    drill_id: str
    asked: Asked
    folder: Path
    lab: LabPlan
    access: StackAccess
    objective: Objective
    required: tuple[str, ...]  # checks without which there is no PASS; decided before the fault
    clock: Clock
    progress: Progress
    started_at: str = ""
    writer: str = ""
    survivor: str = ""
    remote: str = ""
    before: frozenset[str] = frozenset()
    backup: backup_run.Run | None = None
    point: Point | None = None
    injected: Injected | None = None
    counts: Counts | None = None
    surge: SurgeResult | None = None
    surge_start_s: float | None = None  # monotonic: second 0 of the surge
    crowd: service.Crowd | None = None  # what the surge's citizens met, judged
    watch: Watch | None = None
    run_by: dict[str, Any] = field(default_factory=dict)
    findings: Findings | None = None
    measures: Measures | None = None
    epochs: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    restored: Restored | None = None
    returned: Returned | None = None
    control: ControlResult | None = None
    checks: list[CheckResult] = field(default_factory=list)
    cut: Cut | None = None  # the fault was ended before its time
    despite: tuple[fitness.Finding, ...] = ()  # what spoke against the drill and was overruled
    trouble: dict[str, str] = field(
        default_factory=dict
    )  # steps after the fault that failed, and why
    memory_bytes_max: int = 0
    rpo_wal: timedelta | None = None

    @property
    def ledger_file(self) -> Path:
        return self.folder / "ledger.jsonl"

    @property
    def prefix(self) -> str:
        return f"{self.drill_id}-"

    def holds(self, name: str, *, passed: bool, detail: str, spoils: bool = False) -> None:
        """A check ran. `spoils`: its failure says nothing about the stack, only about the measurement."""
        self.checks.append(
            CheckResult(
                name=name,
                ran=True,
                passed=passed,
                detail=detail,
                if_failed=Ruling.INVALID if spoils else Ruling.FAIL,
            )
        )

    def did_not_run(self, name: str, why: str) -> None:
        self.checks.append(CheckResult(name=name, ran=False, passed=False, detail=why))

    def late(self, step: str, do: Callable[[], _T]) -> _T | None:
        """A step after the fault: when it fails, that is in `trouble`, and the drill goes on to its verdict."""
        try:
            return do()
        except Exception as failed:  # noqa: BLE001 - also a defect of ours must not erase what was measured
            self.went_wrong(step, failed)
            return None

    def went_wrong(self, step: str, failed: Exception) -> None:
        known = isinstance(failed, ZaibeiError)
        said = in_a_line(failed) if known else f"{type(failed).__name__}: {failed}"
        self.trouble[step] = " ".join(said.split())[:_WORDS]
        self.progress.note(f"{step}: {self.trouble[step]}")
        with (self.folder / "trouble.log").open("a") as log:
            log.write(f"{step}:\n{''.join(traceback.format_exception(failed))}\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    drill_id: str
    verdict: Verdict
    result: dict[str, Any]  # the drill's JSON; also the predicate of its outcome
    pack: Path
    folder: Path
    checkpoint: str  # SIZE:ROOT of the log, to be noted
