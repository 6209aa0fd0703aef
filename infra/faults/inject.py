"""How a fault is made and unmade in the lab. Each injector checks its own effect before it acknowledges:
an injector that only believes it has cut the power would start the clock on an outage that never was.
"""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from infra.faults.model import Fault, Kind
from infra.lab import cgroup, disk, host, layer, network
from infra.lab.plan import WAN, Host, LabPlan
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Refused
from zaibei.kernel.progress import Silent
from zaibei.kernel.wait import wait_until

_DEADLINE = timedelta(seconds=10)
_ANSWERS = timedelta(seconds=20)
_RESTARTED = timedelta(
    seconds=60
)  # Patroni looks at its PostgreSQL every loop_wait, and may rewind it first


def why_not_possible(fault: Fault, lab: LabPlan) -> str | None:
    """The reason this fault cannot be made now, or None."""
    at = lab.host(fault.site)
    if not cgroup.processes(cgroup.of(at)):
        return f"{at.name} has no power"
    if cgroup.is_frozen(cgroup.of(at)):
        return f"{at.name} is frozen already"
    if network.is_cut(at):
        return f"{at.name} is cut off already"
    if fault.kind is Kind.KILL and not _pids(at, fault.process or ""):
        return f"no process {fault.process!r} runs at {at.name}"
    return None


def make(fault: Fault, lab: LabPlan, clock: Clock) -> str:
    """Make it; answers with the proof that it is made."""
    if reason := why_not_possible(fault, lab):
        raise Refused(f"{fault}: {reason}")
    at = lab.host(fault.site)
    group = cgroup.of(at)
    match fault.kind:
        case Kind.POWER_LOSS:
            # Silence first: dying processes would make the kernel send resets, and a machine
            # without power says nothing. Then the disk, then the processes (see lab.disk).
            network.cut(at)
            disk.cut_power(at)
            cgroup.kill(group, clock)
            return f"0 processes, disk shut down without flushing, port of {at.name} closed"
        case Kind.PARTITION:
            network.cut(at)
            assert network.is_cut(at)
            return f"bridge port of {at.name} is disabled"
        case Kind.FREEZE:
            cgroup.freeze(group, frozen=True, clock=clock)
            return f"{len(cgroup.processes(group))} processes frozen, says the kernel"
        case Kind.KILL:
            # Frozen while they are listed: a child forked after the look would outlive its parent, and hold
            # the shared memory that the next start of the program needs.
            cgroup.freeze(group, frozen=True, clock=clock)
            try:
                pids = _pids(at, fault.process or "")
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            finally:
                cgroup.freeze(group, frozen=False, clock=clock)
            wait_until(
                lambda: None if not any(_alive(p) for p in pids) else "still there",
                what=f"killing {fault.process}",
                deadline=_DEADLINE,
                clock=clock,
            )
            return f"{len(pids)} processes of {fault.process} killed"


def unmake(fault: Fault, lab: LabPlan, clock: Clock) -> None:
    """Undo, and ask the site whether it is undone; safe to repeat, and on a fault that was never made.

    Raises Unreachable or ToolFailed when the effect cannot be seen: the exit code of a tool is no effect.
    """
    at = lab.host(fault.site)
    group = cgroup.of(at)
    if WAN not in network.namespaces():
        return  # the machine has been started again, or the lab is down: the fault went with it
    match fault.kind:
        case Kind.POWER_LOSS:
            power_on(at, lab, clock)
        case Kind.PARTITION:
            if at.wan_link in network.links(WAN):
                network.join(at)
        case Kind.FREEZE:
            if group.exists():
                cgroup.freeze(group, frozen=False, clock=clock)
        case Kind.KILL:
            pass  # the site's supervisor starts it again
    if not cgroup.processes(group) or (cgroup.is_frozen(group) or network.is_cut(at)):
        return  # it has no power, or another fault is still in force: nothing here can answer
    wait_until(
        lambda: None if host.answers(at) else "sshd does not answer",
        what=f"undoing {fault}",
        deadline=_ANSWERS,
        clock=clock,
        hint=f"see {at.console}",
    )
    if fault.kind is Kind.KILL:
        wait_until(
            lambda: (
                None if _pids(at, fault.process or "") else f"no process {fault.process!r} runs"
            ),
            what=f"undoing {fault}",
            deadline=_RESTARTED,
            clock=clock,
            hint=f"zaibei lab shell {at.name} -- supervisorctl status",
        )


def power_on(at: Host, lab: LabPlan, clock: Clock) -> None:
    """Mount the disk again (its journal is replayed) and boot the host into what it was."""
    if cgroup.processes(cgroup.of(at)) and disk.why_not_writable(at):
        host.kill(at, clock)  # the fault was half made: its disk has no power, its processes do
    if not cgroup.processes(cgroup.of(at)):
        disk.detach(at, clock)
        network.plug_in(at)
        network.join(at)
        bwrap = host.find_bwrap()
        layer.ensure(lab, bwrap=bwrap, clock=clock, progress=Silent())
        host.start(at, lab, bwrap=bwrap, clock=clock)
    elif network.is_cut(at):
        network.join(at)


def _pids(at: Host, process: str) -> list[int]:
    """Processes of the site whose program is called so."""
    found = []
    for pid in cgroup.processes(cgroup.of(at)):
        with suppress(FileNotFoundError, ProcessLookupError):
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if is_called(process, argv):
                found.append(pid)
    return found


def is_called(program: str, argv: Sequence[bytes]) -> bool:
    """By its own name, as a script's, or in a title: `postgres: main: app database idle` is postgres too."""
    words = [os.fsdecode(word).partition(":")[0] for word in argv[:2]]
    return program in {Path(word).name for word in words if word}


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
