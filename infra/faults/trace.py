"""What zaibei itself has made on this machine, as lines; "nothing is left" is then a comparison of two traces.

Only what bears its names and marks: containers come and go on a machine while a drill runs, and what they make or
remove is no trace of the drill.
"""

from pathlib import Path

from infra.faults import journal
from infra.lab import cgroup, disk, network
from infra.lab.plan import PREFIX, WAN, LabPlan
from zaibei.kernel import process
from zaibei.kernel.process import run


def trace(lab: LabPlan) -> frozenset[str]:
    """Links, queueing rules, firewall rules, mounts, loop devices, cgroups, closed ports, frozen sites, open faults,
    programs that were started and not ended.
    """
    ours = (lab.root, lab.layers)
    lines = {f"mount {m}" for m in disk.mounts() if any(Path(m).is_relative_to(o) for o in ours)}
    lines |= {f"fault {i}: {f}" for i, f in journal.active(lab).items()}
    lines |= {f"loop device on the disk of {h.name}" for h in lab.hosts if disk.loops(h)}
    lines |= {f"process {pid}: {words}" for pid, words in process.helpers().items()}
    lines |= {f"link machine {name}" for name in network.links(None) if name.startswith(PREFIX)}
    lines |= {f"qdisc machine {q}" for q in _lines("tc", "qdisc", "show") if f" dev {PREFIX}" in q}
    there = network.namespaces()
    for namespace in (WAN, *(h.namespace for h in lab.hosts)):
        if namespace not in there:
            continue
        inside = ("nsenter", f"--net=/run/netns/{namespace}", "--")
        lines |= {f"namespace {namespace}"}
        lines |= {f"link {namespace} {name}" for name in network.links(namespace)}
        lines |= {f"qdisc {namespace} {q}" for q in _lines(*inside, "tc", "qdisc", "show")}
        lines |= {f"nft {namespace} {rule}" for rule in _lines(*inside, "nft", "list", "ruleset")}
    for h in lab.hosts:
        group = cgroup.of(h)
        cut = WAN in there and h.wan_link in network.links(WAN) and network.is_cut(h)
        lines.add(
            f"site {h.name} power={bool(cgroup.processes(group))} frozen={cgroup.is_frozen(group)} "
            f"cut={cut}"
        )
        lines |= {f"cgroup {group.name}"} if group.exists() else set()
    return frozenset(lines)


def differences(before: frozenset[str], after: frozenset[str]) -> list[str]:
    return sorted(
        [f"- {line}" for line in before - after] + [f"+ {line}" for line in after - before]
    )


def _lines(*argv: str) -> set[str]:
    return {line.strip() for line in run(argv).splitlines() if line.strip()}
