"""Judge what the crowd of a drill met: the surge's own expectation, and the objective of the service.

A surge that runs alone is judged over everybody who came. In a drill a site is lost on purpose, and the
stack declares how long that may last. Where the scenario says `outage: excused`, citizens who came while the
service was away are counted and printed but not held against it: from the fault to the stable recovery that
the ledger measured, and never longer than the RTO objective. Everybody else is judged. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from failover.measure import Measures
from failover.verdict import CheckResult, Ruling
from loadtest.results import Part, SurgeResult, part
from loadtest.scenario import SurgeScenario
from loadtest.verdict import Clause, Expectation, clauses, undeniable_harm
from zaibei.config.model import Objective, Service
from zaibei.kernel.bilingual import Bilingual, joined

SURGE = "surge-expectation"
SLO = "service-slo"
_BEFORE_S = 1  # whoever came in the second before the fault may still have waited when it struck
_CAME_MIN = 5  # citizens on each side of the outage; fewer show nothing
_WHAT = {
    "success_ratio": Bilingual("share served", "得到服务的比例"),
    "p50": Bilingual("p50 of the time until served", "得到服务用时 p50"),
    "p99": Bilingual("p99 of the time until served", "得到服务用时 p99"),
    "answer_p99": Bilingual("p99 of good answers", "正确应答时延 p99"),
    "longest_silence": Bilingual(
        "longest time in which nobody was served", "最长无人得到服务的时间"
    ),
    "amplification": Bilingual("requests for each wanted one", "请求放大倍数"),
}
_GOT = {"never": "从未得到服务", "unknown": "未知"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Seconds from the fault; citizens who came in it are not judged."""

    from_s: float
    until_s: float
    seconds: range  # the same, of the surge


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """What the citizens of a drill met, and by what it is judged."""

    whole: Part
    judged: Part
    window: Window | None  # None: everybody is judged
    excused: Part | None
    expectation: tuple[Clause, ...]
    service: str | None
    slo: tuple[Clause, ...]
    checks: tuple[CheckResult, ...]

    @property
    def unserved(self) -> int:
        return self.whole.offered - self.whole.ok

    def sentence(self) -> Bilingual:
        """The share that got nothing, in plain words, whatever the verdict is."""
        never, told = self.unserved, unserved(self.whole.offered, self.whole.ok)
        if not never or self.window is None or self.excused is None:
            return told
        en, zh = str(told), told.zh
        inside, until_s = self.excused.offered - self.excused.ok, self.window.until_s
        when = f"came during the outage, up to {until_s:.1f} s after the fault, which the objective allows"
        zh_when = f"在目标所允许的中断时段内到来（故障后 {until_s:.1f} 秒以内）"
        if inside == never:
            return Bilingual(f"{en}; all of them {when}", f"{zh}；他们都{zh_when}")
        return Bilingual(
            f"{en}; {inside or 'none'} of them {when}, {never - inside} before or after it",
            f"{zh}；其中 {inside} 人{zh_when}，其余 {never - inside} 人在此之前或之后到来",
        )


def unserved(came: int, served: int) -> Bilingual:
    """How many citizens got nothing; a small share is never rounded to none."""
    never = came - served
    if not came:
        return Bilingual(
            "no citizen came: nothing is known of the service", "没有人到来，无从得知服务情况"
        )
    if not never:
        return Bilingual(f"all {came} citizens were served", f"{came} 人全部得到服务")
    share = f"{max(never / came, 0.001):.1%}".replace("%", " %")
    if never < 0.001 * came:
        share = f"< {share}"
    return Bilingual(
        f"{never} of {came} citizens ({share}) were never served",
        f"{came} 人中有 {never} 人（{share}）始终未得到服务",
    )


def window(
    result: SurgeResult,
    *,
    fault_s: float,
    begun_s: float,
    stable: timedelta | None,
    objective: Objective,
) -> Window:
    """The outage that is excused, in whole seconds of the surge. `begun_s`: the first effect of the fault, before
    it was acknowledged. Not recovered: until the objective, and what comes later is judged.
    """
    away = objective.rto if stable is None else min(stable, objective.rto)
    assert result.start_s is not None, "a surge of a drill has begun at an instant"
    begin = math.floor(min(begun_s, fault_s) - result.start_s) - _BEFORE_S
    end = math.ceil(fault_s + away.total_seconds() - result.start_s)
    return Window(
        from_s=result.start_s + begin - fault_s,
        until_s=result.start_s + end - fault_s,
        seconds=range(begin, end),
    )


def judged(
    scenario: SurgeScenario,
    result: SurgeResult,
    *,
    measures: Measures,
    begun_s: float,
    objective: Objective,
    service: Service | None,
    excused: bool,
) -> Crowd:
    """`excused`: the scenario excuses the outage within the objective."""
    away = (
        window(
            result,
            fault_s=measures.fault_s,
            begun_s=begun_s,
            stable=measures.rto_stable,
            objective=objective,
        )
        if excused
        else None
    )
    outside = part(result, without=away.seconds if away else ())
    inside = None
    if away is not None:
        inside = part(
            result, without=[s.second for s in result.series if s.second not in away.seconds]
        )
    found = _clauses(scenario.expectation(), outside)
    slo = _slo(service, outside) if service else ()
    made = [_check(SURGE, "", scenario.expectation(), found, scenario, result, outside, away)]
    if service:
        wanted = Expectation(success_ratio_min=service.slo_success)
        made.append(_check(SLO, service.name, wanted, slo, scenario, result, outside, away))
    return Crowd(
        whole=part(result),
        judged=outside,
        window=away,
        excused=inside,
        expectation=found,
        service=service.name if service else None,
        slo=slo,
        checks=tuple(made),
    )


def _clauses(expect: Expectation, of: Part) -> tuple[Clause, ...]:
    return clauses(
        expect,
        success_ratio=of.success_ratio,
        p50=of.p50,
        p99=of.p99,
        longest_silence=of.longest_silence,
        amplification=of.amplification,
    )


def _slo(service: Service, of: Part) -> tuple[Clause, ...]:
    """Success is of citizens; latency is of good answers, as stack.yaml declares the two."""
    success = _clauses(Expectation(success_ratio_min=service.slo_success), of)
    took = _clauses(Expectation(p99_max=service.slo_latency), _answered(of))
    return (
        *success,
        *(Clause(what="answer_p99", wanted=c.wanted, got=c.got, holds=c.holds) for c in took),
    )


def _answered(of: Part) -> Part:
    return replace(of, p99=of.answer_p99)


def _check(
    name: str,
    of_whom: str,
    expect: Expectation,
    found: Sequence[Clause],
    scenario: SurgeScenario,
    result: SurgeResult,
    judged_part: Part,
    away: Window | None,
) -> CheckResult:
    """Harm that the generator cannot have made is FAIL at once; a time that a busy host may have made is not."""
    if why := _too_few(result, away):
        return CheckResult(name=name, ran=True, passed=False, detail=why, if_failed=Ruling.INVALID)
    broken = [c for c in found if not c.holds]
    harm = undeniable_harm(
        expect,
        offered=judged_part.offered,
        gave_up=judged_part.gave_up,
        lag_p99=result.send_lag_p99,
        refresh_after=scenario.patience.refresh_after,
    )
    told = joined(_say(c) for c in (broken or found))
    scope = _scope(judged_part, away)
    whom = f"{of_whom}, " if of_whom else ""
    return CheckResult(
        name=name,
        ran=True,
        passed=not broken,
        detail=Bilingual(
            f"{whom}{scope}: {told}", f"{whom.replace(', ', '，')}{scope.zh}：{told.zh}"
        ),
        excusable=harm is None,
    )


def _scope(of: Part, away: Window | None) -> Bilingual:
    if away is None:
        return Bilingual(f"all {of.offered} citizens", f"全部 {of.offered} 人")
    return Bilingual(
        f"{of.offered} citizens outside the outage", f"中断时段之外到来的 {of.offered} 人"
    )


def _too_few(result: SurgeResult, away: Window | None) -> Bilingual | None:
    if away is None:
        return None if result.offered else Bilingual("no citizen came", "没有人到来")
    before = sum(s.offered for s in result.series if s.second < away.seconds.start)
    after = sum(s.offered for s in result.series if s.second >= away.seconds.stop)
    for came, en, zh in (
        (before, "before the fault", "故障之前"),
        (after, "after the outage", "中断之后"),
    ):
        if came < _CAME_MIN:
            return Bilingual(
                f"{came} citizens came {en}, {_CAME_MIN} needed: nothing shows that they are served",
                f"{zh}只来了 {came} 人，至少需要 {_CAME_MIN} 人：无法说明服务是否可用",
            )
    return None


def _say(clause: Clause) -> Bilingual:
    what = _WHAT[clause.what]
    wanted = clause.wanted.replace(">=", "≥").replace("<=", "≤")
    not_met, zh_not_met = ("", "") if clause.holds else (", not met", "，未达到")
    return Bilingual(
        f"{what} {clause.got} ({wanted} wanted{not_met})",
        f"{what.zh} {_GOT.get(clause.got, clause.got)}（要求 {wanted}{zh_not_met}）",
    )
