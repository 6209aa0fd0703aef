"""List what a drill did not measure, so that its report cannot be read for more than it shows. Pure."""

from failover.scenario import Scenario
from failover.service import Crowd
from zaibei.config.model import Objective, Stack
from zaibei.kernel.bilingual import Bilingual

_GROUND = (
    Bilingual(
        "one machine carries all sites of the lab: its clock, kernel and Debian packages are shared",
        "演练环境的各站点同在一台机器上：共用其时钟、内核和 Debian 软件包",
    ),
    Bilingual(
        "the kernel of the lab adds no latency between sites",
        "演练环境的内核不模拟站点之间的网络时延",
    ),
    Bilingual(
        "the clients and the load run on the operator's machine, outside every site but on the same cores",
        "客户端与负载运行在操作员的机器上，在各站点之外，但共用处理器",
    ),
    Bilingual(
        "the clocks of the sites were not compared with each other; durations are of the operator's clock",
        "没有比对各站点之间的时钟；时长取自操作员机器的时钟",
    ),
    Bilingual(
        "reads during the fault were not recorded, so stale reads were not looked for",
        "没有记录故障期间的读取，因此没有查找过期读",
    ),
    Bilingual(
        "no write but the clients' own was followed: another application may run with synchronous_commit off",
        "只追踪演练客户端自己的写入；其他应用可能关闭了 synchronous_commit，未作检查",
    ),
)


def not_measured(
    scenario: Scenario, stack: Stack, objective: Objective, *, judged: Crowd | None
) -> tuple[Bilingual, ...]:
    """Of this ground, and of what the stack declares: everything that the verdict says nothing about."""
    return (
        *_GROUND,
        *_services(stack, judged),
        *_objectives(scenario, stack, objective),
        Bilingual(
            "whether the people who approve such an action can be reached, and in what time",
            "审批此类操作的人员能否及时联系到，没有检验",
        ),
    )


def _services(stack: Stack, judged: Crowd | None) -> list[Bilingual]:
    found = [
        Bilingual(
            f"the objective of service {s.name} ({100 * s.slo_success:g} % served, p99 {s.slo_latency.total_seconds():g} s)",
            f"服务 {s.name} 的目标（{100 * s.slo_success:g} % 得到服务，p99 {s.slo_latency.total_seconds():g} 秒）没有判定",
        )
        for s in stack.services
        if judged is None or judged.service != s.name
    ]
    if not stack.services:
        found.append(
            Bilingual(
                "the stack declares no service, so no service objective was judged",
                "系统没有声明服务，因此没有判定服务目标",
            )
        )
    if judged is not None and judged.window is not None:
        found.append(
            Bilingual(
                f"citizens who came during the outage (up to {judged.window.until_s:.1f} s after the fault) are"
                " counted, but no objective was held against what they met",
                f"中断时段（故障后 {judged.window.until_s:.1f} 秒以内）到来的市民只计数，没有按目标判定",
            )
        )
    found += [
        Bilingual(
            f"the surge of {s.surge_factor:g} times the peak of {s.peak_rps:g} requests a second that {s.name} must survive",
            f"服务 {s.name} 须承受的 {s.surge_factor:g} 倍高峰（平日 {s.peak_rps:g} 次/秒）没有试验",
        )
        for s in stack.services
    ]
    return found


def _objectives(scenario: Scenario, stack: Stack, objective: Objective) -> list[Bilingual]:
    hazard, found = objective.hazard.value, []
    if objective.doo:
        found.append(
            Bilingual(
                f"the degraded operation (doo) that the stack declares for {hazard}",
                f"系统为 {hazard} 声明的降低运行目标（doo）没有单独检验",
            )
        )
    if objective.city is not None:
        rto_s = objective.city.rto.total_seconds()
        found.append(
            Bilingual(
                f"the loss of a whole city (declared: RTO {rto_s:g} s)",
                f"整座城市失去的情形（声明 RTO {rto_s:g} 秒）没有试验",
            )
        )
    others = [d.name for d in stack.databases if d.name != scenario.database]
    if others:
        found.append(
            Bilingual(
                f"RTO and RPO of the other databases: {', '.join(others)}",
                f"其他数据库的 RTO 与 RPO：{'、'.join(others)}",
            )
        )
    return found
