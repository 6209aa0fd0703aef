from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.checker import Findings, Tally
from failover.ledger.reader import Ending
from failover.measure import Lag, Measures, Spread
from failover.verdict import Bounds, CheckResult, Ruling, Verdict, judge, ledger_whole
from zaibei.config.model import Hazard, Objective

OBJECTIVE = Objective(hazard=Hazard.H1, rto=timedelta(seconds=5), rpo=timedelta(0))
REMOTE = replace(OBJECTIVE, rpo=timedelta(seconds=10))
NONE = Tally(read=False)
GOOD = Findings(
    rows=Tally(read=True, attempted=100, ok=90, info=10, present=92, info_present=2),
    objects=NONE,
    epochs=(),
    overlap=0,
    overlap_s=0.0,
    other_epoch=0,
    newest_safe_s=120.0,
    first_ok_s=90.0,
    newest_lost_s=None,
    examples={},
)
SWIFT = Measures(
    fault_s=100.0,
    offered_from_s=80.0,
    offered_until_s=120.0,
    ok=90,
    fail=0,
    info=10,
    ok_before=20,
    ok_after=20,
    outages=(),
    last_ok_before_s=99.9,
    recovered=True,
    rto_first=timedelta(seconds=2),
    rto_stable=timedelta(seconds=3),
    per_client=Spread(clients=4, unrecovered=0, p50=None, p95=None, max=None),
    phases=(),
    lag=Lag(p99=timedelta(milliseconds=2), max=timedelta(milliseconds=20)),
)
CHECKS = [
    CheckResult(name="control", ran=True, passed=True, if_failed=Ruling.INVALID),
    CheckResult(name="replicas", ran=True, passed=True),
]
REQUIRED = ("control", "replicas")


def ruled(**how: Any) -> Verdict:
    given = {
        "findings": GOOD,
        "measures": SWIFT,
        "objective": OBJECTIVE,
        "checks": CHECKS,
        "required": REQUIRED,
        "host_cpu_some_pct": 5.0,
        **how,
    }
    return judge(
        given.pop("findings"),
        given.pop("measures"),
        given.pop("objective"),
        given.pop("checks"),
        **given,
    )


def rows(**facts: int) -> Findings:
    return replace(GOOD, rows=replace(GOOD.rows, **facts))


def test_a_drill_in_which_everything_held_passes() -> None:
    assert ruled() == Verdict(ruling=Ruling.PASS, reasons=())


LOST = replace(rows(lost=3), newest_lost_s=99.0, newest_safe_s=97.0)
NO_RECOVERY = replace(SWIFT, recovered=False, rto_first=None, rto_stable=None, ok_after=0)
NAN = float("nan")


@pytest.mark.parametrize(
    ("how", "ruling", "said"),
    [
        ({"findings": LOST}, "FAIL", "3 acknowledged writes are lost"),
        ({"findings": rows(corrupted=1)}, "FAIL", "other bytes"),
        ({"findings": rows(resurrected=1)}, "FAIL", "answered: not applied"),
        ({"findings": rows(duplicates=1)}, "FAIL", "more than once"),
        ({"findings": replace(GOOD, overlap=1, overlap_s=0.2)}, "FAIL", "split brain"),
        ({"measures": replace(SWIFT, rto_first=timedelta(seconds=6))}, "FAIL", "RTO first"),
        ({"measures": replace(SWIFT, rto_stable=timedelta(seconds=6))}, "FAIL", "RTO stable"),
        ({"measures": NO_RECOVERY}, "FAIL", "not recovered"),
        ({"checks": [CHECKS[0], replace(CHECKS[1], passed=False)]}, "FAIL", "replicas"),
        ({"checks": [replace(CHECKS[0], passed=False), CHECKS[1]]}, "INVALID", "control"),
        ({"checks": CHECKS[:1]}, "INVALID", "replicas: did not run"),
        ({"checks": [CHECKS[0], replace(CHECKS[1], ran=False)]}, "INVALID", "did not run"),
        ({"findings": None}, "INVALID", "nothing was read back"),
        ({"measures": None}, "INVALID", "nothing was measured"),
        ({"findings": rows(phantoms=1)}, "INVALID", "never attempted"),
        ({"findings": rows(read=False)}, "INVALID", "not read back: row"),
        ({"findings": rows(ok=0)}, "INVALID", "no write was acknowledged"),
        ({"measures": replace(SWIFT, ok_before=4)}, "INVALID", "before the fault"),
        ({"measures": replace(SWIFT, ok_after=4)}, "INVALID", "after recovery"),
        ({"measures": replace(NO_RECOVERY, offered_until_s=104.0)}, "INVALID", "traffic ended"),
        ({"measures": replace(SWIFT, lag=None)}, "INVALID", "sent nothing"),
        ({"host_cpu_some_pct": None}, "INVALID", "was not measured"),
        ({"host_cpu_some_pct": 61.0}, "INVALID", "overloaded"),
        ({"host_cpu_some_pct": NAN}, "INVALID", "overloaded"),
    ],
)
def test_each_fault_of_a_drill_is_named(how: dict[str, Any], ruling: str, said: str) -> None:
    verdict = ruled(**how)
    assert verdict.ruling == ruling
    assert said in verdict.reasons[0]


def test_a_late_generator_is_no_measurement() -> None:
    late = Lag(p99=timedelta(milliseconds=2), max=timedelta(seconds=1))
    verdict = ruled(measures=replace(SWIFT, lag=late))
    assert verdict.ruling is Ruling.INVALID
    assert "generator was late" in verdict.reasons[0]
    wide = Bounds(lag_max=timedelta(seconds=2))
    assert ruled(measures=replace(SWIFT, lag=late), bounds=wide).ruling is Ruling.PASS


def test_proven_loss_outranks_a_doubtful_measurement_and_both_are_told() -> None:
    verdict = ruled(findings=LOST, host_cpu_some_pct=99.0)
    assert verdict.ruling is Ruling.FAIL
    assert any("overloaded" in r for r in verdict.reasons)


def test_a_slow_recovery_on_an_overloaded_host_is_not_blamed_on_the_service() -> None:
    slow = replace(SWIFT, rto_first=timedelta(seconds=60))
    verdict = ruled(measures=slow, host_cpu_some_pct=99.0)
    assert verdict.ruling is Ruling.INVALID
    assert any("RTO first" in r for r in verdict.reasons)


def test_where_some_loss_is_allowed_it_is_measured_against_the_allowance() -> None:
    assert ruled(findings=LOST, objective=REMOTE).ruling is Ruling.PASS
    old = replace(LOST, newest_safe_s=85.0)
    verdict = ruled(findings=old, objective=REMOTE)
    assert verdict.ruling is Ruling.FAIL
    assert "14.9" in verdict.reasons[0]
    everything = replace(LOST, newest_safe_s=None, first_ok_s=98.0)
    assert ruled(findings=everything, objective=REMOTE).ruling is Ruling.FAIL, "a lower bound"


def test_a_verdict_that_requires_nothing_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        ruled(required=())


def test_a_ledger_of_a_client_that_died_spoils_the_measurement() -> None:
    whole = Ending(closed=True, sha256="", torn_bytes=0, unanswered=0, withdrawn=2, notes=())
    assert ledger_whole(whole).passed
    for spoilt in ({"closed": False}, {"torn_bytes": 1}, {"unanswered": 1}):
        result = ledger_whole(replace(whole, **spoilt))  # type: ignore[arg-type]
        verdict = ruled(checks=[*CHECKS, result])
        assert verdict.ruling is Ruling.INVALID


# -- for any input -----------------------------------------------------------------------------

_COUNT = st.sampled_from([0, 0, 0, 1, 7, 100])
_S = st.one_of(st.none(), st.floats(min_value=0, max_value=300))
_TD = st.one_of(st.none(), st.floats(min_value=0, max_value=20).map(lambda x: timedelta(seconds=x)))
_TALLIES = st.builds(
    Tally,
    read=st.booleans(),
    attempted=_COUNT,
    ok=st.sampled_from([0, 50]),
    fail=_COUNT,
    info=_COUNT,
    present=_COUNT,
    info_present=_COUNT,
    lost=_COUNT,
    corrupted=_COUNT,
    resurrected=_COUNT,
    phantoms=_COUNT,
    duplicates=_COUNT,
)
_FINDINGS = st.one_of(
    st.none(),
    st.just(GOOD),
    st.builds(
        Findings,
        rows=_TALLIES,
        objects=_TALLIES,
        epochs=st.just(()),
        overlap=_COUNT,
        overlap_s=st.floats(),
        other_epoch=_COUNT,
        newest_safe_s=_S,
        first_ok_s=_S,
        newest_lost_s=_S,
        examples=st.just({}),
    ),
)
_MEASURES = st.one_of(
    st.none(),
    st.just(SWIFT),
    st.builds(
        replace,
        st.just(SWIFT),
        ok_before=_COUNT,
        ok_after=_COUNT,
        recovered=st.booleans(),
        rto_first=_TD,
        rto_stable=_TD,
        offered_until_s=_S,
        last_ok_before_s=_S,
        lag=st.one_of(st.none(), st.just(SWIFT.lag)),
    ),
)
_CHECKS = st.lists(
    st.builds(
        CheckResult,
        name=st.sampled_from(["control", "replicas", "nothing-left"]),
        ran=st.sampled_from([True, True, False]),
        passed=st.sampled_from([True, True, False]),
        if_failed=st.sampled_from(Ruling),
    ),
    max_size=4,
)
_HOST = st.one_of(st.none(), st.floats())


@given(
    findings=_FINDINGS,
    measures=_MEASURES,
    objective=st.sampled_from([OBJECTIVE, REMOTE]),
    checks=st.one_of(st.just(CHECKS), _CHECKS),
    required=st.sets(st.sampled_from(["control", "replicas", "nothing-left"]), min_size=1),
    host=_HOST,
)
def test_pass_is_said_only_when_everything_was_looked_at_and_everything_held(
    findings: Findings | None,
    measures: Measures | None,
    objective: Objective,
    checks: list[CheckResult],
    required: set[str],
    host: float | None,
) -> None:
    verdict = judge(
        findings, measures, objective, checks, required=required, host_cpu_some_pct=host
    )
    if verdict.ruling is not Ruling.PASS:
        assert verdict.reasons
        return
    assert findings is not None
    assert measures is not None
    assert measures.lag is not None
    assert host is not None
    assert host <= 60.0
    assert all(c.ran and c.passed for c in checks)
    assert required <= {c.name for c in checks}
    assert findings.corrupted == findings.resurrected == findings.duplicates == 0
    assert findings.overlap == findings.phantoms == 0
    assert findings.acknowledged > 0
    assert findings.lost == 0 or objective.rpo
    assert not findings.unread
    assert measures.rto_first is not None
    assert measures.rto_stable is not None
    assert max(measures.rto_first, measures.rto_stable) <= objective.rto
    assert measures.ok_before >= 5


@given(missing=st.sampled_from(REQUIRED), gone=st.booleans())
def test_pass_is_impossible_when_a_check_is_missing(missing: str, gone: bool) -> None:
    checks = [
        replace(c, ran=False) if c.name == missing else c
        for c in CHECKS
        if c.name != missing or not gone
    ]
    assert ruled(checks=checks).ruling is Ruling.INVALID
