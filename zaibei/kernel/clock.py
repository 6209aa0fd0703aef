"""Time, passed in. Nobody asks the machine for the time: a drill of six hours is a test of six ms."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall time for people and files, monotonic time for every duration and deadline."""

    def now(self) -> datetime:
        """Aware UTC."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; comparable between processes of one boot."""

    def sleep(self, duration: timedelta) -> None: ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        # CLOCK_MONOTONIC is one clock for all processes of a boot: the ledger's clients, the
        # injector and the measurement may be compared (failover ledger contract, point 1).
        return time.monotonic()

    def sleep(self, duration: timedelta) -> None:
        time.sleep(max(0.0, duration.total_seconds()))


@dataclass
class SimClock:
    """A clock that moves only when told; `sleep` moves it."""

    wall: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    elapsed_s: float = 0.0

    def now(self) -> datetime:
        return self.wall + timedelta(seconds=self.elapsed_s)

    def monotonic(self) -> float:
        return self.elapsed_s

    def sleep(self, duration: timedelta) -> None:
        assert duration >= timedelta(0), "time does not go back"
        self.elapsed_s += duration.total_seconds()
