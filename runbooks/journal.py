"""What a run has done so far, on disk before the next thing happens: a killed run can be taken up again."""

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from zaibei.kernel.errors import Damage, Missing, Unreachable
from zaibei.kernel.state import state_dir, write_atomic


class StepState(StrEnum):
    PENDING = "pending"
    STARTED = "started"  # the action began; if the process died here, nobody knows how far it came
    ACTED = "acted"  # the action ended well; its proof was not asked yet
    PROVEN = "proven"
    FAILED = "failed"
    UNDONE = "undone"
    KEPT = "kept"  # an undo was asked for, and the step says why it has none


class RunState(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"  # every step proven; nothing less is called so
    FAILED = "failed"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    id: str
    state: StepState = StepState.PENDING
    attempts: int = 0
    started_at: str | None = None
    ended_at: str | None = None
    said: str = ""  # what the action returned, or why it failed
    proof: str = "not asked"  # `holds`, `does not hold: …`, `could not be asked: …`
    events: int = 0
    events_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    run: str
    runbook: str
    file: str
    digest: str  # of the runbook's text: a changed runbook is another runbook
    values: dict[str, str]
    started_at: str
    state: RunState = RunState.RUNNING
    ended_at: str | None = None
    approvals: dict[str, Any] = field(default_factory=dict)
    steps: tuple[StepRecord, ...] = ()

    def step(self, name: str) -> StepRecord:
        return next(s for s in self.steps if s.id == name)

    def with_step(self, record: StepRecord) -> "Journal":
        assert record.id in {s.id for s in self.steps}
        return replace(self, steps=tuple(record if s.id == record.id else s for s in self.steps))


def runs_dir() -> Path:
    return state_dir() / "runbooks"


def run_dir(run: str) -> Path:
    return runs_dir() / run


def save(journal: Journal) -> None:
    path = run_dir(journal.run) / "journal.json"
    write_atomic(path, json.dumps(asdict(journal), ensure_ascii=False, indent=2), mode=0o600)


def load(run: str) -> Journal:
    path = run_dir(run) / "journal.json"
    if "/" in run or run.startswith("."):
        raise Missing(f"no run {run!r}")
    try:
        raw = json.loads(path.read_text())
        _demand_shape(raw)
        steps = tuple(StepRecord(**{**s, "state": StepState(s["state"])}) for s in raw["steps"])
        return Journal(**{**raw, "state": RunState(raw["state"]), "steps": steps})
    except FileNotFoundError as gone:
        raise Missing(f"no run {run!r} under {runs_dir()}") from gone
    except OSError as gone:
        raise Unreachable(f"{path}: {gone.strerror}") from gone
    except (ValueError, TypeError, KeyError, RecursionError) as garbled:
        raise Damage(f"{path}: not a journal: {garbled}") from garbled


def _demand_shape(raw: Any) -> None:
    """Raises ValueError for a value that a run would stumble over after its first step was done."""
    for name in ("run", "runbook", "file", "digest", "started_at"):
        if not isinstance(raw[name], str):
            raise ValueError(f"{name} is no text")  # noqa: TRY004 - the reader's one error
    if not all(isinstance(value, str) for value in dict(raw["values"]).values()):
        raise ValueError("a value is no text")
    for step in raw["steps"]:
        if not isinstance(step["id"], str) or type(step["attempts"]) is not int:
            raise ValueError("a step has no id, or no count of attempts")


def stamp(now: datetime) -> str:
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
