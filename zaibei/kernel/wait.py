"""Waiting with a bound and a reason: the error says what was still wrong at the deadline."""

from collections.abc import Callable
from datetime import timedelta

from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Unreachable

DEFAULT_INTERVAL = timedelta(milliseconds=200)


def wait_until(
    why_not: Callable[[], str | None],
    *,
    what: str,
    deadline: timedelta,
    clock: Clock,
    interval: timedelta = DEFAULT_INTERVAL,
    hint: str | tuple[str, ...] = (),
) -> timedelta:
    """Ask `why_not` until it answers None; return how long that took.

    `why_not` answers with the reason it is not true yet. It is asked at least once, and once more at
    the deadline. Raises Unreachable with the last reason.
    """
    start = clock.monotonic()
    while True:
        reason = why_not()
        passed = timedelta(seconds=clock.monotonic() - start)
        if reason is None:
            return passed
        if passed >= deadline:
            waited = f"{deadline.total_seconds():g} s"
            raise Unreachable(f"{what}: not true after {waited}: {reason}", hint=hint)
        clock.sleep(min(interval, deadline - passed))
