"""Two clocks, one contract: wall time is aware UTC, monotonic time only grows."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaibei.kernel.clock import Clock, SimClock, SystemClock

clocks = pytest.mark.parametrize("clock", [SystemClock(), SimClock()], ids=["system", "sim"])


@clocks
def test_now_is_aware_utc(clock: Clock) -> None:
    assert clock.now().tzinfo is UTC


@clocks
def test_sleep_moves_the_monotonic_clock_by_no_less_than_asked(clock: Clock) -> None:
    before = clock.monotonic()
    clock.sleep(timedelta(milliseconds=2))
    assert clock.monotonic() - before >= 0.002


@clocks
def test_sleeping_for_nothing_is_allowed(clock: Clock) -> None:
    before = clock.monotonic()
    clock.sleep(timedelta(0))
    assert clock.monotonic() >= before


def test_a_simulated_day_costs_nothing_and_moves_both_clocks_alike() -> None:
    clock = SimClock(wall=datetime(2026, 7, 20, tzinfo=UTC))
    clock.sleep(timedelta(days=1))
    assert clock.now() == datetime(2026, 7, 21, tzinfo=UTC)
    assert clock.monotonic() == 86_400


def test_simulated_time_does_not_go_back() -> None:
    with pytest.raises(AssertionError, match="does not go back"):
        SimClock().sleep(timedelta(seconds=-1))


@given(st.lists(st.timedeltas(min_value=timedelta(0), max_value=timedelta(hours=6)), max_size=20))
def test_simulated_time_is_the_sum_of_the_sleeps(sleeps: list[timedelta]) -> None:
    clock = SimClock()
    start = clock.now()
    for one in sleeps:
        clock.sleep(one)
    # Seconds are summed as floats: off by less than a microsecond a sleep.
    assert abs(clock.now() - start - sum(sleeps, timedelta(0))) <= timedelta(microseconds=20)
