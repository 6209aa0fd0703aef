"""Decide when a drill has done enough harm. Pure.

A drill harms real users of a shared stack. Beyond its bound the fault is undone at once and the verdict is FAIL,
whatever was still to be measured; the dead-man's ten minutes bound something else, a drill that nobody watches.
"""

from dataclasses import dataclass
from datetime import timedelta

from failover.scenario import Scenario
from zaibei.config.model import Objective
from zaibei.kernel.bilingual import Bilingual

_TIMES = 2  # as long as the objective allows, and as long again to see by how much it is missed


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    outage: timedelta
    failed_writes: int
    failed_citizens: int | None  # None: nobody but the writers was counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """Since the fault."""

    outage: timedelta  # without a good second
    failed_writes: int
    failed_citizens: int


def bound(scenario: Scenario, objective: Objective, *, citizens_per_s: float | None) -> Bound:
    """The scenario's own; for what it does not say, no service for twice the RTO objective (and never for longer than
    the drill waits), and all of the traffic of that time.
    """
    given, traffic = scenario.harm_max, scenario.traffic
    outage = given.outage or min(objective.rto * _TIMES, scenario.recover_within)
    rate = traffic.rows_per_s + traffic.objects_per_s
    crowd = None if citizens_per_s is None else round(citizens_per_s * outage.total_seconds())
    return Bound(
        outage=outage,
        failed_writes=_or(given.failed_writes, round(rate * outage.total_seconds())),
        failed_citizens=crowd if given.failed_citizens is None else given.failed_citizens,
    )


def why_stop(done: Harm, limit: Bound) -> Bilingual | None:
    if done.outage >= limit.outage:
        took, allowed = done.outage.total_seconds(), limit.outage.total_seconds()
        return Bilingual(
            f"no service for {took:.0f} s, {allowed:g} s is the bound",
            f"服务中断 {took:.0f} 秒，上限为 {allowed:g} 秒",
        )
    if done.failed_writes > limit.failed_writes:
        return Bilingual(
            f"{done.failed_writes} writes failed, {limit.failed_writes} is the bound",
            f"写入失败 {done.failed_writes} 次，上限为 {limit.failed_writes} 次",
        )
    if limit.failed_citizens is not None and done.failed_citizens > limit.failed_citizens:
        return Bilingual(
            f"{done.failed_citizens} citizens were not served, {limit.failed_citizens} is the bound",
            f"未获服务 {done.failed_citizens} 人，上限为 {limit.failed_citizens} 人",
        )
    return None


def _or(given: int | None, default: int) -> int:
    return default if given is None else given
