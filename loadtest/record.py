"""What the engine writes down: one JSON line a second, whole or not at all.

A line holds only what happened since the line before it, keyed by the second in which the citizen was
*meant* to come, so lines and workers merge by adding. Latencies are from that intended instant: a stall
of the service, or of the generator, is in them.

    ready    the engine stands and waits for its start
    second   counts and histograms since the last line
    end      why it ended, and when
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.citizens import Ending, Outcome
from loadtest.histogram import encode

FORMAT = 1
_REASONS_MAX = 50  # kinds of failure told in a line; the rest are counted together


class Recorder:
    def __init__(self, path: Path) -> None:
        # O_APPEND and one write(2) a line: a reader of a run that died sees whole lines and at most
        # one torn tail, never two lines in each other.
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._clear()

    def _clear(self) -> None:
        self._arrived: Counter[int] = Counter()
        self._dropped: Counter[int] = Counter()
        self._served: Counter[int] = Counter()
        self._first_sent = self._sent = self._tries = self._withheld = 0
        self._lag_us: list[int] = []
        self._citizens: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
        self._requests: defaultdict[tuple[int, str, str], list[int]] = defaultdict(list)
        self._reasons: Counter[str] = Counter()

    def arrived(self, at_s: float) -> None:
        self._arrived[int(at_s)] += 1

    def dropped(self, at_s: float) -> None:
        """No room in the generator for this citizen: the run measured less than it was asked to."""
        self._dropped[int(at_s)] += 1

    def sent(self, *, lag_s: float | None, again: bool) -> None:
        """A request begins. `lag_s`: the first of a citizen, so late after its intended instant.
        `again`: it repeats one that was not served.
        """
        self._sent += 1
        self._tries += not again
        if lag_s is not None:
            self._first_sent += 1
            self._lag_us.append(_us(lag_s))

    def withheld(self) -> None:
        """The cap on requests was reached: the citizen would have asked and did not."""
        self._withheld += 1

    def request(
        self, *, intended_s: float, step: str, outcome: Outcome, took_s: float, reason: str
    ) -> None:
        self._requests[int(intended_s), step, outcome.value].append(_us(took_s))
        if outcome is not Outcome.OK:
            known = reason in self._reasons or len(self._reasons) < _REASONS_MAX
            self._reasons[reason if known else "other"] += 1

    def citizen(self, *, intended_s: float, ending: Ending, took_s: float) -> None:
        self._citizens[int(intended_s), ending.value].append(_us(took_s))
        if ending is Ending.OK:
            self._served[int(intended_s + took_s)] += 1

    def ready(self, *, scenario: str, seed: int, worker: int, of: int) -> None:
        self._write(
            {
                "kind": "ready",
                "format": FORMAT,
                "scenario": scenario,
                "seed": seed,
                "worker": worker,
                "of": of,
            }
        )

    def second(self, *, at_s: float, in_flight: int, cpu_s: float) -> None:
        self._write(
            {
                "kind": "second",
                "at_s": round(at_s, 6),
                "in_flight": in_flight,
                "cpu_s": round(cpu_s, 6),
                "arrived": sorted(self._arrived.items()),
                "dropped": sorted(self._dropped.items()),
                "served": sorted(self._served.items()),
                "first_sent": self._first_sent,
                "sent": self._sent,
                "tries": self._tries,
                "withheld": self._withheld,
                "lag": encode(self._lag_us) if self._lag_us else None,
                "citizens": [[*k, encode(v)] for k, v in sorted(self._citizens.items())],
                "requests": [[*k, encode(v)] for k, v in sorted(self._requests.items())],
                "reasons": dict(self._reasons),
            }
        )
        self._clear()

    def end(self, *, reason: str, at_s: float, unfinished: int) -> None:
        self._write(
            {
                "kind": "end",
                "reason": reason,
                "at_s": round(at_s, 6),
                "unfinished": unfinished,
            }
        )

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, line: Mapping[str, Any]) -> None:
        raw = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        while raw:  # a short write happens on a full disk; the next one then raises ENOSPC
            raw = raw[os.write(self._fd, raw) :]


def _us(seconds: float) -> int:
    return max(0, round(seconds * 1_000_000))
