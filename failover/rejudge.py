"""Recompute a drill's verdict from the raw data in its pack, and compare it with what was signed.

The same pure functions as in the drill: `check` joins ledger and read-back, `measure` takes the times,
`judge` rules. The objective comes from the stack file in the pack and the bounds from this program, not
from the statement. Taken as recorded: the checks other than `ledger-whole`, which looked at things
that are gone (replicas, a clean room, traces of the fault).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from failover import raw, statements
from failover.checker import Findings, check
from failover.ledger.reader import Ending, Reader
from failover.measure import Measures, measure, series
from failover.required import needed
from failover.scenario import Scenario
from failover.verdict import CheckResult, Ruling, bounds_of, judge, ledger_whole
from zaibei.config.model import Hazard, Objective
from zaibei.evidence import Entry, Kind
from zaibei.evidence.packing import run_id
from zaibei.evidence.pass_rules import BOUND, contradictions
from zaibei.kernel.errors import Damage, Invalid, Usage, ZaibeiError

T = TypeVar("T")
_FIGURES = (
    "acked",
    "lost",
    "info",
    "failed",
    "phantoms",
    "resurrected",
    "epoch_overlap",
    "rpo_s",
    "objects.acked",
    "objects.lost",
    "objects.info",
    "rto_first_s",
    "rto_stable_s",
    "phases_s",
)
_CHECK = "checks.ledger-whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One field: as it was signed, and as it follows from the raw data."""

    name: str
    recorded: Any
    recomputed: Any
    why_not: str | None = None  # why it could not be recomputed

    @property
    def agrees(self) -> bool | None:
        if self.why_not:
            return None
        # `true` is not 1, though Python compares them as equal.
        plain = isinstance(self.recorded, bool) == isinstance(self.recomputed, bool)
        return plain and self.recorded == self.recomputed


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejudged:
    drill_id: str
    recorded: str  # the verdict as it was signed
    lines: tuple[Line, ...]
    denied: tuple[str, ...]  # what the statement lacks for the PASS it says

    @property
    def differing(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.agrees is False)

    @property
    def missing(self) -> tuple[str, ...]:
        """Why something could not be recomputed; empty when everything was."""
        return tuple(dict.fromkeys(line.why_not for line in self.lines if line.why_not))

    @property
    def ok(self) -> bool:
        return not (self.differing or self.missing or self.denied)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """What of the raw data is there. Each is None with a reason in `lacks`."""

    plan: Mapping[str, Any] | None
    scenario: Scenario | None
    objective: Objective | None
    required: tuple[str, ...] | None
    stack_digest: str | None
    ledger: Path | None
    ending: Ending | None
    fault_s: float | None
    findings: Findings | None
    measures: Measures | None
    cpu_some_pct: float | None
    lacks: Mapping[str, str]


def rejudge(folder: Path, entries: tuple[Entry, ...]) -> Rejudged:
    """`entries`: those of a pack that verified; `folder`: that pack, unpacked.

    Raises Usage unless the pack is of one drill with an outcome.
    """
    ends = [e for e in entries if e.statement.predicate_type == Kind.OUTCOME]
    if len(ends) != 1:
        raise Usage(
            f"one outcome can be judged; this pack has {len(ends)}",
            hint="zaibei evidence pack INDEX --to … with the index of one outcome",
        )
    end = ends[0]
    intent = next(
        e
        for e in entries
        if e.statement.predicate_type == Kind.INTENT
        and e.statement.drill_id == end.statement.drill_id
    )
    said = end.statement.predicate
    drill_id = str(end.statement.drill_id)
    data = _read(folder, intent, end)
    lines = [*_bound(data, intent.statement.predicate, said), *_recomputed(data, said)]
    denied = [d["en"] for d in contradictions(end.statement, intent.statement)]
    return Rejudged(
        drill_id=drill_id,
        recorded=str(said.get("verdict")),
        lines=tuple(lines),
        denied=tuple(denied),
    )


def _read(folder: Path, intent: Entry, end: Entry) -> _Data:
    announced = folder / "runs" / run_id(intent) / "artifacts"
    measured = folder / "runs" / run_id(end) / "artifacts"
    drill_id = str(end.statement.drill_id)
    lacks: dict[str, str] = {}

    def tried(name: str, read: Callable[[], T]) -> T | None:
        try:
            found = read()
        except ZaibeiError as gone:
            lacks[name] = gone.message
            return None
        return found

    plan: Mapping[str, Any] | None = tried("plan", lambda: raw.read_json(announced, raw.PLAN))
    scenario: Scenario | None = None
    objective: Objective | None = None
    names: tuple[str, ...] | None = None
    if plan is not None:
        scenario = tried("plan", lambda: _scenario(plan))
    if scenario is not None:
        wanted = scenario
        objective = tried("stack", lambda: _objective(raw.read_json(announced, raw.STACK), wanted))
        names = tried("stack", lambda: _required(raw.read_json(announced, raw.STACK), wanted))
    digest: str | None = tried("stack", lambda: _digest(announced))
    watch: Mapping[str, Any] | None = tried("watch", lambda: raw.read_json(measured, raw.WATCH))
    found: tuple[Ending, float, Findings | None, Measures] | None = tried(
        "ledger", lambda: _from_ledger(measured, drill_id, watch, lacks)
    )
    cpu = watch.get("cpu_some_pct_max") if watch else None
    return _Data(
        plan=plan,
        scenario=scenario,
        objective=objective,
        required=names,
        stack_digest=digest,
        ledger=measured,
        ending=found[0] if found else None,
        fault_s=found[1] if found else None,
        findings=found[2] if found else None,
        measures=found[3] if found else None,
        cpu_some_pct=cpu if isinstance(cpu, int | float) else None,
        lacks=lacks,
    )


def _from_ledger(
    folder: Path, drill_id: str, watch: Mapping[str, Any] | None, lacks: dict[str, str]
) -> tuple[Ending, float, Findings | None, Measures]:
    """Raises Invalid for a ledger that is not whole: what it does not hold cannot be counted."""
    with raw.opened(folder, raw.LEDGER) as path:
        reader = Reader(path)
        if reader.header.drill != drill_id:
            raise Damage(f"{raw.LEDGER} is of {reader.header.drill}, not of {drill_id}")
        ending = reader.read_through()
        if not ending.closed or ending.torn_bytes:
            raise Invalid(f"{raw.LEDGER} was shortened: it has no end")
        faults = [n.t_s for n in ending.notes if n.what == "fault"]
        if len(faults) != 1:
            raise Invalid(f"{raw.LEDGER} notes {len(faults)} faults, where one is measured")
        seen = raw.observations_of(dict(watch)) if watch is not None else ()
        findings: Findings | None = None
        try:
            with raw.opened(folder, raw.READBACK) as there:
                rows, objects = raw.read_readback(there, drill_id)
            findings = check(reader.ops(), rows, objects, prefix=f"{drill_id}-")
        except ZaibeiError as gone:
            lacks["readback"] = gone.message
        return (
            ending,
            faults[0],
            findings,
            measure(reader.ops(), fault_s=faults[0], observations=seen),
        )


def _digest(folder: Path) -> str:
    """The stack file is the canonical JSON that the stack's digest is taken of."""
    with raw.opened(folder, raw.STACK) as path, path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _scenario(plan: Mapping[str, Any]) -> Scenario:
    try:
        return Scenario.model_validate(plan.get("scenario"))
    except pydantic.ValidationError as wrong:
        raise Damage(f"{raw.PLAN} holds no scenario: {wrong.errors()[0]['msg']}") from wrong


def _objective(stack: Mapping[str, Any], scenario: Scenario) -> Objective:
    """As the stack declares it, whatever the statement says."""
    try:
        declared = [
            o
            for d in stack["databases"]
            if d["name"] == scenario.database
            for o in d["objectives"]
            if o["hazard"] == scenario.hazard.value
        ]
        return Objective(
            hazard=Hazard(declared[0]["hazard"]),
            rto=timedelta(seconds=declared[0]["rto"]),
            rpo=timedelta(seconds=declared[0]["rpo"]),
        )
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as bad:
        raise Damage(
            f"{raw.STACK} declares no objective of {scenario.database} for {scenario.hazard.value}"
        ) from bad


def _required(stack: Mapping[str, Any], scenario: Scenario) -> tuple[str, ...]:
    services = stack.get("services")
    if not isinstance(services, list):
        raise Damage(f"{raw.STACK} does not list its services")
    return needed(scenario, held_to_service=scenario.traffic.surge is not None and bool(services))


def _bound(data: _Data, intent: Mapping[str, Any], said: Mapping[str, Any]) -> Iterator[Line]:
    """What was fixed before the fault: the plan in the pack, and the stack's own objective."""
    no_plan, no_stack = data.lacks.get("plan"), data.lacks.get("plan") or data.lacks.get("stack")
    for key in BOUND:
        if key in {"objective", "required"}:
            continue
        planned = data.plan.get(key) if data.plan else None
        if key == "scenario" and data.scenario is not None:
            planned = data.scenario.name
        yield Line(name=key, recorded=said.get(key), recomputed=planned, why_not=no_plan)
        if key in intent:
            yield Line(
                name=f"{key} (intent)",
                recorded=said.get(key),
                recomputed=intent[key],
                why_not=None if key in said else f"the outcome has no {key}",
            )
    yield Line(
        name="stack.digest",
        recorded=_at(said, "stack.digest"),
        recomputed=data.stack_digest,
        why_not=data.lacks.get("stack"),
    )
    listed = said.get("required")
    yield Line(
        name="required", recorded=listed, recomputed=list(data.required or ()), why_not=no_stack
    )
    for name in ("rto", "rpo"):
        wanted = getattr(data.objective, name) if data.objective else None
        yield Line(
            name=f"objective.{name}_s",
            recorded=_at(said, f"objective.{name}_s"),
            recomputed=wanted.total_seconds() if wanted is not None else None,
            why_not=no_stack,
        )


def _recomputed(data: _Data, said: Mapping[str, Any]) -> Iterator[Line]:
    no_ledger = data.lacks.get("ledger")
    no_readback = no_ledger or data.lacks.get("readback")
    told = statements.figures(data.findings, data.measures)
    for name in _FIGURES:
        timed = name in {"rto_first_s", "rto_stable_s", "phases_s"}
        why = no_ledger if timed else no_readback
        if name == "phases_s":
            why = why or data.lacks.get("watch")
        yield Line(name=name, recorded=_at(said, name), recomputed=_at(told, name), why_not=why)
    yield from _series(data, said, no_ledger)
    yield Line(
        name="environment.psi_cpu_some",
        recorded=_at(said, "environment.psi_cpu_some"),
        recomputed=data.cpu_some_pct,
        why_not=data.lacks.get("watch"),
    )
    checks = list(_checks(said))
    whole = ledger_whole(data.ending) if data.ending else None
    recorded = next((c.passed for c in checks if c.name == "ledger-whole"), None)
    yield Line(
        name=_CHECK,
        recorded=recorded,
        recomputed=whole.passed if whole else None,
        why_not=no_ledger,
    )
    why = no_readback or next(
        (data.lacks[k] for k in ("plan", "stack", "watch") if k in data.lacks), None
    )
    ruling = None
    if not why and data.objective is not None and data.required and whole is not None:
        ruling = judge(
            data.findings,
            data.measures,
            data.objective,
            [whole, *(c for c in checks if c.name != "ledger-whole")],
            required=data.required,
            host_cpu_some_pct=data.cpu_some_pct,
            bounds=bounds_of(data.objective),
        ).ruling.value
    yield Line(name="verdict", recorded=said.get("verdict"), recomputed=ruling, why_not=why)


def _series(data: _Data, said: Mapping[str, Any], why: str | None) -> Iterator[Line]:
    """The chart's counts, second by second."""
    seconds = []
    if why is None and data.ledger is not None and data.fault_s is not None:
        with raw.opened(data.ledger, raw.LEDGER) as path:
            seconds = list(series(Reader(path).ops(), fault_s=data.fault_s))
    for name in ("ok", "fail", "info"):
        yield Line(
            name=f"series.{name}",
            recorded=_at(said, f"series.{name}"),
            recomputed=[getattr(s, name) for s in seconds],
            why_not=why,
        )


def _checks(said: Mapping[str, Any]) -> Iterator[CheckResult]:
    """As they were recorded. A check of no known form did not run."""
    listed = said.get("checks")
    for c in listed if isinstance(listed, list) else []:
        if not isinstance(c, Mapping):
            continue
        yield CheckResult(
            name=str(c.get("name")),
            ran=c.get("ran") is True,
            passed=c.get("passed") is True,
            detail=str(c.get("detail", "")),
            if_failed=Ruling.INVALID if c.get("if_failed") == "INVALID" else Ruling.FAIL,
            excusable=c.get("excusable") is True,
        )


def _at(said: Mapping[str, Any], path: str) -> Any:
    found: Any = said
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
