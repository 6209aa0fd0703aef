"""Bounds how many calls a store gets at once: one more after each round of answers, half after a
refusal (AIMD).

A call that was not answered is repeated after a growing pause. Patience belongs to the store and
not to the call: while anything is answered, work goes on; when nothing has been for `patience`,
every call gets one try and its failure is reported, so that a dead vault is left behind and not
waited for call by call. The first answer ends that. A store that never answered and cannot be
connected to is given up after the tries of one call: it is more often a wrong address than a store
that is about to come, and a person waits.
"""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from infra.objectstore.contract import ObjectStore, Stat
from infra.objectstore.silence import NoConnection
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Unreachable

CALLS_MAX: Final = 16  # at the same time, in one process
PATIENCE: Final = timedelta(minutes=2)
PAUSE_MIN: Final = timedelta(milliseconds=200)
PAUSE_MAX: Final = timedelta(seconds=10)
TURN_WITHIN_S: Final = 900.0  # longer than any call may take by the store's own deadlines
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How many calls may be under way. Pure: each answer gives the next window."""

    size: float = CALLS_MAX
    most: int = CALLS_MAX

    def answered(self) -> "Window":
        return Window(size=min(self.most, self.size + 1 / self.size), most=self.most)

    def refused(self) -> "Window":
        return Window(size=max(1.0, self.size / 2), most=self.most)

    @property
    def calls(self) -> int:
        return int(self.size)


class Pace:
    """The pace of one store. Thread-safe."""

    def __init__(
        self,
        clock: Clock,
        *,
        rng: random.Random | None = None,
        most: int = CALLS_MAX,
        patience: timedelta = PATIENCE,
    ) -> None:
        self._clock, self._patience = clock, patience.total_seconds()
        self._rng = rng or random.Random()
        self._changed = threading.Condition()
        self._window = Window(size=most, most=most)
        self._under_way = 0
        self._calls = 0  # begun so far
        self._halved_at = 0  # `_calls` when the window was last halved
        self._met = False
        self._silent_since: float | None = None  # of the first failure after the last answer
        self.pauses = 0

    @property
    def window(self) -> Window:
        return self._window

    def call(self, what: Callable[[], T]) -> T:
        """The answer. Raises the last Unreachable when patience is spent; anything else at once."""
        pause = PAUSE_MIN
        while True:
            try:
                with self._turn() as number:
                    got = what()
            except Unreachable as bad:
                if not self._wait_again(number, isinstance(bad, NoConnection)):
                    raise
            except Exception:
                # Refused, not there, damaged: that is an answer.
                self._answered()
                raise
            else:
                self._answered()
                return got
            # Half of it by chance: calls that failed together must not come back together.
            self._clock.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause = min(pause * 2, PAUSE_MAX)

    @contextmanager
    def _turn(self) -> Iterator[int]:
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._under_way < self._window.calls, timeout=TURN_WITHIN_S
            ):
                raise Unreachable("calls to the store are under way and none ends")
            self._under_way += 1
            self._calls += 1
            number = self._calls
        try:
            yield number
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _answered(self) -> None:
        with self._changed:
            self._window = self._window.answered()
            self._silent_since = None
            self._met = True
            self._changed.notify_all()

    def _wait_again(self, number: int, no_connection: bool) -> bool:
        """Count a failure; whether there is patience left."""
        now = self._clock.monotonic()
        with self._changed:
            # Calls that were sent before the last halving tell of the same crowd: once is enough.
            if number > self._halved_at:
                self._window = self._window.refused()
                self._halved_at = self._calls
            if self._silent_since is None:
                self._silent_since = now
            patience = self._patience if self._met or not no_connection else 0.0
            left = now - self._silent_since < patience
            self.pauses += left
            return left


class Paced:
    """A store at its pace. What the inner store can do besides is done as it does it."""

    def __init__(self, inner: ObjectStore, pace: Pace) -> None:
        self._inner, self.pace = inner, pace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def name(self) -> str:
        return self._inner.name

    def now(self) -> datetime:
        return self.pace.call(self._inner.now)

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> str | None:
        return self.pace.call(lambda: self._inner.create(key, data, retain_until=retain_until))

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        return self.pace.call(lambda: self._inner.read(key, start=start, length=length))

    def stat(self, key: str) -> Stat:
        return self.pace.call(lambda: self._inner.stat(key))

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """A page at a time, as its reader asks for it: a listing that fails in the middle is its caller's."""
        return self._inner.list(prefix)

    def remove(self, key: str, *, version: str | None = None) -> None:
        self.pace.call(lambda: self._inner.remove(key, version=version))

    def retain(self, key: str, *, until: datetime, version: str | None = None) -> None:
        self.pace.call(lambda: self._inner.retain(key, until=until, version=version))
