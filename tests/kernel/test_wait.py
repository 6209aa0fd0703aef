"""Waiting: bounded, and the error says what was still wrong."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Unreachable
from zaibei.kernel.wait import DEFAULT_INTERVAL, wait_until


def seconds(n: float) -> timedelta:
    return timedelta(seconds=n)


def test_what_is_true_at_once_costs_no_time() -> None:
    clock = SimClock()
    assert wait_until(lambda: None, what="x", deadline=seconds(0), clock=clock) == seconds(0)
    assert clock.monotonic() == 0


def test_it_tells_how_long_it_took() -> None:
    clock = SimClock()
    took = wait_until(
        lambda: None if clock.monotonic() >= 3 else "not yet",
        what="site-b",
        deadline=seconds(10),
        clock=clock,
        interval=seconds(1),
    )
    assert took == seconds(3)


def test_the_error_has_the_last_reason_and_the_hint() -> None:
    clock = SimClock()
    with pytest.raises(Unreachable) as caught:
        wait_until(
            lambda: f"lag {clock.monotonic():g} s",
            what="standby at site-c",
            deadline=seconds(5),
            clock=clock,
            interval=seconds(2),
            hint="look at its log",
        )
    assert caught.value.message == "standby at site-c: not true after 5 s: lag 5 s"
    assert caught.value.hints == ("look at its log",)
    assert caught.value.retryable


def test_an_empty_reason_is_a_reason() -> None:
    with pytest.raises(Unreachable):
        wait_until(lambda: "", what="x", deadline=seconds(1), clock=SimClock())


def test_an_error_of_the_question_is_not_swallowed() -> None:
    def broken() -> str | None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        wait_until(broken, what="x", deadline=seconds(1), clock=SimClock())


@given(
    deadline=st.integers(0, 100_000).map(lambda ms: timedelta(milliseconds=ms)),
    interval=st.integers(100, 10_000).map(lambda ms: timedelta(milliseconds=ms)),
)
def test_it_is_asked_at_the_deadline_and_never_slept_past_it(
    deadline: timedelta, interval: timedelta
) -> None:
    clock, asked = SimClock(), []
    with pytest.raises(Unreachable):
        wait_until(
            lambda: asked.append(clock.monotonic()) or "no",
            what="x",
            deadline=deadline,
            clock=clock,
            interval=interval,
        )
    assert asked[0] == 0
    assert asked[-1] == pytest.approx(deadline.total_seconds(), abs=1e-5)
    assert len(asked) <= deadline / interval + 3


def test_the_default_interval_is_short_beside_any_rto() -> None:
    assert seconds(1) >= DEFAULT_INTERVAL
