"""When people arrive. Pure: the same seed gives the same instants, on any machine, for ever.

A shape is a curve of arrivals per second made of straight and decaying pieces whose integral and its
inverse are known, so an arrival is found by asking "when had n people come?" instead of by stepping
through time. Constant spacing asks for n = 0, 1, 2, ...; a Poisson crowd asks for the running sum of unit
exponentials, which is a non-homogeneous Poisson process for any curve.

Worker i of N takes every Nth arrival of the one list. A worker that dies is therefore a known missing
slice, and the load does not depend on how many workers carry it.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from itertools import count

_BISECTIONS = 60  # halves an hour to below a nanosecond


class Spacing(StrEnum):
    CONSTANT = "constant"
    POISSON = "poisson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """From `start_rps` to `end_rps`: along a straight line, or (with `tau_s`) decaying towards it."""

    duration_s: float
    start_rps: float
    end_rps: float
    tau_s: float | None = None

    def __post_init__(self) -> None:
        assert self.duration_s > 0, "a piece takes time"
        assert self.start_rps >= 0, "people do not arrive backwards"
        assert self.end_rps >= 0, "people do not arrive backwards"
        assert self.tau_s is None or self.tau_s > 0, "a decay has a time constant"

    def rate_rps(self, t_s: float) -> float:
        if self.tau_s is not None:
            return self.end_rps + (self.start_rps - self.end_rps) * math.exp(-t_s / self.tau_s)
        return self.start_rps + (self.end_rps - self.start_rps) * t_s / self.duration_s

    def come_by(self, t_s: float) -> float:
        """How many came in the first `t_s` of this piece: the integral of the rate."""
        if self.tau_s is not None:
            above = (self.start_rps - self.end_rps) * self.tau_s
            return self.end_rps * t_s - above * math.expm1(-t_s / self.tau_s)
        slope = (self.end_rps - self.start_rps) / self.duration_s
        return self.start_rps * t_s + slope * t_s * t_s / 2

    def when(self, n: float) -> float:
        """The inverse of `come_by`, within the piece."""
        assert n >= 0, "arrivals count up"
        if self.tau_s is not None:
            return self._bisect(n)
        slope = (self.end_rps - self.start_rps) / self.duration_s
        # 2n/(a + sqrt(...)) and not (-a + sqrt(...))/slope: the textbook form loses every digit
        # when the slope is almost nothing.
        root = math.sqrt(max(0.0, self.start_rps**2 + 2 * slope * n))
        below = self.start_rps + root
        return 0.0 if below == 0 else min(2 * n / below, self.duration_s)

    def _bisect(self, n: float) -> float:
        low, high = 0.0, self.duration_s
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if self.come_by(middle) < n:
                low = middle
            else:
                high = middle
        return high


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    pieces: tuple[Piece, ...]

    @property
    def duration_s(self) -> float:
        return sum(p.duration_s for p in self.pieces)

    @property
    def peak_rps(self) -> float:
        return max(max(p.start_rps, p.end_rps) for p in self.pieces)

    @property
    def people(self) -> float:
        """Expected arrivals of the whole shape."""
        return sum(p.come_by(p.duration_s) for p in self.pieces)

    def when(self, n: float) -> float | None:
        """The second at which the expected count reaches `n`; None when it never does."""
        start_s = 0.0
        for piece in self.pieces:
            here = piece.come_by(piece.duration_s)
            if n < here:
                return start_s + piece.when(n)
            n -= here
            start_s += piece.duration_s
        return None

    def lasting(self, duration: timedelta) -> "Shape":
        """The same curve, told faster or slower; rates stay, durations scale."""
        scale = duration.total_seconds() / self.duration_s
        return Shape(
            pieces=tuple(
                replace(
                    p,
                    duration_s=p.duration_s * scale,
                    tau_s=None if p.tau_s is None else p.tau_s * scale,
                )
                for p in self.pieces
            )
        )


def constant(*, rate_rps: float, duration_s: float) -> Shape:
    return Shape(pieces=(Piece(duration_s=duration_s, start_rps=rate_rps, end_rps=rate_rps),))


def ramp(*, start_rps: float, end_rps: float, duration_s: float) -> Shape:
    return Shape(pieces=(Piece(duration_s=duration_s, start_rps=start_rps, end_rps=end_rps),))


def policy_step(
    *,
    base_rps: float,
    factor: float,
    before_s: float,
    rise_s: float,
    hold_s: float,
    decay_s: float,
) -> Shape:
    """A rule changes and everybody opens the code: base, up to factor x base, held, and away.

    The decay's time constant is a third of its length: 5 % of the surge is left at the end.
    """
    peak = base_rps * factor
    return Shape(
        pieces=(
            Piece(duration_s=before_s, start_rps=base_rps, end_rps=base_rps),
            Piece(duration_s=rise_s, start_rps=base_rps, end_rps=peak),
            Piece(duration_s=hold_s, start_rps=peak, end_rps=peak),
            Piece(duration_s=decay_s, start_rps=peak, end_rps=base_rps, tau_s=decay_s / 3),
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    index: int  # in the one list that all workers share
    at_s: float  # after the start of the run


def arrivals(
    shape: Shape, spacing: Spacing, *, seed: int, worker: int = 0, of: int = 1
) -> Iterator[Arrival]:
    """The slice of worker `worker` of `of`, in order of time."""
    assert 0 <= worker < of, "worker is one of the workers"
    # The whole list is drawn by every worker and all but its own thrown away: a draw costs a
    # microsecond, and a slice that depended on N could not be compared with a run of another N.
    luck = random.Random(f"arrivals/{seed}")
    n = 0.0
    for index in count():
        if spacing is Spacing.CONSTANT:
            n = float(index)
        else:
            n += luck.expovariate(1.0)
        at_s = shape.when(n)
        if at_s is None:
            return
        if index % of == worker:
            yield Arrival(index=index, at_s=at_s)


def intended_by(
    shape: Shape,
    spacing: Spacing,
    *,
    seed: int,
    until_s: float,
    worker: int = 0,
    of: int = 1,
) -> list[float]:
    """The instants a worker should have served up to `until_s`: what its results are held against."""
    due: list[float] = []
    for arrival in arrivals(shape, spacing, seed=seed, worker=worker, of=of):
        if arrival.at_s >= until_s:
            break
        due.append(arrival.at_s)
    return due
