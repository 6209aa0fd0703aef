"""Asks many probes at once. One that hangs costs its own answer, never the round, and never a second thread."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Any

from monitors.reading import Answer, Probe, Unknown
from zaibei.kernel.clock import Clock

# A probe's own deadline within the round's: its reason arrives before it is cut off.
_OF_ROUND = 0.9
_Key = tuple[str, str]


class Asker:
    """Asks round after round. A probe that still hangs in an earlier round is not asked again before it ends:
    a site that is frozen for a day holds one thread a probe, not one a probe and round."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[_Key, float] = {}  # asked, and without an answer yet
        self._lock = threading.Lock()

    def ask(self, probes: Sequence[Probe[Any]], *, deadline: timedelta) -> list[Answer[Any]]:
        """Every probe's answer, in the order asked, at the latest at the deadline.

        A thread a probe (tens, not thousands), daemons: one stuck in a name lookup cannot hold the process.
        """
        answers: list[Answer[Any] | None] = [None] * len(probes)
        arrived: SimpleQueue[tuple[int, Answer[Any]]] = SimpleQueue()
        limit = self._clock.monotonic() + deadline.total_seconds()
        asked = 0
        for index, probe in enumerate(probes):
            if (stuck := self._still_hangs(probe)) is not None:
                answers[index] = stuck
                continue
            asked += 1
            threading.Thread(
                target=self._one,
                args=(index, probe, deadline * _OF_ROUND, arrived),
                name=f"{probe.name}@{probe.site}",
                daemon=True,
            ).start()
        for _ in range(asked):
            try:
                index, answer = arrived.get(timeout=max(0.0, limit - self._clock.monotonic()))
            except Empty:
                break
            answers[index] = answer
        late = Unknown(reason=f"no answer within {deadline.total_seconds():g} s")
        return [
            a or Answer(probe=p.name, site=p.site, took=deadline, value=late)
            for p, a in zip(probes, answers, strict=True)
        ]

    def _still_hangs(self, probe: Probe[Any]) -> Answer[Any] | None:
        """The answer of a probe that is asked already; else it is noted as asked now."""
        key, now = (probe.name, probe.site), self._clock.monotonic()
        with self._lock:
            if key not in self._since:
                self._since[key] = now
                return None
            took = timedelta(seconds=now - self._since[key])
        why = f"no answer for {took.total_seconds():.0f} s to the question of an earlier round"
        return Answer(probe=probe.name, site=probe.site, took=took, value=Unknown(reason=why))

    def _one(
        self,
        index: int,
        probe: Probe[Any],
        deadline: timedelta,
        arrived: "SimpleQueue[tuple[int, Answer[Any]]]",
    ) -> None:
        start = self._clock.monotonic()
        try:
            value = probe.ask(deadline)
        except Exception as said:  # noqa: BLE001 - whatever it was, it is the reason of no answer
            value = Unknown(reason=_reason(said))
        took = timedelta(seconds=self._clock.monotonic() - start)
        with self._lock:
            del self._since[probe.name, probe.site]
        arrived.put((index, Answer(probe=probe.name, site=probe.site, took=took, value=value)))


def ask_all(
    probes: Sequence[Probe[Any]], *, deadline: timedelta, clock: Clock
) -> list[Answer[Any]]:
    """One round alone."""
    return Asker(clock=clock).ask(probes, deadline=deadline)


def _reason(said: Exception) -> str:
    """In a line, and without what would move a terminal's cursor: a server's own words may be in it."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(said)).split())
    return text or type(said).__name__
