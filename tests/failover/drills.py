"""Drills as `failover` tells them: clients and citizens are made by rule, everything from there on is the drill's
own code, so every English and Chinese word of a report comes from where a real one comes from.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

from backup import run as backup_run
from failover import scenario, statements
from failover.checker import check
from failover.control.negative_control import ControlResult
from failover.drill import _judge
from failover.ledger.format import Kind, Op, Outcome
from failover.ledger.reader import Ending
from failover.measure import Observation, measure, series
from failover.observer import Watch
from failover.record import Asked, Point, Restored, Returned, Run
from failover.required import required
from failover.verdict import Verdict, ledger_whole
from infra.faults.model import Injected
from infra.lab.plan import plan
from infra.sites import SiteAccess, StackAccess, StoreAccess
from loadtest import guard
from loadtest import scenario as surges
from loadtest.citizens import Ending as Left
from loadtest.citizens import Outcome as Answer
from loadtest.record import Recorder
from loadtest.results import Reader, SurgeResult, Tally, summarise
from loadtest.shapes import arrivals
from zaibei.config import load
from zaibei.config.model import Stack
from zaibei.kernel.bilingual import Bilingual
from zaibei.kernel.clock import SimClock
from zaibei.kernel.progress import Silent

DRILL = "drill-20261122T041730Z-7k2m9p"
ZERO_S = 1000.0  # monotonic: when the surge begins
FAULT_S = ZERO_S + 20.0
END_S = FAULT_S + 60.0
PATIENCE_S = 9.0  # before recovery: whoever came so shortly before it waited for it
Served = Callable[[float], float | None]  # seconds from the fault -> how long it took; None: never


def stack(folder: Path, *changes: tuple[str, str]) -> Stack:
    """The bundled template, with words of it replaced."""
    text = (files("zaibei.config") / "templates/two-places-three-centres.yaml").read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "stack.yaml"
    path.write_text(text)
    return load(path)


def outage(length_s: float) -> Served:
    """Away for so long; then all are served again, those who still wait first."""

    def served(at_s: float) -> float | None:
        if not 0 <= at_s < length_s:
            return 0.03
        return length_s - at_s if length_s - at_s < PATIENCE_S else None

    return served


def crowd(
    folder: Path,
    served: Served,
    *,
    lag_s: float = 0.004,
    until_s: float = END_S,
    name: str = "surge-during-failover",
) -> SurgeResult:
    """What the engine would have written of such a service, read back and added up."""
    door = guard.Door(
        url="http://127.0.0.1:1", tls=False, host="127.0.0.1", port=1, address="127.0.0.1"
    )
    made = surges.load(name).plan(
        doors=[door], declared=(), ca_file=None, seed=7, session_key=folder / "session.key"
    )
    path = folder / "results-0.jsonl"
    path.unlink(missing_ok=True)
    recorder = Recorder(path)
    recorder.ready(scenario=made.scenario, seed=7, worker=0, of=1)
    ends_s, last = until_s - ZERO_S, 0
    for a in arrivals(made.shape, made.spacing, seed=7, worker=0, of=1):
        if a.at_s >= ends_s:
            break
        for second in range(last, int(a.at_s)):
            recorder.second(at_s=second + 1.0, in_flight=0, cpu_s=0.1)
        last = int(a.at_s)
        took_s = served(ZERO_S + a.at_s - FAULT_S)
        recorder.arrived(a.at_s)
        recorder.sent(lag_s=lag_s, again=False)
        good = took_s is not None
        recorder.request(
            intended_s=a.at_s,
            step="show-code",
            outcome=Answer.OK if good else Answer.UNREACHABLE,
            took_s=min(took_s or 1.0, 0.3),
            reason="" if good else "show-code: refused",
        )
        recorder.citizen(
            intended_s=a.at_s, ending=Left.OK if good else Left.FAILED, took_s=took_s or 21.0
        )
    recorder.second(at_s=last + 1.0, in_flight=0, cpu_s=0.1)
    recorder.end(reason="stopped", at_s=ends_s, unfinished=0)
    recorder.close()
    tally = Tally()
    for line in Reader(path).lines():
        tally.take(line)
    return summarise(made, [tally], asked_to_stop_s=ends_s, start_s=ZERO_S)


def writes(length_s: float) -> list[Op]:
    """Twenty a second, all but those of the outage acknowledged."""
    found = []
    for n in range(round((END_S - ZERO_S) * 20)):
        due_s = ZERO_S + n / 20
        away = 0 <= due_s - FAULT_S < length_s
        found.append(
            Op(
                op_id=f"{DRILL}-c-{n:05d}",
                kind=Kind.ROW,
                client="c",
                seq=n,
                payload_sha256=hashlib.sha256(str(n).encode()).hexdigest(),
                intended_s=due_s,
                sent_s=due_s + 0.002,
                completed_s=due_s + (1.5 if away else 0.012),
                outcome=Outcome.FAIL if away else Outcome.OK,
                door="",
                epoch=1 if due_s < FAULT_S else 2,
            )
        )
    return found


def run(
    folder: Path,
    *,
    length_s: float = 27.0,
    served: Served | None = None,
    name: str = "site-power-loss",
    traffic: dict[str, Any] | None = None,
    declared: Stack | None = None,
    lag_s: float = 0.004,
    cpu: float = 41.5,
) -> Run:
    """Everything a finished drill knows, before it is judged. `traffic`: changes to the scenario's."""
    folder.mkdir(parents=True, exist_ok=True)
    declared = declared or stack(folder)
    chosen = scenario.load(name)
    if traffic:
        chosen = chosen.model_copy(update={"traffic": chosen.traffic.model_copy(update=traffic)})
    clock = SimClock(datetime(2026, 11, 22, 4, 21, 2, tzinfo=UTC))
    fault = chosen.fault_in(declared)
    production, same, remote = (s.name for s in declared.sites)
    objective = chosen.objective(declared)
    at = access(declared, folder)
    ops = writes(length_s)
    rows = [(o.op_id, o.payload_sha256, o.epoch) for o in ops if o.outcome is Outcome.OK]
    watch = Watch(at, site=same, was_leader=production, clock=clock)
    watch._seen += [
        Observation(t_s=FAULT_S + length_s * part, what=what)
        for part, what in ((0.9, "detect"), (0.97, "elect"), (0.98, "promote"))
    ]
    watch._cpu.append(cpu)
    made = Run(
        drill_id=DRILL,
        asked=Asked(stack=declared, scenario=chosen, seed=7, prepare=True, keep_lab=False),
        folder=folder,
        lab=plan(declared, folder),
        access=at,
        objective=objective,
        required=required(chosen, declared),
        clock=clock,
        progress=Silent(),
        started_at="2026-11-22T04:17:30.000Z",
        writer=production,
        survivor=same,
        remote=remote,
        backup=backup_run.Run(kind="postgres", took=timedelta(seconds=8), outcomes=()),
        point=Point(
            name=f"zaibei-{DRILL}", lsn="0/5000060", before_s=FAULT_S - 2.2, after_s=FAULT_S - 2.1
        ),
        injected=Injected(
            fault_id="f",
            fault=fault,
            begun_s=FAULT_S - 0.4,
            acknowledged_s=FAULT_S,
            proof="0 processes, disk shut down without flushing, port closed",
        ),
        surge_start_s=ZERO_S,
        watch=watch,
        findings=check(ops, rows, [], prefix=f"{DRILL}-"),
        measures=measure(ops, fault_s=FAULT_S, observations=watch.observations()),
        epochs={"before": (production, 1), "after": (same, 2)},
        restored=Restored(
            verified=True,
            detail=Bilingual("364 acknowledged writes are there", "364 笔已确认的写入均在"),
            vault=remote,
            snapshot=3,
            target=f"zaibei-{DRILL}",
            took=timedelta(seconds=8.7),
            rows_compared=5850,
            tables_compared=18,
        ),
        returned=Returned(
            done=True,
            detail=Bilingual(
                f"{production} writes again, {same} follows", f"{production} 恢复写入，{same} 跟随"
            ),
            took=timedelta(seconds=38),
            switchover=timedelta(seconds=3),
            writer=production,
            healed=12,
            divergent=0,
            object_detail=Bilingual(
                "12 objects copied to the store that lacked them, 0 still differ",
                "向缺失的存储补齐 12 个对象，仍有 0 个不一致",
            ),
            disagreeing=(),
            replica_detail=Bilingual("all hold the same 1084 rows", "各副本的 1084 行内容一致"),
        ),
        control=ControlResult(
            condemned=True,
            acquitted=True,
            lost=50,
            lost_made=50,
            overlap=25,
            took=timedelta(seconds=4),
            detail=Bilingual(
                "sabotaged arm: FAIL; honest arm: PASS", "破坏组：未通过；诚实组：通过"
            ),
        ),
        rpo_wal=timedelta(seconds=1.4),
        memory_bytes_max=1_400_000_000,
    )
    if made.control is not None:
        made.control = replace(made.control, honest=_arm(), sabotaged=_arm())
    if chosen.traffic.surge:
        made.surge = crowd(folder, served or outage(length_s), lag_s=lag_s)
        generator = made.surge.generator_verdict
        made.holds(
            "surge-generator",
            passed=generator.valid,
            spoils=True,
            detail=generator.reasons[0] if generator.reasons else Bilingual("as planned", "按计划"),
        )
    made.holds(
        "backup-committed",
        passed=True,
        detail=Bilingual("2 vaults hold it whole", "2 个保管库均已完整写入"),
    )
    made.checks.append(
        ledger_whole(
            Ending(closed=True, sha256="", torn_bytes=0, unanswered=0, withdrawn=0, notes=())
        )
    )
    made.holds(
        "takeover",
        passed=True,
        detail=Bilingual(
            f"{same} writes after the fault, epoch 2", f"故障后由 {same} 写入，纪元 2"
        ),
    )
    made.holds(
        "nothing-left", passed=True, detail=Bilingual("the traces are equal", "前后痕迹一致")
    )
    return made


def told(made: Run) -> tuple[Verdict, dict[str, Any]]:
    """The verdict, and the drill's JSON."""
    verdict = _judge(made)
    ops = writes((made.measures.rto_first or timedelta()).total_seconds()) if made.measures else []
    return verdict, statements.result(made, verdict, [], series=series(ops, fault_s=FAULT_S))


def access(declared: Stack, folder: Path) -> StackAccess:
    file = folder / "none"
    return StackAccess(
        stack=declared.name,
        operator_address="127.0.0.1",
        ca_file=file,
        client_cert=file,
        client_key=file,
        ssh_key=file,
        ssh_known_hosts=file,
        passwords={},
        sites=tuple(
            SiteAccess(
                name=s.name,
                address="127.0.0.1",
                postgres_port=1,
                primary_port=1,
                replica_port=1,
                store=StoreAccess(endpoint="https://127.0.0.1:1", region="r", keys={}),
                patroni_url="https://127.0.0.1:1",
                etcd_url="https://127.0.0.1:1",
                entry_url="https://127.0.0.1:1",
                exporter_url="https://127.0.0.1:1",
            )
            for s in declared.sites
        ),
    )


def _arm() -> Any:
    from failover.control.negative_control import Arm  # noqa: PLC0415
    from failover.verdict import Ruling  # noqa: PLC0415

    ops = writes(0.0)
    found = check(ops, [], [], prefix=f"{DRILL}-")
    return Arm(verdict=Verdict(ruling=Ruling.PASS, reasons=()), findings=found, ledger_sha256="")
