"""Asks round after round in the background. A scrape is given the last round and its age, and waits for nothing.

A probe that hangs inside a scrape would cost Prometheus the page, and with it every other site's answers, in
the very minute they are needed.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from monitors.metrics import Sample, Where, sample
from zaibei.kernel.clock import Clock
from zaibei.kernel.log import logger

EVERY = timedelta(seconds=5)
# Older than this, a round is no longer shown as if it were now: its probes count as silent.
STALE = timedelta(seconds=30)
_FIRST_WITHIN = timedelta(seconds=5)
_log = logger("monitors")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    up: str
    answer_age: str
    round_age: str


_NAMES = {
    Where.OPERATOR: _Names(
        up="zaibei_probe_up",
        answer_age="zaibei_probe_answer_age_seconds",
        round_age="zaibei_round_age_seconds",
    ),
    Where.SITE: _Names(
        up="zaibei_local_probe_up",
        answer_age="zaibei_local_probe_answer_age_seconds",
        round_age="zaibei_local_round_age_seconds",
    ),
}


class Beat:
    """Use as a context manager; `samples` from any thread, in well under a millisecond."""

    def __init__(
        self,
        ask: Callable[[], Iterable[Sample]],
        *,
        where: Where,
        clock: Clock,
        site: str | None = None,
        every: timedelta = EVERY,
    ) -> None:
        """`site`: whose page it is, for the exporter of a site."""
        self._ask, self._names, self._clock = ask, _NAMES[where], clock
        self._labels = () if site is None else (site,)
        self._every = every
        self._shown: tuple[Sample, ...] = ()
        self._began = clock.monotonic()
        self._answered: dict[tuple[str, ...], float] = {}  # by the labels of a probe
        self._lock = threading.Lock()
        self._ended, self._first = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._rounds, name="beat", daemon=True)

    def __enter__(self) -> Self:
        """Returns when the first round is there, or is late: a page without probes is better than none."""
        self._thread.start()
        self._first.wait(_FIRST_WITHIN.total_seconds())
        return self

    def __exit__(self, *gone: object) -> None:
        self._ended.set()  # the thread is a daemon: what it waits for does not hold the process

    def samples(self) -> Iterator[Sample]:
        with self._lock:
            shown, began, answered = self._shown, self._began, dict(self._answered)
        now, names = self._clock.monotonic(), self._names
        stale = now - began > STALE.total_seconds()
        for one in shown:
            if not stale:
                yield one
            elif one.metric == names.up:
                yield sample(names.up, 0, *one.labels)
        yield sample(names.round_age, now - began, *self._labels)
        for labels, at in answered.items():
            yield sample(names.answer_age, now - at, *labels)

    def _rounds(self) -> None:
        while not self._ended.is_set():
            began = self._clock.monotonic()
            try:
                self._keep(tuple(self._ask()), began)
            except Exception as failed:  # noqa: BLE001 - the next round may go well, and the age tells of this one
                _log.warning("round.failed", why=f"{type(failed).__name__}: {failed}")
            self._first.set()
            rest = self._every.total_seconds() - (self._clock.monotonic() - began)
            self._ended.wait(max(0.1, rest))

    def _keep(self, found: tuple[Sample, ...], began: float) -> None:
        asked = {s.labels for s in found if s.metric == self._names.up}
        with self._lock:
            self._shown, self._began = found, began
            for one in found:
                if one.metric == self._names.up and one.value == 1:
                    self._answered[one.labels] = began
            for labels in self._answered.keys() - asked:
                del self._answered[labels]  # of a site that is no longer in the stack
