"""A drill from the first citizen to the verdict, in the order it happens.

Nothing here decides: what was lost says `check`, how long it took says `measure`, what that is worth
says `verdict`. This module makes things happen, in an order in which a death on any line leaves a fault
that the dead-man undoes, an intent in the log that shows it was tried, and a ledger that can be read.
"""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from backup import run as backup_run
from backup import status
from backup.postgres.wal_receiver import WalArchiver
from backup.repository.repository import Repository
from failover import (
    announced,
    failback,
    observer,
    raw,
    readback,
    record,
    recovery,
    recovery_point,
    restore_check,
    service,
    stack_access,
    statements,
    steady_state,
    who,
)
from failover import preflight as fitness
from failover.checker import check
from failover.clients import Rates
from failover.clients.process import ClientPlan, Clients
from failover.control.negative_control import run_control
from failover.ledger.reader import Reader
from failover.measure import measure, series
from failover.observer import Watch
from failover.record import Asked, Finished, Run
from failover.required import required, service_of
from failover.verdict import Verdict, bounds_of, judge, ledger_whole
from infra.faults import deadman, journal, trace
from infra.faults.model import Injected
from infra.lab import cgroup, preflight
from infra.lab import lab as lab_of_this_machine
from loadtest import run as surge_run
from loadtest import scenario as surge_scenario
from loadtest.results import SurgeResult
from zaibei import config
from zaibei.config.model import Role
from zaibei.evidence import Entry, Evidence, Kind, default_dir, pack, verify
from zaibei.evidence.calendar import record_due
from zaibei.kernel.bilingual import Bilingual, joined
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Invalid, Refused, ZaibeiError, in_a_line
from zaibei.kernel.ids import new_id
from zaibei.kernel.progress import Progress, Silent
from zaibei.kernel.state import marked, sole, state_dir, write_atomic
from zaibei.kernel.wait import wait_until

_DEADMAN = timedelta(minutes=10)  # no drill keeps a site broken for longer
_SETTLE = timedelta(seconds=60)


def lock() -> Path:
    """Held while a drill runs, and by whoever changes the lab by hand."""
    return state_dir() / "drill.lock"


def drill(asked: Asked, *, clock: Clock, progress: Progress) -> Finished:
    """Raises Busy when one runs, Refused and Missing when the ground does not hold; anything that goes
    wrong after the intent is logged as aborted, and raised.
    """
    fitness.known(asked.despite)
    objective = asked.scenario.objective(asked.stack)
    needed = required(asked.scenario, asked.stack)
    if where := config.why_not_public(asked.stack):
        raise Refused(
            f"{where} looks like a secret, and the stack goes into the pack",
            hint="name a file, a variable or a program that holds it: secrets: in stack.yaml",
        )
    with sole(lock(), what="a drill"), ExitStack() as ending:
        if asked.prepare:
            preflight.check(state_dir())  # what cannot even begin leaves nothing to take down
        if asked.prepare and not asked.keep_lab:
            # Inside the lock: a drill that was refused must not take the lab of the one that runs.
            ending.callback(_take_down, clock, progress)
        lab, access = steady_state.make_ready(
            asked.stack,
            prepare_all=asked.prepare,
            scale=asked.scale,
            clock=clock,
            progress=progress,
        )
        fitness.settle(clock, progress)
        question = fitness.Asked(
            stack=asked.stack, lab=lab, access=access, clock=clock, backup=not asked.prepare
        )
        despite = fitness.demand(fitness.check(question), despite=asked.despite)
        drill_id = new_id("drill", clock, stack_access.rng_of(asked.seed, str(clock.monotonic())))
        run = Run(
            drill_id=drill_id,
            asked=asked,
            folder=state_dir() / "drills" / drill_id,
            lab=lab,
            access=access,
            objective=objective,
            required=needed,
            clock=clock,
            progress=progress,
            started_at=_stamp(clock),
            writer=stack_access.site_of(asked.stack, Role.PRODUCTION),
            survivor=stack_access.site_of(asked.stack, Role.SAME_CITY),
            remote=stack_access.site_of(asked.stack, Role.REMOTE),
            before=trace.trace(lab),
            run_by=who.ran_by(asked.stack),
            despite=despite,
        )
        run.folder.mkdir(parents=True)
        artefacts = run.folder / "artefacts"
        artefacts.mkdir()
        files = announced.announce(run, artefacts)
        evidence = Evidence.open(default_dir(), clock)
        record_due(evidence, announced.planned(asked.stack))
        intent = evidence.record(Kind.INTENT, announced.intent(run), subject=files)
        ending.enter_context(_shown_to_monitors(run))
        try:
            _make_happen(run)
            verdict = _judge(run)
        except BaseException as gone:
            evidence.record(
                Kind.ABORTED,
                {
                    "drill_id": drill_id,
                    "scenario": asked.scenario.name,
                    "reason": f"{type(gone).__name__}: {gone}"[:2000],
                },
            )
            raise
        return _put_on_record(run, verdict, evidence, intent)


def _make_happen(run: Run) -> None:
    """The story. Whatever fails in it, the fault is undone and the clients are stopped. What fails after the fault is
    a check that failed or did not run: it takes nothing away that was measured before.
    """
    try:
        with ExitStack() as ending:
            _story(run, ending)
    except Exception as failed:
        if run.injected is None:
            raise  # nothing was broken, so there is nothing to conclude
        run.went_wrong("ending", failed)
    run.progress.step("the negative control: a sabotaged pair that the checker must condemn")
    run.control = run.late(
        "control",
        lambda: run_control(run.folder / "control", run.clock, run.asked.seed, Silent()),
    )
    left = run.late("traces", lambda: trace.differences(run.before, trace.trace(run.lab)))
    if left is None:
        run.did_not_run("nothing-left", run.trouble["traces"])
    else:
        run.holds(
            "nothing-left",
            passed=not left,
            detail=joined(left[:5]) or Bilingual("the traces are equal", "前后痕迹一致"),
        )


def _story(run: Run, ending: ExitStack) -> None:
    guard = ending.enter_context(deadman.watching(run.lab, deadline=_DEADMAN))
    stopping = threading.Event()
    repos = stack_access.repositories(run.access, clock=run.clock, progress=run.progress)
    archiver = ending.enter_context(_archiving(run, repos, stopping))
    traffic = _start_clients(run, ending)
    surge = _start_surge(run, ending)
    run.backup = _take_backup(run, repos)
    _hold_steady(run, traffic, surge)
    run.point = recovery_point.mark_point(run)
    wait_until(
        lambda: recovery_point.why_not_archived(run, archiver),
        what="the point of recovery to be in both vaults",
        deadline=_SETTLE,
        clock=run.clock,
    )
    watch = ending.enter_context(
        Watch(run.access, site=run.survivor, was_leader=run.writer, clock=run.clock)
    )
    run.watch = watch
    run.epochs["before"] = observer.writer_now(run.access, remote=run.remote)
    run.rpo_wal = archiver.lag()
    guard.arm()
    ending.callback(journal.undo_all, run.lab, run.clock)  # before anything else is ended
    run.injected = _break(run, traffic)
    run.late("recovery", lambda: recovery.wait(run, traffic, surge))
    run.epochs["after"] = run.late(
        "writer", lambda: observer.writer_now(run.access, remote=run.remote)
    ) or ("", None)
    run.memory_bytes_max = sum(cgroup.memory_bytes(cgroup.of(h)) for h in run.lab.hosts)
    run.surge = run.late("surge", lambda: _stop_surge(run, surge))
    run.progress.step("stopping client traffic and closing its ledger")
    run.counts = run.late("clients", traffic.stop)
    watch.__exit__(None, None, None)
    _judge_takeover(run)
    run.late("read-back", lambda: _read_back(run))
    with ThreadPoolExecutor(2) as pool:
        restoring = pool.submit(restore_check.restore_and_compare, run, repos)
        run.progress.step(f"bringing {run.injected.fault.site} back")
        begun = run.clock.monotonic()
        run.returned = run.late("return", lambda: _bring_back(run))
        if run.returned is None:
            run.returned = failback.not_returned(run, run.trouble["return"], begun)
        run.progress.step("restoring the backup in a clean room and comparing it with the ledger")
        run.restored = run.late("restore", lambda: _restored(run, restoring))
    stopping.set()


def _bring_back(run: Run) -> record.Returned:
    assert run.injected is not None
    journal.undo(run.injected.fault_id, run.lab, run.clock)
    return failback.fail_back(run)


def _restored(run: Run, restoring: "Future[record.Restored]") -> record.Restored:
    done = restoring.result()
    if done.verified:
        status.restore_verified(
            done.vault, sequence=done.snapshot, at=run.clock.now(), took_s=done.took.total_seconds()
        )
    return done


def _start_clients(run: Run, ending: ExitStack) -> Clients:
    spec, stack = run.asked.scenario.traffic, run.asked.stack
    rates = Rates(rows_per_s=spec.rows_per_s, objects_per_s=spec.objects_per_s)
    if reason := rates.why_too_coarse(run.objective.rto):
        raise Refused(reason)
    run.progress.step("starting client traffic: rows and objects, acknowledged in a ledger")
    plan = ClientPlan(
        drill=run.drill_id,
        ledger=str(run.ledger_file),
        doors=tuple((s, run.access.site(s).entry_url) for s in stack.entry),
        ca_file=str(run.access.ca_file),
        seed=run.asked.seed,
        rows_per_s=spec.rows_per_s,
        objects_per_s=spec.objects_per_s,
        bucket=stack_access.OBJECTS,
        bucket_sites=stack_access.declared_bucket(stack, stack_access.OBJECTS).sites,
        on_site_loss=stack.on_site_loss.value,
        session_key=None if run.access.session_key is None else str(run.access.session_key),
    )
    clients = ending.enter_context(Clients(plan, folder=run.folder, clock=run.clock))
    clients.start()
    return clients


def _start_surge(run: Run, ending: ExitStack) -> surge_run.Surge | None:
    name = run.asked.scenario.traffic.surge
    if name is None:
        return None
    run.progress.step(f"starting the load on the service: surge {name}")
    surge = surge_run.start(
        surge_scenario.load(name),
        doors=[run.access.site(s).entry_url for s in run.asked.stack.entry],
        ca_file=run.access.ca_file,
        run_dir=run.folder / "surge",
        seed=run.asked.seed,
        clock=run.clock,
        session_key=run.access.session_key,
    )
    run.surge_start_s = surge.start_s
    ending.callback(surge.close)
    return surge


def _stop_surge(run: Run, surge: surge_run.Surge | None) -> SurgeResult | None:
    if surge is None:
        return None
    run.progress.step("stopping the load on the service")
    result = surge.stop()
    generator = result.generator_verdict
    run.holds(
        "surge-generator",
        passed=generator.valid,
        spoils=True,
        detail=joined(generator.reasons)
        or Bilingual(
            f"{result.offered} citizens came as planned", f"{result.offered} 人按计划到来"
        ),
    )
    return result


def _take_backup(run: Run, repos: list[Repository]) -> backup_run.Run:
    run.progress.step(f"backing up from {run.survivor} into {' and '.join(r.name for r in repos)}")
    keep = min(d.backup.keep for d in run.asked.stack.databases)
    made = backup_run.run_postgres(
        run.access.member_dsn(run.survivor, user="zaibei_backup", database="postgres"),
        run.access.password("zaibei_backup"),
        repos,
        run.clock,
        None,
        run.progress,
        label=run.drill_id,
        retain=keep,
    )
    run.holds(
        "backup-committed",
        passed=made.complete,
        detail=joined(made.problems)
        or Bilingual(
            f"{len(made.outcomes)} vaults hold it whole",
            f"{len(made.outcomes)} 个保管库均已完整写入",
        ),
    )
    return made


def _hold_steady(run: Run, traffic: Clients, surge: surge_run.Surge | None) -> None:
    run.progress.step("steady state: traffic before the fault")
    spec = run.asked.scenario.traffic
    begun = run.clock.monotonic()
    while (passed := run.clock.monotonic() - begun) < spec.steady.total_seconds():
        run.progress.done(int(passed), int(spec.steady.total_seconds()), unit="s")
        run.clock.sleep(timedelta(milliseconds=500))
    if why := steady_state.why_not_steady(run.asked.stack, run.access):
        raise Invalid(f"the stack left its steady state before the fault: {why}")
    if why := recovery.why_load_is_gone(surge):
        raise Invalid(
            f"before the fault {why}", hint=f"see {run.folder / 'surge' / 'engine-0.log'}"
        )
    if not traffic.snapshot().ok:
        raise Invalid("no write was acknowledged before the fault", hint="zaibei lab status")


def _break(run: Run, traffic: Clients) -> Injected:
    fault = run.asked.scenario.fault_in(run.asked.stack)
    run.progress.step(f"making the fault: {fault}")
    injected = journal.make(
        fault, run.lab, clock=run.clock, rng=stack_access.rng_of(run.asked.seed, "fault")
    )
    traffic.note("fault", at_s=injected.acknowledged_s, detail=f"{fault}: {injected.proof}")
    return injected


def _read_back(run: Run) -> None:
    run.progress.step("reading every write back from the writer")
    assert run.injected is not None
    reader = Reader(run.ledger_file)
    ops = list(reader.ops())
    # First what needs no database: a writer that cannot be read takes no measured time away.
    run.checks.append(ledger_whole(reader.ending))
    assert run.watch is not None
    run.measures = measure(
        ops, fault_s=run.injected.acknowledged_s, observations=run.watch.observations()
    )
    rows = list(readback.writer_rows(run.access, prefix=run.prefix))
    store = stack_access.business_store(run.access, run.survivor, stack_access.OBJECTS)
    kept = list(readback.objects(store, prefix=run.prefix))
    raw.write_readback(run.folder / raw.READBACK, run.drill_id, rows, kept)
    run.findings = check(ops, rows, kept, prefix=run.prefix)


def _judge_takeover(run: Run) -> None:
    if run.cut is not None and not run.cut.harmful:
        run.did_not_run("takeover", run.cut.reason)
        return
    took_over = run.epochs["after"][0]
    wanted = run.survivor if run.asked.scenario.takeover else None
    run.holds(
        "takeover",
        passed=wanted is None or took_over == wanted,
        detail=Bilingual(
            f"{took_over or 'nobody'} writes after the fault, epoch {run.epochs['after'][1]}",
            f"故障后由 {took_over} 写入，纪元 {run.epochs['after'][1]}"
            if took_over
            else "故障后无站点写入",
        ),
    )


def _judge_crowd(run: Run) -> None:
    """What the citizens met, against what the surge expects and what the stack declares of its service."""
    name = run.asked.scenario.traffic.surge
    if name is None or run.surge is None or run.measures is None or run.injected is None:
        return  # a required check that was not made is INVALID
    if run.cut is not None and not run.cut.harmful:
        return  # a required check that was not made is INVALID
    run.crowd = service.judged(
        surge_scenario.load(name),
        run.surge,
        measures=run.measures,
        begun_s=run.injected.begun_s,
        objective=run.objective,
        service=service_of(run.asked.scenario, run.asked.stack),
        excused=run.asked.scenario.traffic.outage == "excused",
    )
    run.checks += run.crowd.checks


def _judge(run: Run) -> Verdict:
    run.late("crowd", lambda: _judge_crowd(run))
    if "crowd" in run.trouble:
        run.did_not_run("surge-expectation", run.trouble["crowd"])
    if run.cut is not None:
        name = "harm-bound" if run.cut.harmful else "load-lasted"
        run.holds(name, passed=False, detail=run.cut.reason, spoils=not run.cut.harmful)
    for step in ("recovery", "surge", "clients", "read-back", "ending"):
        if step in run.trouble:
            run.did_not_run(step, run.trouble[step])
    if run.restored is None:
        never = Bilingual("the restore did not finish", "恢复没有完成")
        run.did_not_run("restore-verified", run.trouble.get("restore", never))
    else:
        run.holds("restore-verified", passed=run.restored.verified, detail=run.restored.detail)
    if run.returned is None:
        for name in ("failback", "replicas-agree", "objects-converged"):
            run.did_not_run(name, Bilingual("the site did not come back", "站点没有恢复"))
    else:
        back = run.returned
        run.holds("failback", passed=back.done, detail=back.detail)
        if back.compared:
            run.holds("replicas-agree", passed=not back.disagreeing, detail=back.replica_detail)
            run.holds("objects-converged", passed=back.divergent == 0, detail=back.object_detail)
        else:
            run.did_not_run("replicas-agree", back.replica_detail)
            run.did_not_run("objects-converged", back.object_detail)
    if run.control is None:
        never = Bilingual("it was not reached", "没有执行到这一步")
        run.did_not_run("negative-control", run.trouble.get("control", never))
    else:
        run.checks.append(run.control.as_check())
    return judge(
        run.findings,
        run.measures,
        run.objective,
        run.checks,
        required=run.required,
        host_cpu_some_pct=run.watch.cpu_some_pct_max if run.watch else None,
        bounds=bounds_of(run.objective),
    )


def _take_down(clock: Clock, progress: Progress) -> None:
    """A lab that does not go away says nothing about the drill, whose verdict is on record by now."""
    try:
        lab_of_this_machine.down(clock=clock, progress=progress)
    except ZaibeiError as failed:
        progress.note(f"the lab was not taken down: {in_a_line(failed)}")


def _put_on_record(run: Run, verdict: Verdict, evidence: Evidence, intent: Entry) -> Finished:
    run.progress.step("signing the outcome and packing the evidence")
    artefacts = run.folder / "artefacts"
    named = statements.artefacts(run, artefacts)
    result = statements.result(
        run,
        verdict,
        named,
        series=list(
            series(
                Reader(run.ledger_file).ops(),
                fault_s=run.injected.acknowledged_s if run.injected else 0.0,
            )
        ),
    )
    kept = [artefacts / n.name for n in named if n.sha256]
    entry = evidence.record(Kind.OUTCOME, result, subject=kept)
    # Before the pack: what was measured is shown by `drill show` also when the pack cannot be made.
    write_atomic(run.folder / "result.json", json.dumps(result, ensure_ascii=False, indent=2))
    record_due(
        evidence, announced.planned(run.asked.stack)
    )  # this drill answered its date; the next one
    packed = pack(
        evidence,
        entries=[intent.index, entry.index],
        artefacts_dir=artefacts,
        dest=run.folder / "pack",
        title=f"{run.asked.scenario.title.en} · {run.drill_id}",
    )
    found = verify(packed)
    if not found.ok:
        raise Invalid(f"the pack that was just made does not verify: {found}")
    return Finished(
        drill_id=run.drill_id,
        verdict=verdict,
        result=result,
        pack=packed,
        folder=run.folder,
        checkpoint=str(found.noted),
    )


@contextmanager
def _archiving(
    run: Run, repos: list[Repository], stopping: threading.Event
) -> Iterator[WalArchiver]:
    """WAL into both vaults all along; its status goes where the exporter reads it."""
    conninfo = run.access.primary_dsn(user="zaibei_backup", database="postgres")
    archiver = WalArchiver(
        conninfo=f"{conninfo} target_session_attrs=read-write",
        password=run.access.password("zaibei_backup"),
        repositories=repos,
        spool=state_dir() / "backup" / "spool",
        clock=run.clock,
    )
    with archiver:
        thread = threading.Thread(
            target=archiver.run, args=(stopping,), name="archiver", daemon=True
        )
        thread.start()
        try:
            yield archiver
        finally:
            stopping.set()
            thread.join(timeout=30)
            status.wal(archiver.status(), at=run.clock.now())


def _shown_to_monitors(run: Run) -> AbstractContextManager[None]:
    """Alerts of these minutes are made on purpose: the exporter tells so, for as long as this process lives."""
    fault = run.asked.scenario.fault_in(run.asked.stack)
    mark = {"drill_id": run.drill_id, "scenario": run.asked.scenario.name, "site": fault.site}
    return marked(state_dir() / "drills" / "running.json", json.dumps(mark))


def _stamp(clock: Clock) -> str:
    return clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
