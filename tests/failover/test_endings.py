"""A drill whose end goes wrong: it is cut short for a reason, and it concludes with what it measured."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover import announced, failback, harm, recovery, scenario
from failover.clients.process import Clients
from failover.clients.traffic import Counts
from failover.drill import _put_on_record
from failover.ledger.writer import Ledger
from failover.record import Run
from failover.verdict import Ruling
from loadtest.run import Surge
from tests.failover import drills
from zaibei.evidence import Evidence, Kind, default_dir
from zaibei.evidence import verify as verify_pack
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import ToolFailed

NO_HARM = harm.Harm(outage=timedelta(0), failed_writes=0, failed_citizens=0)


class Ledgered:
    """Clients whose writes go as `served` says, second by second after the fault."""

    def __init__(self, run: Run, served: Callable[[float], bool]) -> None:
        self._run, self._served = run, served
        assert run.injected is not None
        self._from_s = run.injected.acknowledged_s

    def snapshot(self) -> Counts:
        seconds = int(self._run.clock.monotonic() - self._from_s)
        ok = sum(20 for s in range(seconds) if self._served(s))
        return Counts(
            ok=100 + ok,
            fail=20 * seconds + 100 - ok,
            info=0,
            in_flight=0,
            overflow=0,
            lag_s_max=0.0,
            last_ok_s=None,
            last_detail="",
        )


class Crowd:
    """A surge whose engine ends `dies_s` after the fault."""

    def __init__(self, run: Run, dies_s: float) -> None:
        self._run, self._dies_s = run, dies_s
        assert run.injected is not None
        self._from_s = run.injected.acknowledged_s

    def live(self) -> object:
        class Nobody:
            elapsed = timedelta(0)
            offered = failed = rejected = dropped = 0

        return Nobody()

    def died_after(self) -> timedelta | None:
        passed = self._run.clock.monotonic() - self._from_s
        return timedelta(seconds=self._dies_s) if passed >= self._dies_s else None


def broken(folder: Path, **harm_max: object) -> Run:
    """A drill just after its fault; nothing listens at its sites."""
    made = drills.run(folder)
    made.asked = replace(
        made.asked,
        scenario=made.asked.scenario.model_copy(
            update={"harm_max": scenario.HarmMax.model_validate(harm_max)}
        ),
    )
    assert made.injected is not None
    now = made.clock.monotonic()
    made.injected = replace(made.injected, begun_s=now, acknowledged_s=now)
    return made


def waited(made: Run, served: Callable[[float], bool], crowd: Crowd | None = None) -> float:
    """How many seconds after the fault it was ended or over."""
    assert made.injected is not None
    seen: list[float] = []
    real = made.progress.step

    class Noted:
        def step(self, what: str) -> None:
            if what.startswith("ending the fault now"):
                assert made.injected is not None
                seen.append(made.clock.monotonic() - made.injected.acknowledged_s)
            real(what)

        def done(self, amount: int, total: int | None = None, *, unit: str = "") -> None: ...

        def note(self, what: str) -> None: ...

    made.progress = Noted()
    clients = cast("Clients", Ledgered(made, served))
    made.late("recovery", lambda: recovery.wait(made, clients, cast("Surge | None", crowd)))
    return seen[0] if seen else made.clock.monotonic() - made.injected.acknowledged_s


def test_an_outage_of_twice_the_objective_ends_the_fault_and_the_verdict_is_fail(
    tmp_path: Path,
) -> None:
    made = broken(tmp_path)

    after = waited(made, lambda s: False)

    assert made.objective.rto == timedelta(seconds=60)
    assert 119 <= after <= 123
    verdict, _ = drills.told(made)
    assert verdict.ruling is Ruling.FAIL


def test_a_service_that_flickers_until_patience_ends_is_judged_by_its_times_and_not_as_harm(
    tmp_path: Path,
) -> None:
    """On a busy host times are long: that is doubt, and no blame."""
    made = broken(tmp_path)

    after = waited(made, lambda s: s % 8 == 0)

    assert 118 <= after <= 123
    assert made.cut is None


def test_a_scenario_bounds_its_own_harm_and_the_verdict_says_which_bound_it_was(
    tmp_path: Path,
) -> None:
    made = broken(tmp_path, failed_writes=100)

    after = waited(made, lambda s: False)

    assert 5 <= after <= 8, "20 writes a second fail"
    verdict, told = drills.told(made)
    assert verdict.ruling is Ruling.FAIL
    assert "harm-bound: 120 writes failed, 100 is the bound" in verdict.reasons
    assert (
        "写入失败 120 次"
        in next(c for c in told["checks"] if c["name"] == "harm-bound")["detail_i18n"]["zh"]
    )
    assert told["rto_first_s"] is not None, "what was measured stays"


def test_a_crowd_that_died_ends_the_drill_and_the_verdict_is_invalid(tmp_path: Path) -> None:
    made = broken(tmp_path)

    after = waited(made, lambda s: s > 3, Crowd(made, dies_s=9.0))

    assert 9 <= after <= 12, "and not after three minutes"
    made.checks = [c for c in made.checks if c.name != "takeover"]
    verdict, _ = drills.told(made)
    assert verdict.ruling is Ruling.INVALID
    assert "load-lasted: the load engine ended after 9 s, before it was told to" in verdict.reasons


@given(
    outage=st.floats(0, 500),
    writes=st.integers(0, 9999),
    citizens=st.integers(0, 9999),
    bound=st.builds(
        harm.Bound,
        outage=st.timedeltas(timedelta(seconds=1), timedelta(hours=1)),
        failed_writes=st.integers(0, 9999),
        failed_citizens=st.none() | st.integers(0, 9999),
    ),
)
def test_a_drill_goes_on_exactly_while_no_bound_is_exceeded(
    outage: float, writes: int, citizens: int, bound: harm.Bound
) -> None:
    done = harm.Harm(
        outage=timedelta(seconds=outage), failed_writes=writes, failed_citizens=citizens
    )
    within = (
        done.outage < bound.outage
        and writes <= bound.failed_writes
        and (bound.failed_citizens is None or citizens <= bound.failed_citizens)
    )
    assert (harm.why_stop(done, bound) is None) is within
    assert harm.why_stop(NO_HARM, bound) is None


def test_the_default_bound_comes_from_the_objective(tmp_path: Path) -> None:
    made = drills.run(tmp_path)
    limit = harm.bound(made.asked.scenario, made.objective, citizens_per_s=40.0)
    assert limit == harm.Bound(
        outage=timedelta(seconds=120), failed_writes=22 * 120, failed_citizens=40 * 120
    )


def test_a_return_that_fails_takes_nothing_away_from_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It once ended in a traceback: no RTO, no verdict, no outcome in the log."""
    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path / "state"))
    made = drills.run(tmp_path / "drill")
    before = made.measures

    def no_power() -> None:
        raise OSError(5, "Input/output error", "/var/lib/zaibei/lab/sites/site-a/disk")

    assert made.late("return", no_power) is None
    made.returned = failback.not_returned(made, made.trouble["return"], 0.0)
    evidence = Evidence.open(default_dir(), made.clock)
    (made.folder / "artefacts").mkdir()
    files = announced.announce(made, made.folder / "artefacts")
    intent = evidence.record(Kind.INTENT, announced.intent(made), subject=files)
    verdict, told = drills.told(made)
    Ledger.create(made.ledger_file, drill=made.drill_id, clock=SystemClock()).close()
    finished = _put_on_record(made, verdict, evidence, intent)

    assert verdict.ruling is Ruling.FAIL
    (reason,) = [r for r in verdict.reasons if r.startswith("failback: ")]
    assert "Input/output error" in reason
    check = next(c for c in told["checks"] if c["name"] == "failback")
    assert (check["ran"], check["passed"]) == (True, False)
    assert before is not None and before.rto_first is not None
    assert told["rto_first_s"] == before.rto_first.total_seconds()
    assert told["acked"] > 0 and told["lost"] == 0
    assert verify_pack(finished.pack).ok
    assert json.loads((made.folder / "result.json").read_text())["verdict"] == "FAIL"
    assert "OSError" in (made.folder / "trouble.log").read_text()


@pytest.mark.parametrize(
    ("step", "check"),
    [("restore", "restore-verified"), ("control", "negative-control"), ("read-back", "read-back")],
)
def test_a_late_step_that_fails_is_a_check_that_did_not_run_and_no_pass(
    step: str, check: str, tmp_path: Path
) -> None:
    made = drills.run(tmp_path)

    def fails() -> None:
        raise ToolFailed("pg_restore: exit 1", hint="look")

    made.late(step, fails)
    if step == "restore":
        made.restored = None
    if step == "control":
        made.control = None
    verdict, told = drills.told(made)

    assert verdict.ruling is Ruling.INVALID
    found = next(c for c in told["checks"] if c["name"] == check)
    assert (found["ran"], found["passed"]) == (False, None)
    assert "pg_restore: exit 1 (look)" in found["detail"]
