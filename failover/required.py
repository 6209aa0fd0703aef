"""Decide, before the fault, which checks a drill may not pass without. Pure, and not for the scenario to thin:
it follows from what the scenario does and what the stack declares, and stands in the signed intent.
"""

from failover.scenario import Scenario
from zaibei.config.model import Service, Stack
from zaibei.evidence.pass_rules import required_of
from zaibei.kernel.bilingual import Bilingual
from zaibei.kernel.errors import Usage

TITLES = {
    "ledger-whole": Bilingual("the clients' ledger is whole", "客户端账本完整"),
    "takeover": Bilingual("the right site took over", "由应接管的站点接管"),
    "backup-committed": Bilingual("the backup is in every vault", "备份已写入各保管库"),
    "restore-verified": Bilingual("the backup was restored and read back", "备份已恢复并回读核对"),
    "replicas-agree": Bilingual("all replicas hold the same", "各副本内容一致"),
    "objects-converged": Bilingual("the object stores hold the same", "各对象存储内容一致"),
    "failback": Bilingual("the lost site took the writing back", "故障站点恢复并回切"),
    "nothing-left": Bilingual("the fault left nothing behind", "故障注入没有残留"),
    "negative-control": Bilingual("the negative control was condemned", "反向对照被判为失败"),
    "harm-bound": Bilingual("the drill did no more harm than it may", "演练影响未超过上限"),
    "load-lasted": Bilingual("the load lasted to the end of the fault", "负载持续到故障结束"),
    "recovery": Bilingual("the recovery was watched to its end", "观察恢复过程直至结束"),
    "surge": Bilingual("the load was stopped and counted", "负载已停止并统计"),
    "clients": Bilingual("the clients were stopped", "客户端已停止"),
    "read-back": Bilingual("every write was read back", "逐笔回读"),
    "ending": Bilingual("the drill was brought to its end", "演练收尾"),
    "surge-generator": Bilingual("the load generator measured validly", "负载发生器测量有效"),
    "surge-expectation": Bilingual(
        "the crowd was served as the surge expects", "市民请求达到高峰场景的要求"
    ),
    "service-slo": Bilingual("the service kept its declared objective", "服务达到声明的服务目标"),
}


def title(check: str) -> Bilingual:
    return TITLES.get(check, Bilingual(check, check))


def service_of(scenario: Scenario, stack: Stack) -> Service | None:
    """The declared service that the surge loads; None when there is no surge, or no service is declared."""
    wanted = scenario.traffic.service
    named = [s for s in stack.services if wanted in (None, s.name)]
    if wanted is not None and not named:
        known = ", ".join(s.name for s in stack.services) or "none"
        raise Usage(
            f"{scenario.name}: stack {stack.name} declares no service {wanted}",
            hint=f"there are: {known}",
        )
    if scenario.traffic.surge is None or not named:
        return None
    if len(named) > 1:
        raise Usage(
            f"{scenario.name}: stack {stack.name} declares several services",
            hint=f"say which one the surge loads: traffic: service: {named[0].name}",
        )
    return named[0]


def required(scenario: Scenario, stack: Stack) -> tuple[str, ...]:
    """Raises Usage when it cannot be decided whose objective the surge is held to."""
    return needed(scenario, held_to_service=service_of(scenario, stack) is not None)


def needed(scenario: Scenario, *, held_to_service: bool) -> tuple[str, ...]:
    """By name: the same again from the plan and the stack in a pack."""
    names = list(required_of(surge=scenario.traffic.surge is not None))
    if held_to_service:
        names.append("service-slo")
    return tuple(names)
