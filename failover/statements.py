"""What a drill says: its intent before, its result after, and the files that back each figure. Pure but for
reading versions and writing the artefacts out.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from failover import raw
from failover.announced import bound, machine, missing, seconds
from failover.checker import Findings
from failover.measure import Measures, Second, rpo
from failover.required import title
from failover.service import Crowd, unserved
from failover.verdict import CheckResult, Verdict
from infra.faults.model import Kind as FaultKind
from infra.lab.preflight import available_memory
from loadtest.verdict import Clause
from zaibei.kernel.bilingual import Bilingual, both

if TYPE_CHECKING:
    from failover.record import Run

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


def artefacts(run: "Run", into: Path) -> list[raw.Put]:
    """The files an auditor recomputes everything from, copied beside the statement."""
    wanted = {
        raw.LEDGER: run.ledger_file,
        raw.READBACK: run.folder / raw.READBACK,
        "surge.jsonl": next(iter(sorted((run.folder / "surge").glob("*.jsonl"))), None),
        "control-honest.jsonl": _control(run, "honest"),
        "control-sabotaged.jsonl": _control(run, "sabotaged"),
    }
    if run.watch is not None:
        wanted[raw.WATCH] = run.folder / raw.WATCH
        seen = raw.watch_json(run.watch.observations(), run.watch.cpu_some_pct_max)
        (run.folder / raw.WATCH).write_bytes(seen)
    return [raw.put(f, into, name) for name, f in wanted.items() if f is not None and f.exists()]


def figures(found: Findings | None, measured: Measures | None) -> dict[str, Any]:
    """What follows from the ledger and the read-back alone: the drill states it, the judge again."""
    loss = rpo(found, measured) if found and measured else None
    return {
        "rto_first_s": seconds(measured.rto_first) if measured else None,
        "rto_stable_s": seconds(measured.rto_stable) if measured else None,
        "phases_s": {p.what: seconds(p.took) for p in measured.phases} if measured else {},
        "acked": found.rows.ok if found else None,
        "lost": found.rows.lost + found.rows.corrupted if found else None,
        "info": found.rows.info if found else None,
        "failed": found.rows.fail if found else None,
        "phantoms": found.phantoms if found else None,
        "resurrected": found.resurrected if found else None,
        "epoch_overlap": found.overlap if found else None,
        "rpo_s": seconds(loss.time) if loss else None,
        "objects": {
            "acked": found.objects.ok if found else None,
            "lost": found.objects.lost + found.objects.corrupted if found else None,
            "info": found.objects.info if found else None,
        },
    }


def result(
    run: "Run", verdict: Verdict, named: Sequence[raw.Put], *, series: Sequence[Second]
) -> dict[str, Any]:
    """The drill's JSON: the command line's contract and the predicate of the outcome are one thing."""
    back = run.returned
    told = figures(run.findings, run.measures)
    told["objects"]["healed"] = back.healed if back else None
    lacking = missing(run)
    return (
        bound(run)
        | told
        | {
            "drill_id": run.drill_id,
            "title": run.asked.scenario.title.model_dump(),
            "verdict": verdict.ruling.value,
            "reasons": [str(r) for r in verdict.reasons],
            "reasons_i18n": [both(r) for r in verdict.reasons],
            "summary": _summary(run),
            "ended_at": run.clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "topology": _topology(run),
            "fault": _fault(run),
            "writer": {k: {"site": s or None, "epoch": e} for k, (s, e) in run.epochs.items()},
            "timeline": _timeline(run),
            "series": _series(run, series),
            "surge": _surge(run),
            "backup": _backup(run),
            "failback": {
                "done": back.done if back else False,
                "took_s": seconds(back.took) if back else None,
                "switchover_s": seconds(back.switchover) if back else None,
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
                    run.control.detail
                    if run.control
                    else Bilingual("not reached", "没有执行到这一步")
                ),
            },
            "checks": [_check(c) for c in run.checks],
            "not_measured": [str(n) for n in lacking],
            "not_measured_i18n": [both(n) for n in lacking],
            "environment": _environment(run),
            "artefacts": [n.as_json() for n in named if n.sha256],
            "left_out": [n.as_json() for n in named if n.left_out],
        }
    )


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


def _summary(run: "Run") -> list[dict[str, str]]:
    """Beside any verdict, also of a drill that was cut short: how many citizens got nothing."""
    if run.crowd is not None:
        return [both(run.crowd.sentence())]
    return [both(unserved(run.surge.offered, run.surge.ok))] if run.surge is not None else []


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
        {
            "t_s": 0.0,
            "kind": "fault",
            "site": run.injected.fault.site,
            "what": run.asked.scenario.title.model_dump(),
        },
    ]
    if run.point is not None:
        events.append(
            {
                "t_s": run.point.after_s - zero,
                "kind": "point",
                "site": run.writer,
                "what": {
                    "zh": "恢复点已命名并归档",
                    "en": "the restore point is named and archived",
                },
            }
        )
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
        "offered": s.offered,
        "sent": s.sent,
        "ok": s.ok,
        "failed": s.failed,
        "rejected": s.rejected,
        "dropped": s.dropped,
        "p50_ms": _ms(s.p50),
        "p99_ms": _ms(s.p99),
        "p999_ms": _ms(s.p999),
        "longest_silence_s": seconds(s.longest_silence),
        "amplification": s.amplification,
        "send_lag_p99_ms": _ms(s.send_lag_p99),
        "verdict": "VALID" if s.generator_verdict.valid else "INVALID",
        "reasons": [str(r) for r in s.generator_verdict.reasons],
        "reasons_i18n": [both(r) for r in s.generator_verdict.reasons],
        "scenario": s.scenario,
        "unserved": s.offered - s.ok,
        "unserved_ratio": round((s.offered - s.ok) / s.offered, 6) if s.offered else None,
        "judged": _judged(run.crowd) if run.crowd else None,
    }


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
        "longest_silence_s": seconds(crowd.judged.longest_silence),
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
        "took_s": seconds(made.took) if made else None,
        "restore_verified": back.verified if back else False,
        "rpo_wal_s": seconds(run.rpo_wal),
        "restore_s": seconds(back.took) if back else None,
        "restored_from": back.vault if back else None,
        "target": back.target if back else None,
        "rows_compared": back.rows_compared if back else None,
        "tables_compared": back.tables_compared if back else None,
    }


def _environment(run: "Run") -> dict[str, Any]:
    return machine() | {
        "memory_available_bytes": available_memory(),
        "lab_memory_bytes_max": run.memory_bytes_max or None,
        "psi_cpu_some": run.watch.cpu_some_pct_max if run.watch else None,
        "clock": "CLOCK_MONOTONIC of the operator's machine, outside every site",
    }


def _check(c: CheckResult) -> dict[str, Any]:
    return {
        "name": c.name,
        "ran": c.ran,
        "passed": c.passed if c.ran else None,
        "if_failed": c.if_failed.value,
        "excusable": c.excusable,
        "detail": str(c.detail),
        "title": both(title(c.name)),
        "detail_i18n": both(c.detail),
    }


def _control(run: "Run", arm: str) -> Path | None:
    return next(iter(sorted((run.folder / "control").rglob(f"*{arm}*.jsonl"))), None)


def _ms(value: timedelta | None) -> float | None:
    return None if value is None else round(value.total_seconds() * 1000, 3)
