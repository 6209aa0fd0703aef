"""PASS, FAIL or INVALID. Pure.

The generator is judged first and by other evidence than the service: a run in which the load did not go
out as intended says nothing about the service, whatever its percentiles look like.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

_ACHIEVED_MIN = 0.999
_CPU_MAX = 0.85  # of one core; above it a gevent loop queues its own work


class Verdict(StrEnum):
    PASS = "PASS"
    FAIL = "FAIL"
    INVALID = "INVALID"


class Validity(StrEnum):
    VALID = "VALID"
    INVALID = "INVALID"


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorVerdict:
    word: Validity
    reasons: tuple[str, ...]  # why it is INVALID

    @property
    def valid(self) -> bool:
        return self.word is Validity.VALID


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    intended: int  # arrivals, computed again from the plan
    first_sent: int
    dropped: int
    withheld: int
    lag_p99: timedelta | None
    lag_p99_max: timedelta
    cpu: float | None
    endings: tuple[str | None, ...]  # of each worker; None: it did not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What must hold, of `SurgeResult`. None: nothing is claimed about it."""

    success_ratio_min: float | None = None
    p50_max: timedelta | None = None
    p99_max: timedelta | None = None
    longest_silence_max: timedelta | None = None
    amplification_max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    what: str  # p99
    wanted: str  # <= 2 s
    got: str
    holds: bool


def judge_generator(check: SelfCheck) -> GeneratorVerdict:
    reasons = []
    for worker, ending in enumerate(check.endings):
        if ending not in ("finished", "stopped"):
            what = "died without a word" if ending is None else ending
            reasons.append(f"worker {worker + 1} of {len(check.endings)}: {what}")
    if check.intended == 0:
        reasons.append("nobody was meant to come: nothing was measured")
    elif check.first_sent < check.intended * _ACHIEVED_MIN:
        share = check.first_sent / check.intended
        reasons.append(
            f"{check.first_sent} of {check.intended} intended arrivals were sent ({share:.2%})"
        )
    if check.dropped:
        reasons.append(f"no room in the generator for {check.dropped} citizens (cap in_flight)")
    if check.withheld:
        reasons.append(f"{check.withheld} requests were withheld (cap requests_rps)")
    if check.lag_p99 is not None and check.lag_p99 > check.lag_p99_max:
        reasons.append(
            f"requests left {_ms(check.lag_p99)} late at p99, bound {_ms(check.lag_p99_max)}"
        )
    if check.cpu is not None and check.cpu > _CPU_MAX:
        reasons.append(f"the generator used {check.cpu:.0%} of its core")
    return GeneratorVerdict(
        word=Validity.INVALID if reasons else Validity.VALID, reasons=tuple(reasons)
    )


def clauses(
    expect: Expectation,
    *,
    success_ratio: float | None,
    p50: timedelta | None,
    p99: timedelta | None,
    longest_silence: timedelta,
    amplification: float | None,
) -> tuple[Clause, ...]:
    found = []
    if expect.success_ratio_min is not None:
        found.append(
            Clause(
                what="success_ratio",
                wanted=f">= {expect.success_ratio_min:g}",
                got="unknown" if success_ratio is None else f"{success_ratio:.4f}",
                holds=success_ratio is not None and success_ratio >= expect.success_ratio_min,
            )
        )
    for what, bound, value in (("p50", expect.p50_max, p50), ("p99", expect.p99_max, p99)):
        if bound is not None:
            found.append(
                Clause(
                    what=what,
                    wanted=f"<= {_ms(bound)}",
                    got="never" if value is None else _ms(value),
                    holds=value is not None and value <= bound,
                )
            )
    if expect.longest_silence_max is not None:
        found.append(
            Clause(
                what="longest_silence",
                wanted=f"<= {_ms(expect.longest_silence_max)}",
                got=_ms(longest_silence),
                holds=longest_silence <= expect.longest_silence_max,
            )
        )
    if expect.amplification_max is not None:
        found.append(
            Clause(
                what="amplification",
                wanted=f"<= {expect.amplification_max:g}",
                got="unknown" if amplification is None else f"{amplification:.2f}",
                holds=amplification is not None and amplification <= expect.amplification_max,
            )
        )
    return tuple(found)


def judge(generator: GeneratorVerdict, found: tuple[Clause, ...]) -> Verdict:
    if not generator.valid or not found:
        return Verdict.INVALID  # nothing claimed is nothing proven
    return Verdict.PASS if all(c.holds for c in found) else Verdict.FAIL


def _ms(value: timedelta) -> str:
    return f"{value.total_seconds() * 1000:g} ms"
