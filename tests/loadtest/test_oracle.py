"""The engine must report what arithmetic says, and the arithmetic must be right by itself."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.oracle import (
    FULL,
    Percentiles,
    StallTest,
    ask,
    percentiles,
    truth_of,
    within,
)
from loadtest.verdict import Verdict
from zaibei.kernel.clock import SystemClock

MS = timedelta(milliseconds=1)


def test_a_second_of_stall_in_sixty_is_410_ms_at_p99_and_950_at_p999() -> None:
    due_s = [i / FULL.rate_rps for i in range(int(FULL.rate_rps * 60))]
    truth = percentiles(truth_of(due_s, froze_s=30, thawed_s=31, base=FULL.base))

    assert truth.p50 == 10 * MS
    # 1 % of 60 s is the last 600 ms of waiting: 1000 + 10 - 600; p99.9: 1000 + 10 - 60. One arrival
    # (10 ms of them) was caught just before the freeze with its answer ready inside it.
    assert abs(truth.p99 - 410 * MS) <= 10 * MS
    assert abs(truth.p999 - 950 * MS) <= 10 * MS


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=50),
    st.floats(0, 9),
    st.floats(0.001, 3),
    st.floats(0, 0.5),
)
def test_nobody_waits_less_than_the_base_or_more_than_the_freeze_and_the_base(
    due_s: list[float], froze_s: float, length_s: float, base_s: float
) -> None:
    waits = truth_of(
        due_s, froze_s=froze_s, thawed_s=froze_s + length_s, base=timedelta(seconds=base_s)
    )

    assert len(waits) == len(due_s)
    assert waits == sorted(waits)
    assert waits[0] >= base_s - 1e-6
    assert waits[-1] <= length_s + base_s + 1e-6


def test_a_tool_that_hides_the_stall_is_not_within_any_sane_bound() -> None:
    truth = Percentiles(p50=10 * MS, p99=410 * MS, p999=950 * MS)
    hidden = Percentiles(p50=0 * MS, p99=-395 * MS, p999=0 * MS)  # what a closed loop reports

    assert not within(hidden, truth, ratio=0.05, tolerance=2 * MS)
    assert within(
        Percentiles(p50=0 * MS, p99=4 * MS, p999=-9 * MS), truth, ratio=0.01, tolerance=MS
    )


@pytest.mark.integration
def test_the_engine_reports_a_stall_as_arithmetic_says(tmp_path: Path) -> None:
    test = StallTest(
        rate_rps=100,
        length=timedelta(seconds=8),
        base=10 * MS,
        freeze=timedelta(seconds=1),
        send_lag_p99_max=25 * MS,  # half of what the figures may be off
    )
    # A run that the generator itself calls INVALID (a busy machine) says nothing and is made again;
    # a run with wrong figures is final.
    for attempt in range(3):
        report = ask(
            test,
            run_dir=tmp_path / str(attempt),
            clock=SystemClock(),
            tolerance_ratio=0.05,
            tolerance=2 * MS,
            beside=False,
        )
        if report.verdict is not Verdict.INVALID:
            break

    assert report.verdict is Verdict.PASS, (report.truth, report.measured, report.result)
    assert report.truth.p99 > 900 * MS
    assert report.result.offered == report.result.ok == 800
