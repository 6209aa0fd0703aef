"""Watch the service after the fault until it is back, or end the fault early: when the drill does more harm than it
may, or when the load that it is measured under is gone.
"""

from datetime import timedelta
from typing import TYPE_CHECKING

from failover import harm, observer
from failover.clients.process import Clients
from failover.clients.traffic import Counts
from failover.record import Cut
from infra.faults import journal
from loadtest.results import Live
from loadtest.run import Surge
from zaibei.kernel.bilingual import Bilingual
from zaibei.kernel.wait import wait_until

if TYPE_CHECKING:
    from failover.record import Run


_STABLE_WINDOW = timedelta(seconds=5)
_LOOK_EVERY = timedelta(seconds=1)
_BAD_SHARE = 0.02  # of the writes of one look: a straggler is not an outage
_WRITER_BACK = timedelta(seconds=120)


def wait(run: "Run", traffic: Clients, surge: Surge | None) -> None:
    """Until acknowledged writes have flowed for a while again. A drill whose service does not come back is not
    aborted: its fault is undone, its verdict is FAIL, and it is judged like any other.
    """
    run.progress.step("waiting for the service to come back")
    if not _recovered(run, traffic, surge):
        assert run.injected is not None
        # Patience that ended is no harm of its own: the RTO is judged, and on a busy host that is INVALID.
        why = run.cut.reason if run.cut else "the service is not back in time"
        run.progress.step(f"ending the fault now: {why}")
        journal.undo(run.injected.fault_id, run.lab, run.clock)
        wait_until(
            lambda: (
                None
                if observer.writer_now(run.access, remote=run.remote)[0]
                else "no site takes writes"
            ),
            what="a writer after the fault was undone",
            deadline=_WRITER_BACK,
            clock=run.clock,
        )


def why_load_is_gone(surge: Surge | None) -> Bilingual | None:
    """A crowd that died looks like a service that is not asked: what is measured from then on is something else."""
    after = None if surge is None else surge.died_after()
    if after is None:
        return None
    return Bilingual(
        f"the load engine ended after {after.total_seconds():.0f} s, before it was told to",
        f"负载发生器在 {after.total_seconds():.0f} 秒后提前结束",
    )


def _recovered(run: "Run", traffic: Clients, surge: Surge | None) -> bool:
    """False: patience has ended, or it is cut short, and `run.cut` says why."""
    assert run.injected is not None
    scenario, fault_s = run.asked.scenario, run.injected.acknowledged_s
    patience = scenario.recover_within.total_seconds()
    wanted = (_STABLE_WINDOW + scenario.traffic.after).total_seconds()
    first = before = traffic.snapshot()
    crowd = None if surge is None else surge.live()
    limit = harm.bound(scenario, run.objective, citizens_per_s=_rate(crowd))
    good_since: float | None = None
    dark_since = fault_s
    while (now := run.clock.monotonic()) - fault_s < patience:
        run.clock.sleep(_LOOK_EVERY)
        seen = traffic.snapshot()
        ok = seen.ok - before.ok
        bad = seen.fail + seen.info - before.fail - before.info
        before = seen
        if ok:
            dark_since = run.clock.monotonic()
        if not ok or bad > _BAD_SHARE * ok:
            good_since = None
        elif good_since is None:
            good_since = now
        elif now - good_since >= wanted and _taken_over(run):
            return True
        if why := why_load_is_gone(surge):
            run.cut = Cut(reason=why, harmful=False)
            return False
        done = harm.Harm(
            outage=timedelta(seconds=run.clock.monotonic() - dark_since),
            failed_writes=_failed(seen) - _failed(first),
            failed_citizens=_unserved(None if surge is None else surge.live()) - _unserved(crowd),
        )
        if why := harm.why_stop(done, limit):
            run.cut = Cut(reason=why, harmful=True)
            return False
        run.progress.done(int(now - fault_s), int(patience), unit="s since the fault")
    return False


def _taken_over(run: "Run") -> bool:
    return not run.asked.scenario.takeover or run.watch is None or run.watch.writer == run.survivor


def _failed(counts: Counts) -> int:
    return counts.fail + counts.info


def _unserved(crowd: Live | None) -> int:
    return 0 if crowd is None else crowd.failed + crowd.rejected + crowd.dropped


def _rate(crowd: Live | None) -> float | None:
    if crowd is None or not crowd.elapsed:
        return None
    return crowd.offered / crowd.elapsed.total_seconds()
