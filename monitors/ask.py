"""Asks many probes at once. One that hangs costs its own answer, never the round."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Any

from monitors.reading import Answer, Probe, Unknown
from zaibei.kernel.clock import Clock

_GRACE = timedelta(seconds=1)  # for the probe's own deadline to be told before ours cuts it off


def ask_all(
    probes: Sequence[Probe[Any]], *, deadline: timedelta, clock: Clock
) -> list[Answer[Any]]:
    """Every probe's answer, in the order asked; at the latest a second after the deadline.

    A thread a probe (tens, not thousands), daemons: one stuck in a name lookup cannot hold the process.
    """
    answers: list[Answer[Any] | None] = [None] * len(probes)
    arrived: SimpleQueue[tuple[int, Answer[Any]]] = SimpleQueue()

    def one(index: int, probe: Probe[Any]) -> None:
        start = clock.monotonic()
        try:
            value = probe.ask(deadline)
        except Exception as said:  # noqa: BLE001 - whatever it was, it is the reason of no answer
            value = Unknown(reason=_reason(said))
        took = timedelta(seconds=clock.monotonic() - start)
        answer = Answer(probe=probe.name, site=probe.site, took=took, value=value)
        arrived.put((index, answer))

    for index, probe in enumerate(probes):
        threading.Thread(
            target=one, args=(index, probe), name=f"{probe.name}@{probe.site}", daemon=True
        ).start()
    limit = clock.monotonic() + (deadline + _GRACE).total_seconds()
    for _ in probes:
        try:
            index, answer = arrived.get(timeout=max(0.0, limit - clock.monotonic()))
        except Empty:
            break
        answers[index] = answer
    late = Unknown(reason=f"no answer within {deadline.total_seconds():g} s")
    return [
        a or Answer(probe=p.name, site=p.site, took=deadline, value=late)
        for p, a in zip(probes, answers, strict=True)
    ]


def _reason(said: Exception) -> str:
    text = " ".join(str(said).split())
    return text or type(said).__name__
