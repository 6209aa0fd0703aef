"""PASS, FAIL or INVALID. Pure.

The generator is judged by other evidence than the service: a run in which the load did not go out as
intended says nothing about how fast the service is. It can still prove harm: citizens who asked and went
away with nothing are not brought back by a generator that was a little late, so harm is FAIL before doubt
is INVALID, as in `failover.verdict`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from zaibei.kernel.bilingual import Bilingual

_ACHIEVED_MIN = 0.999
_CPU_MAX = 0.85  # of one core; above it a gevent loop queues its own work
_LATER_THAN_P99 = 0.01  # of the citizens: so many may have been sent later than the lag at p99


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
            which = f"{worker + 1} of {len(check.endings)}"
            reasons.append(
                Bilingual(
                    f"worker {which}: {what}",
                    f"发生器进程 {worker + 1}/{len(check.endings)}：{_ENDED.get(what, what)}",
                )
            )
    if check.intended == 0:
        reasons.append(
            Bilingual(
                "nobody was meant to come: nothing was measured", "计划中没有人到来，什么也没有测到"
            )
        )
    elif check.first_sent < check.intended * _ACHIEVED_MIN:
        share = check.first_sent / check.intended
        reasons.append(
            Bilingual(
                f"{check.first_sent} of {check.intended} intended arrivals were sent ({share:.2%})",
                f"计划到来 {check.intended} 人，只发出 {check.first_sent} 人（{share:.2%}）",
            )
        )
    if check.dropped:
        reasons.append(
            Bilingual(
                f"no room in the generator for {check.dropped} citizens (cap in_flight)",
                f"发生器容纳不下 {check.dropped} 人（上限 in_flight）",
            )
        )
    if check.withheld:
        reasons.append(
            Bilingual(
                f"{check.withheld} requests were withheld (cap requests_rps)",
                f"有 {check.withheld} 个请求因上限 requests_rps 没有发出",
            )
        )
    if check.lag_p99 is not None and check.lag_p99 > check.lag_p99_max:
        late, bound = _ms(check.lag_p99), _ms(check.lag_p99_max)
        reasons.append(
            Bilingual(
                f"requests left {late} late at p99, bound {bound}",
                f"请求发出迟到 {late}（p99），上限 {bound}",
            )
        )
    if check.cpu is not None and check.cpu > _CPU_MAX:
        reasons.append(
            Bilingual(
                f"the generator used {check.cpu:.0%} of its core",
                f"发生器占用了所在核的 {check.cpu:.0%}",
            )
        )
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


def undeniable_harm(
    expect: Expectation,
    *,
    offered: int,
    gave_up: int,
    lag_p99: timedelta | None,
    refresh_after: timedelta,
) -> Bilingual | None:
    """Say why the expectation is broken whatever the generator did, or None.

    `gave_up`: citizens who asked and left without what they wanted. Everybody the generator did not send,
    dropped or lost sight of is taken as served, and so is everybody who may have been sent later than the
    lag at p99. One attempt of a citizen lasts `refresh_after`: a generator that is later than that may have
    made the failures itself, and then nothing is undeniable.
    """
    if not gave_up or lag_p99 is None or lag_p99 >= refresh_after:
        return None
    certain = max(0, gave_up - math.ceil(_LATER_THAN_P99 * offered))
    best = 1 - certain / offered
    # A percentile is a claim about how many are served at all: p99 of 2 s says that 99 of 100 are.
    needed = max(
        expect.success_ratio_min or 0.0,
        0.99 if expect.p99_max is not None else 0.0,
        0.5 if expect.p50_max is not None else 0.0,
    )
    if gave_up == offered or best < needed:
        return Bilingual(
            f"{gave_up} of {offered} citizens ({gave_up / offered:.1%}) asked and were never served;"
            f" a generator {_ms(lag_p99)} late cannot have made that",
            f"{offered} 人中有 {gave_up} 人（{gave_up / offered:.1%}）提出请求却始终未得到服务；"
            f"发生器迟到 {_ms(lag_p99)} 造不成这样的结果",
        )
    return None


def judge(
    generator: GeneratorVerdict, found: Sequence[Clause], *, harm: str | None = None
) -> Verdict:
    """`harm` is from `undeniable_harm`: it outranks a doubtful generator."""
    if harm and found:
        return Verdict.FAIL
    if not generator.valid or not found:
        return Verdict.INVALID  # nothing claimed is nothing proven
    return Verdict.PASS if all(c.holds for c in found) else Verdict.FAIL


_ENDED = {
    "died without a word": "没有留下结束记录就退出了",
    "controller-lost": "与控制进程失去联系",
}


def _ms(value: timedelta) -> str:
    return f"{value.total_seconds() * 1000:g} ms"
