"""How long the clients waited. Pure: finished ops, the fault's acknowledged time, numbers out.

Latency is counted from the time a write was *due*, so a stalled service cannot look fast because
nothing was sent to it. Every figure that was not seen is None, never 0.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from statistics import median

from failover.checker import Findings
from failover.ledger.format import Kind, Op, Outcome

_USUAL_OVER_S = 10.0  # before the fault: what gap between acknowledgements is usual
_USUAL_TIMES = 3  # a gap so many times the usual one is an outage
_GAP_UNKNOWN_S = 1.0  # too few writes before the fault to know what is usual


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A step that somebody outside the clients saw end: detect, decide, fence, promote, route."""

    t_s: float
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    what: str
    begin_s: float
    took: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Stable:
    """When the service may be called back: a whole window of good answers."""

    window: timedelta = timedelta(seconds=5)
    success: float = 0.99
    latency_p95: timedelta = timedelta(milliseconds=500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """No write of anybody was acknowledged in between."""

    begin_s: float  # the last acknowledgement before it
    end_s: float | None  # the first one after it; None: none was seen
    seen_until_s: float

    @property
    def length_s(self) -> float:
        """At least so long, when it did not end."""
        return (self.seen_until_s if self.end_s is None else self.end_s) - self.begin_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """RTO_first over clients. None where a client did not come back: it has no largest value."""

    clients: int
    unrecovered: int
    p50: timedelta | None
    p95: timedelta | None
    max: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How late the generator itself was."""

    p99: timedelta
    max: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    fault_s: float
    offered_from_s: float | None
    offered_until_s: float | None  # the last write was due then: nothing is known after it
    ok: int
    fail: int
    info: int
    ok_before: int  # acknowledged in the last second before the fault
    ok_after: int  # acknowledged in the first second after recovery
    outages: tuple[Outage, ...]  # after the fault, in order
    last_ok_before_s: float | None
    recovered: bool
    rto_first: timedelta | None
    rto_stable: timedelta | None
    per_client: Spread
    phases: tuple[Phase, ...]
    lag: Lag | None  # None: nothing was sent

    @property
    def outage(self) -> Outage | None:
        """The longest."""
        return max(self.outages, key=lambda o: o.length_s, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpo:
    writes: int  # acknowledged and gone, or changed
    time: timedelta | None  # None: nothing was acknowledged, so nothing is known
    at_least: bool = False  # not one acknowledged write survived: the true figure is larger


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """One second of the chart, by the time the writes were due, from the fault (negative: before)."""

    t_s: int
    ok: int
    fail: int
    info: int
    latency_p50: timedelta | None  # of the acknowledged
    latency_p99: timedelta | None


def measure(
    ops: Iterable[Op],
    *,
    fault_s: float,
    observations: Sequence[Observation] = (),
    stable: Stable | None = None,
    kind: Kind = Kind.ROW,
    until_s: float | None = None,
) -> Measures:
    """All of it. Writes due after `until_s` (the undoing of the fault, say) are left out."""
    mine = [op for op in ops if op.kind is kind and (until_s is None or op.intended_s <= until_s)]
    mine.sort(key=lambda op: op.intended_s)
    done = sorted(op.completed_s for op in mine if op.outcome is Outcome.OK)
    offered_until_s = mine[-1].intended_s if mine else None
    seen_until_s = fault_s if offered_until_s is None else offered_until_s
    found = outages(done, fault_s=fault_s, until_s=seen_until_s)
    first = rto_first(done, fault_s=fault_s, until_s=seen_until_s)
    worst = max(found, key=lambda o: o.length_s, default=None)
    stable_s = stable_from(mine, from_s=_search_from(fault_s, worst), stable=stable or Stable())
    back_s = _back(done, fault_s=fault_s, worst=worst)
    outcomes = [op.outcome for op in mine]
    return Measures(
        fault_s=fault_s,
        offered_from_s=mine[0].intended_s if mine else None,
        offered_until_s=offered_until_s,
        ok=outcomes.count(Outcome.OK),
        fail=outcomes.count(Outcome.FAIL),
        info=outcomes.count(Outcome.INFO),
        ok_before=_between(done, fault_s - 1.0, fault_s),
        ok_after=0 if back_s is None else _between(done, back_s, back_s + 1.0),
        outages=found,
        last_ok_before_s=_last_at(done, fault_s),
        recovered=first is not None,
        rto_first=first,
        rto_stable=None if stable_s is None else timedelta(seconds=max(0.0, stable_s - fault_s)),
        per_client=_per_client(mine, fault_s=fault_s, until_s=seen_until_s),
        phases=phases(observations, fault_s=fault_s, end_s=worst.end_s if worst else None),
        lag=_lag(mine),
    )


def outages(done: Sequence[float], *, fault_s: float, until_s: float) -> tuple[Outage, ...]:
    """Gaps between acknowledgements (sorted) that end after the fault and are longer than usual.

    The last one may have no end. An answer that was on its way when the fault struck opens the gap;
    it does not close it.
    """
    shortest_s = _unusual_gap_s(done, fault_s)
    found = []
    start = max(0, bisect_right(done, fault_s) - 1)
    tail = done[start:]
    for begin_s, end_s in pairwise(tail):
        if end_s > fault_s and end_s - begin_s >= shortest_s:
            found.append(Outage(begin_s=begin_s, end_s=end_s, seen_until_s=until_s))
    last_s = done[-1] if done else fault_s
    if until_s - last_s >= shortest_s:
        found.append(Outage(begin_s=last_s, end_s=None, seen_until_s=until_s))
    return tuple(found)


def rto_first(done: Sequence[float], *, fault_s: float, until_s: float) -> timedelta | None:
    """First acknowledgement after the outage, minus the last one before the fault.

    With several outages the longest is told. One that began long after the fault (a disk that took
    a minute to fill) is counted from its own beginning: until then the service was there. None: not
    recovered, or no acknowledgement before the fault to count from.
    """
    before_s = _last_at(done, fault_s)
    if before_s is None:
        return None
    found = outages(done, fault_s=fault_s, until_s=until_s)
    if not found:
        after = bisect_right(done, fault_s)
        return timedelta(seconds=done[after] - before_s) if after < len(done) else None
    worst = max(found, key=lambda o: o.length_s)
    if worst.end_s is None:
        return None
    at_once = worst.begin_s - fault_s <= _unusual_gap_s(done, fault_s)
    return timedelta(seconds=worst.end_s - (before_s if at_once else worst.begin_s))


def stable_from(ops: Sequence[Op], *, from_s: float, stable: Stable) -> float | None:
    """When the first good window begins. `ops` are sorted by the time they were due.

    A window is good when enough of its writes were acknowledged and 95 of 100 of those were fast
    enough. One that the traffic does not fill to its end is not looked at.
    """
    window_s = stable.window.total_seconds()
    slow_s = stable.latency_p95.total_seconds()
    if not ops:
        return None
    end = ok = fast = 0
    for begin, first in enumerate(ops):
        if first.intended_s + window_s > ops[-1].intended_s:
            return None
        while ops[end].intended_s < first.intended_s + window_s:
            ok += ops[end].outcome is Outcome.OK
            fast += _fast(ops[end], slow_s)
            end += 1
        good = ok >= stable.success * (end - begin) and fast >= math.ceil(0.95 * ok)
        # Of writes due at the same moment the window holds all or none: one that begins at the
        # second of two would leave out the first, which failed.
        alone = begin == 0 or ops[begin - 1].intended_s < first.intended_s
        if first.intended_s >= from_s and alone and ok and good:
            return first.intended_s
        ok -= first.outcome is Outcome.OK
        fast -= _fast(first, slow_s)
    return None


def rpo(findings: Findings, measures: Measures) -> Rpo:
    """What was lost, and how far back: reference point 4 of the contract.

    The time runs to the last acknowledgement before the outage, or to the newest lost one where that
    is later: a loss is never told as no time.
    """
    gone = findings.lost + findings.corrupted
    if findings.first_ok_s is None:
        return Rpo(writes=gone, time=None)
    if findings.newest_lost_s is None:
        return Rpo(writes=gone, time=timedelta(0))
    outage = measures.outage
    before_s = measures.last_ok_before_s if outage is None else outage.begin_s
    end_s = max(findings.newest_lost_s, before_s or findings.newest_lost_s)
    safe_s = findings.newest_safe_s
    start_s = findings.first_ok_s if safe_s is None else safe_s
    return Rpo(
        writes=gone, time=timedelta(seconds=max(0.0, end_s - start_s)), at_least=safe_s is None
    )


def phases(
    observations: Sequence[Observation], *, fault_s: float, end_s: float | None
) -> tuple[Phase, ...]:
    """The outage cut at what was observed: each phase lasts until its own observation.

    What was seen twice counts the first time. The rest, up to the first acknowledgement, is `app`.
    """
    cut: list[Phase] = []
    seen: set[str] = set()
    begin_s = fault_s
    for o in sorted(observations, key=lambda o: o.t_s):
        if o.t_s < fault_s or o.what in seen or (end_s is not None and o.t_s > end_s):
            continue
        seen.add(o.what)
        cut.append(Phase(what=o.what, begin_s=begin_s, took=timedelta(seconds=o.t_s - begin_s)))
        begin_s = o.t_s
    if end_s is not None and end_s >= begin_s and "app" not in seen:
        cut.append(Phase(what="app", begin_s=begin_s, took=timedelta(seconds=end_s - begin_s)))
    return tuple(cut)


def series(ops: Iterable[Op], *, fault_s: float, kind: Kind = Kind.ROW) -> tuple[Second, ...]:
    """A row a second, without holes: a second in which nothing was due has zeros and no latency."""
    buckets: dict[int, list[Op]] = defaultdict(list)
    for op in ops:
        if op.kind is kind:
            buckets[math.floor(op.intended_s - fault_s)].append(op)
    if not buckets:
        return ()
    return tuple(
        _second(t_s, buckets.get(t_s, [])) for t_s in range(min(buckets), max(buckets) + 1)
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank, of sorted values: always one that was really measured."""
    assert values
    assert 0 < share <= 1
    return values[math.ceil(share * len(values)) - 1]


def psi_cpu_some_avg10(text: str) -> float | None:
    """Of /proc/pressure/cpu, in percent. None: this kernel does not say."""
    for line in text.splitlines():
        kind, *words = line.split()
        for word in words:
            name, _, value = word.partition("=")
            if kind == "some" and name == "avg10":
                return float(value)
    return None


def _second(t_s: int, ops: Sequence[Op]) -> Second:
    outcomes = [op.outcome for op in ops]
    took = sorted(op.completed_s - op.intended_s for op in ops if op.outcome is Outcome.OK)
    return Second(
        t_s=t_s,
        ok=outcomes.count(Outcome.OK),
        fail=outcomes.count(Outcome.FAIL),
        info=outcomes.count(Outcome.INFO),
        latency_p50=timedelta(seconds=percentile(took, 0.5)) if took else None,
        latency_p99=timedelta(seconds=percentile(took, 0.99)) if took else None,
    )


def _unusual_gap_s(done: Sequence[float], fault_s: float) -> float:
    upto = bisect_right(done, fault_s)
    before = done[bisect_right(done, fault_s - _USUAL_OVER_S) : upto]
    gaps = [b - a for a, b in pairwise(before)]
    if len(gaps) < _USUAL_TIMES:
        return _GAP_UNKNOWN_S
    # A median alone takes ordinary bursts for outages; what was seen before the fault is not one.
    return max(_USUAL_TIMES * median(gaps), *gaps)


def _search_from(fault_s: float, worst: Outage | None) -> float:
    return fault_s if worst is None else max(fault_s, worst.begin_s)


def _back(done: Sequence[float], *, fault_s: float, worst: Outage | None) -> float | None:
    """The acknowledgement from which the service was there again."""
    if worst is not None:
        return worst.end_s
    after = bisect_right(done, fault_s)
    return done[after] if after < len(done) else None


def _between(done: Sequence[float], begin_s: float, end_s: float) -> int:
    """Acknowledged in [begin, end]."""
    return sum(begin_s <= t <= end_s for t in done)


def _last_at(done: Sequence[float], t_s: float) -> float | None:
    upto = bisect_right(done, t_s)
    return done[upto - 1] if upto else None


def _fast(op: Op, slow_s: float) -> bool:
    return op.outcome is Outcome.OK and op.completed_s - op.intended_s <= slow_s


def _lag(ops: Sequence[Op]) -> Lag | None:
    late = sorted(op.sent_s - op.intended_s for op in ops)
    if not late:
        return None
    return Lag(p99=timedelta(seconds=percentile(late, 0.99)), max=timedelta(seconds=late[-1]))


def _per_client(ops: Sequence[Op], *, fault_s: float, until_s: float) -> Spread:
    of_client: dict[str, list[float]] = defaultdict(list)
    for op in ops:
        mine = of_client[op.client]
        if op.outcome is Outcome.OK:
            mine.append(op.completed_s)
    each = [rto_first(sorted(d), fault_s=fault_s, until_s=until_s) for d in of_client.values()]
    back = sorted(r.total_seconds() for r in each if r is not None)
    unrecovered = len(each) - len(back)
    # A client that did not come back has the longest outage of all: it takes the top ranks.
    ranked = [*back, *([math.inf] * unrecovered)]

    def at(share: float) -> timedelta | None:
        value = percentile(ranked, share) if ranked else math.inf
        return None if math.isinf(value) else timedelta(seconds=value)

    return Spread(
        clients=len(each), unrecovered=unrecovered, p50=at(0.5), p95=at(0.95), max=at(1.0)
    )
