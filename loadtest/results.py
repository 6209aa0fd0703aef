"""The result of a surge, read back from the engine's lines. Pure from the lines on.

Reading a dead run is the normal case: a torn last line is a process that was killed while it wrote, and
is left out; a broken line anywhere else is Damage. What was *intended* does not come from the engine: it
is computed again from the plan, so an engine that sent too little cannot hide it.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from loadtest.citizens import Ending, Outcome
from loadtest.histogram import Latencies
from loadtest.plan import Plan
from loadtest.record import FORMAT
from loadtest.shapes import intended_by
from loadtest.verdict import GeneratorVerdict, SelfCheck, judge_generator
from zaibei.kernel.errors import Damage

_LINE_S = 1.0  # the engine writes one a second
_GAVE_UP = (Ending.REJECTED.value, Ending.FAILED.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """One second of the run, counted from its start."""

    second: int
    offered: int  # citizens meant to come in it
    ok: int  # of those, how many were served in the end
    served: int  # citizens whose success fell into it, whenever they came
    p99: (
        timedelta | None
    )  # time to success of those who came in it; None when a hundredth never had it
    gave_up: int = 0  # of those who came in it, how many asked and went away with nothing
    sent: int = 0  # requests that left in it
    tries: int = 0  # of those, how many were not repeats
    success: str | None = None  # histogram of the time to success of those who came in it
    answers: str | None = None  # histogram of the good answers to requests that were due in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some of the seconds of a surge, added up exactly: who came in them, and what they met."""

    offered: int
    ok: int
    gave_up: int
    p50: timedelta | None  # as in SurgeResult
    p99: timedelta | None
    answer_p99: timedelta | None  # of the good answers alone, each from when it was due
    success_ratio: float | None
    longest_silence: timedelta
    amplification: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestClass:
    step: str
    outcomes: dict[str, int]
    p50: timedelta | None  # of the good answers, from the intended instant of the request
    p99: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SurgeResult:
    """What the citizens met. Percentiles are the time from the intended arrival to success, over all who
    came; None: so many were never served that the one at this rank is among them.
    """

    scenario: str
    seed: int
    start_s: float | None  # monotonic: second 0 of the series, on the drill's own clock
    duration: timedelta  # of the arrivals
    offered: int  # citizens the schedule meant to come
    sent: int  # requests, refreshes and retries included
    ok: int
    rejected: int  # gave up on "not now"
    failed: int  # gave up on errors, silence or closed doors
    dropped: int  # the generator had no room for them
    unfinished: int  # came or should have come, and have no ending
    p50: timedelta | None
    p99: timedelta | None
    p999: timedelta | None
    success_ratio: float | None
    longest_silence: timedelta  # whole seconds in a row in which people came and nobody was served
    series: tuple[Second, ...]
    requests: tuple[RequestClass, ...]
    reasons: dict[str, int]  # why requests failed
    send_lag_p99: timedelta | None
    amplification: float | None  # requests sent, over those that were not repeats
    generator_cpu: float | None  # of one core, the busiest worker
    generator_verdict: GeneratorVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Where a running surge stands; cheap, and never the verdict."""

    elapsed: timedelta
    offered: int
    sent: int
    ok: int
    rejected: int
    failed: int
    dropped: int
    in_flight: int
    served_last_second: int


@dataclass(slots=True)
class Tally:
    """One worker's lines, added up."""

    ready: bool = False
    ended: str | None = None
    ended_s: float | None = None
    last_s: float = 0.0
    in_flight: int = 0
    arrived: Counter[int] = field(default_factory=Counter)
    dropped: Counter[int] = field(default_factory=Counter)
    served: Counter[int] = field(default_factory=Counter)
    first_sent: int = 0
    sent: int = 0
    tries: int = 0  # requests that were not repeats
    withheld: int = 0
    cpu_s: float = 0.0
    lag: Latencies = field(default_factory=Latencies)
    endings: dict[str, Counter[int]] = field(
        default_factory=lambda: {e.value: Counter() for e in Ending}
    )
    success: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[str, Latencies] = field(default_factory=lambda: defaultdict(Latencies))
    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    good: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    sent_in: Counter[int] = field(default_factory=Counter)
    tries_in: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def take(self, line: dict[str, Any]) -> None:
        match line["kind"]:
            case "ready":
                if line["format"] != FORMAT:
                    raise Damage(f"results of format {line['format']}, this reads {FORMAT}")
                self.ready = True
            case "second":
                self._take_second(line)
            case "end":
                self.ended, self.ended_s = line["reason"], line["at_s"]
            case unknown:
                raise Damage(f"a line of unknown kind {unknown!r}")

    def _take_second(self, line: dict[str, Any]) -> None:
        self.last_s, self.in_flight = line["at_s"], line["in_flight"]
        for name in ("arrived", "dropped", "served"):
            getattr(self, name).update({int(s): int(n) for s, n in line[name]})
        for name in ("first_sent", "sent", "tries", "withheld", "cpu_s"):
            setattr(self, name, getattr(self, name) + line[name])
        second = int(max(0.0, line["at_s"] - _LINE_S / 2))  # a line ends the second it tells of
        self.sent_in[second] += line["sent"]
        self.tries_in[second] += line["tries"]
        if line["lag"]:
            self.lag.add(line["lag"])
        for second, ending, encoded in line["citizens"]:
            self.endings[ending][second] += Latencies().add(encoded)
            if ending == Ending.OK.value:
                self.success[second].append(encoded)
        for second, step, outcome, encoded in line["requests"]:
            if outcome == Outcome.OK.value:
                self.good[second].append(encoded)
            into = self.answers[step] if outcome == Outcome.OK.value else Latencies()
            self.outcomes[step][outcome] += into.add(encoded)
        self.reasons.update(line["reasons"])


class Reader:
    """Follows a results file; each call gives the whole lines that came since the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def lines(self) -> Iterator[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                block = file.read()
        except FileNotFoundError:
            return  # the engine has not come so far
        whole = block[: block.rfind(b"\n") + 1]
        self._offset += len(whole)
        for raw in whole.splitlines():
            try:
                line = json.loads(raw)
            except ValueError as broken:
                raise Damage(f"{self._path}: not a line of results: {raw[:60]!r}") from broken
            yield line


def live(tallies: Sequence[Tally]) -> Live:
    def total(name: str) -> int:
        return sum(getattr(t, name).total() for t in tallies)

    elapsed_s = max((t.last_s for t in tallies), default=0.0)
    return Live(
        elapsed=timedelta(seconds=elapsed_s),
        offered=total("arrived"),
        sent=sum(t.sent for t in tallies),
        ok=_ended(tallies, Ending.OK),
        rejected=_ended(tallies, Ending.REJECTED),
        failed=_ended(tallies, Ending.FAILED),
        dropped=total("dropped"),
        in_flight=sum(t.in_flight for t in tallies),
        served_last_second=sum(t.served[int(elapsed_s) - 1] for t in tallies),
    )


def summarise(
    plan: Plan,
    tallies: Sequence[Tally],
    *,
    asked_to_stop_s: float | None = None,
    start_s: float | None = None,
) -> SurgeResult:
    """Merge the workers of `plan`. A worker without an `end` line is held against the whole of its slice,
    or against what was due when the controller asked it to stop.
    """
    assert len(tallies) == plan.of, "a tally for every worker, also for one that wrote nothing"
    horizon_s = plan.shape.duration_s
    if asked_to_stop_s is not None:
        horizon_s = min(horizon_s, asked_to_stop_s)
    offered: Counter[int] = Counter()
    for worker, tally in enumerate(tallies):
        until_s = tally.ended_s if tally.ended in ("finished", "stopped") else horizon_s
        assert until_s is not None, "an end line has its instant"
        due = intended_by(
            plan.shape,
            plan.spacing,
            seed=plan.seed,
            until_s=until_s,
            worker=worker,
            of=plan.of,
        )
        offered.update(int(at_s) for at_s in due)
    came = offered.total()
    ok, rejected, failed = (_ended(tallies, e) for e in Ending)
    dropped = sum(t.dropped.total() for t in tallies)
    unfinished = max(0, came - ok - rejected - failed - dropped)
    whole, lag = Latencies(), Latencies()
    by_second: dict[int, Latencies] = defaultdict(Latencies)
    for tally in tallies:
        for second, encoded in ((s, e) for s, es in tally.success.items() for e in es):
            whole.add(encoded)
            by_second[second].add(encoded)
        lag.include(tally.lag)
    series = _series(offered, by_second, tallies)
    tries = sum(t.tries for t in tallies)
    duration_s = max(
        (t.ended_s if t.ended_s is not None else t.last_s for t in tallies), default=0.0
    )
    never = max(0, came - whole.count)
    cpu = max((t.cpu_s / t.last_s for t in tallies if t.last_s > 0), default=None)
    lag_p99 = lag.percentile(99)
    return SurgeResult(
        scenario=plan.scenario,
        seed=plan.seed,
        start_s=start_s,
        duration=timedelta(seconds=duration_s),
        offered=came,
        sent=sum(t.sent for t in tallies),
        ok=ok,
        rejected=rejected,
        failed=failed,
        dropped=dropped,
        unfinished=unfinished,
        p50=whole.percentile(50, never=never),
        p99=whole.percentile(99, never=never),
        p999=whole.percentile(99.9, never=never),
        success_ratio=ok / came if came else None,
        longest_silence=_longest_silence(series),
        series=series,
        requests=_requests(tallies),
        reasons=dict(sum((t.reasons for t in tallies), Counter[str]()).most_common()),
        send_lag_p99=lag_p99,
        amplification=sum(t.sent for t in tallies) / tries if tries else None,
        generator_cpu=cpu,
        generator_verdict=judge_generator(
            SelfCheck(
                intended=came,
                first_sent=sum(t.first_sent for t in tallies),
                dropped=dropped,
                withheld=sum(t.withheld for t in tallies),
                lag_p99=lag_p99,
                lag_p99_max=timedelta(seconds=plan.lag_p99_max_s),
                cpu=cpu,
                endings=tuple(t.ended for t in tallies),
            )
        ),
    )


def _ended(tallies: Sequence[Tally], ending: Ending) -> int:
    return sum(t.endings[ending.value].total() for t in tallies)


def part(result: SurgeResult, *, without: Collection[int] = ()) -> Part:
    """The seconds of a surge but for those in `without`, by the second in which citizens came."""
    kept = [s for s in result.series if s.second not in without]
    whole, good = Latencies(), Latencies()
    for second in kept:
        for into, encoded in ((whole, second.success), (good, second.answers)):
            if encoded is not None:
                into.add(encoded)
    offered, ok = sum(s.offered for s in kept), sum(s.ok for s in kept)
    tries = sum(s.tries for s in kept)
    never = max(0, offered - ok)
    return Part(
        offered=offered,
        ok=ok,
        gave_up=sum(s.gave_up for s in kept),
        p50=whole.percentile(50, never=never),
        p99=whole.percentile(99, never=never),
        answer_p99=good.percentile(99),
        success_ratio=ok / offered if offered else None,
        longest_silence=_longest_silence(kept),
        amplification=sum(s.sent for s in kept) / tries if tries else None,
    )


def _series(
    offered: Counter[int], by_second: dict[int, Latencies], tallies: Sequence[Tally]
) -> tuple[Second, ...]:
    served, gave_up, sent, tries = (Counter[int]() for _ in range(4))
    for tally in tallies:
        served.update(tally.served)
        sent.update(tally.sent_in)
        tries.update(tally.tries_in)
        for ending in _GAVE_UP:
            gave_up.update(tally.endings[ending])
    last = max([*offered, *served], default=-1)
    return tuple(
        Second(
            second=s,
            offered=offered[s],
            ok=by_second[s].count,
            served=served[s],
            p99=by_second[s].percentile(99, never=max(0, offered[s] - by_second[s].count)),
            gave_up=gave_up[s],
            sent=sent[s],
            tries=tries[s],
            success=by_second[s].encoded(),
            answers=_merged(e for t in tallies for e in t.good.get(s, ())),
        )
        for s in range(last + 1)
    )


def _merged(encoded: Iterable[str]) -> str | None:
    whole = Latencies()
    for one in encoded:
        whole.add(one)
    return whole.encoded()


def _requests(tallies: Sequence[Tally]) -> tuple[RequestClass, ...]:
    steps = sorted({s for t in tallies for s in t.outcomes})
    found = []
    for step in steps:
        good, outcomes = Latencies(), Counter[str]()
        for tally in tallies:
            good.include(tally.answers[step])
            outcomes.update(tally.outcomes[step])
        found.append(
            RequestClass(
                step=step,
                outcomes=dict(sorted(outcomes.items())),
                p50=good.percentile(50),
                p99=good.percentile(99),
            )
        )
    return tuple(found)


def _longest_silence(series: Sequence[Second]) -> timedelta:
    """A second in which nobody came says nothing: it neither breaks a silence nor makes one."""
    longest = run = 0
    for second in series:
        if second.served:
            run = 0
        elif second.offered:
            run += 1
        longest = max(longest, run)
    return timedelta(seconds=longest)
