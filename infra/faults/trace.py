"""What a machine and a lab look like, as lines; "nothing is left" is then a comparison of two traces."""

from pathlib import Path

from infra.faults import journal
from infra.lab import cgroup, network
from infra.lab.disk import mounts
from infra.lab.plan import CGROUP, WAN, LabPlan
from zaibei.kernel.process import run


def trace(lab: LabPlan) -> frozenset[str]:
    """Links, queueing rules, firewall rules, mounts, cgroups, closed ports, frozen sites, open faults."""
    lines = {f"mount {point}" for point in mounts()}
    lines |= {f"fault {i}: {f}" for i, f in journal.active(lab).items()}
    for namespace in (None, WAN, *(h.namespace for h in lab.hosts)):
        where = namespace or "machine"
        lines |= {f"link {where} {name}" for name in network.links(namespace)}
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        for argv in (["tc", "qdisc", "show"], ["nft", "list", "ruleset"]):
            shown = run([*inside, *argv])
            lines |= {
                f"{argv[0]} {where} {line.strip()}" for line in shown.splitlines() if line.strip()
            }
    for h in lab.hosts:
        group = cgroup.of(h)
        lines.add(f"site {h.name} power={bool(cgroup.processes(group))} frozen={cgroup.is_frozen(group)} "
                  f"cut={network.is_cut(h)}")  # fmt: skip
    parent = cgroup.top() / CGROUP
    lines |= {f"cgroup {p.name}" for p in Path(parent).glob("*") if p.is_dir()}
    return frozenset(lines)


def differences(before: frozenset[str], after: frozenset[str]) -> list[str]:
    return sorted(
        [f"- {line}" for line in before - after] + [f"+ {line}" for line in after - before]
    )
