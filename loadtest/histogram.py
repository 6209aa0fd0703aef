"""Latencies in HDR histograms: 1 µs to 10 min, three digits, the same everywhere, so that adding the
counts of seconds and of workers is exact. Percentiles are never averaged.
"""

import math
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from hdrh.histogram import HdrHistogram

from zaibei.kernel.errors import Damage

_LOWEST_US = 1
HIGHEST_US = 600_000_000
_DIGITS = 3


def encode(values_us: Iterable[int]) -> str:
    histogram = HdrHistogram(_LOWEST_US, HIGHEST_US, _DIGITS)
    for value_us in values_us:
        histogram.record_value(min(max(value_us, _LOWEST_US), HIGHEST_US))
    text: bytes = histogram.encode()
    return text.decode("ascii")


class Latencies:
    """A histogram that others are added to."""

    def __init__(self) -> None:
        self._all: Any = HdrHistogram(_LOWEST_US, HIGHEST_US, _DIGITS)

    def add(self, encoded: str) -> int:
        """Add the counts of an encoded histogram; return how many there were. Raises Damage."""
        try:
            other = HdrHistogram.decode(encoded)
        except Exception as broken:  # hdrh raises a dozen kinds, some of them bare Exception
            raise Damage(f"not a histogram: {broken!r}") from broken
        if other.counts_len != self._all.counts_len:
            # hdrh would re-record at bucket edges: a merge that is no longer exact.
            raise Damage("a histogram of another range or precision")
        self._all.add(other)
        return int(other.get_total_count())

    def include(self, other: "Latencies") -> None:
        self._all.add(other._all)

    def encoded(self) -> str | None:
        """As `add` takes it; None when it is empty."""
        if not self.count:
            return None
        text: bytes = self._all.encode()
        return text.decode("ascii")

    @property
    def count(self) -> int:
        return int(self._all.get_total_count())

    def percentile(self, percent: float, *, never: int = 0) -> timedelta | None:
        """Nearest rank among `count + never` people, where `never` had no answer at all.

        None: nobody came, or so many were never served that the one asked for is among them.
        """
        total = self.count + never
        if total == 0:
            return None
        # The round is against 0.999 * 1000 = 999.0000000000001, which would ask for the next rank.
        rank = max(1, math.ceil(round(total * percent / 100, 6)))
        if rank > self.count:
            return None
        micros = int(self._all.get_value_at_percentile(100 * rank / self.count))
        return timedelta(microseconds=micros)
