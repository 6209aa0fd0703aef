"""The lab's life: up, down, status. `up` may be repeated and continues where a killed one stopped; `down`
needs no memory of what `up` did.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from infra import sites
from infra.lab import (
    cgroup,
    disk,
    host,
    identity,
    layer,
    leftovers,
    network,
    preflight,
    provision,
    snapshot,
    witnesses,
)
from infra.lab.plan import Host, LabPlan, plan
from infra.objectstore import buckets
from infra.postgres import etcd, patroni, prepare
from zaibei.config.model import Role, Stack
from zaibei.kernel import process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Missing, Refused, ToolFailed, Unreachable
from zaibei.kernel.process import run
from zaibei.kernel.progress import Progress
from zaibei.kernel.state import sole, state_dir, write_atomic
from zaibei.kernel.wait import wait_until

_STEADY = timedelta(seconds=90)
_STEADY_INTERVAL = timedelta(milliseconds=500)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    name: str
    address: str
    powered: bool
    frozen: bool
    cut_off: bool
    processes: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpResult:
    changed_tasks: int
    took: timedelta
    memory_bytes: int


def up(stack: Stack, *, clock: Clock, progress: Progress) -> UpResult:
    """Boot and provision every site of the stack. Raises what preflight finds, before anything is made."""
    lab = plan(stack, state_dir())
    started = clock.monotonic()
    with sole(lab.lock, what="zaibei lab"):
        if other := leftovers.elsewhere(lab.root.parent):
            raise Refused(
                f"another lab is up on this machine: its state is in {other}",
                hint=f"ZAIBEI_STATE={other} zaibei lab down",
            )
        process.end_orphans(lab.root.parent)
        _forget_other_stack(lab, stack, clock)
        preflight.check(lab.root.parent)
        bwrap = host.find_bwrap()
        secrets = identity.ensure(lab, clock)
        layer.ensure(lab, bwrap=bwrap, clock=clock, progress=progress)
        progress.step("making hosts, disks and cables")
        finished = lab.root / "finished"  # an up came to its end here before
        network.up(lab)
        for h in lab.hosts:
            disk.make(h)
            if disk.is_attached(h) and disk.why_not_writable(h):
                host.kill(h, clock)  # nothing runs on a disk whose power was cut
            disk.attach(h, clock)
            host.furnish(h, lab)
        progress.step("booting the hosts")
        with ThreadPoolExecutor(len(lab.hosts)) as pool:
            list(pool.map(lambda h: host.start(h, lab, bwrap=bwrap, clock=clock), lab.hosts))
        progress.step("provisioning the sites")
        log_key = witnesses.log_key(clock)
        played = provision.provision(
            lab, stack, secrets, log_key=log_key, clock=clock, progress=progress
        )
        access = provision.access_of(lab, stack)
        sites.save(access)
        progress.step("waiting for a writer, its synchronous standby and the remote site")
        ready(stack, access, clock=clock)
        progress.step("making roles, databases and buckets")
        etcd.prepare(access, secrets["etcd"])
        prepare.prepare(access)
        buckets.prepare(access, stack)
        progress.step("declaring the sites as witnesses of the evidence log")
        witnesses.declare_all(lab, ca=access.ca_file, fresh=not finished.exists(), clock=clock)
        if not finished.exists():
            progress.step("keeping a snapshot for `lab reset`")
            snapshot.take(lab, made_from=_made_from(lab))
            write_atomic(finished, "")
    return UpResult(
        changed_tasks=played.changed,
        took=timedelta(seconds=clock.monotonic() - started),
        memory_bytes=sum(cgroup.memory_bytes(cgroup.of(h)) for h in lab.hosts),
    )


def reset(stack: Stack, *, clock: Clock, progress: Progress) -> timedelta:
    """Back to what `up` made: no data, no faults, empty vaults. Answers with how long it took.

    Raises Missing when there is nothing to go back to.
    """
    lab = plan(stack, state_dir())
    started = clock.monotonic()
    with sole(lab.lock, what="zaibei lab"):
        if reason := snapshot.why_not_usable(lab, made_from=_made_from(lab)):
            raise Missing(f"cannot reset: {reason}", hint="zaibei lab down && zaibei lab up")
        progress.step("cutting the power of all hosts")
        for h in lab.hosts:
            host.kill(h, clock)
            disk.detach(h, clock)
            network.join(h)
        for entry in lab.faults.glob("*.json"):
            entry.unlink()  # its fault went with the host
        progress.step("putting the disks back")
        snapshot.put_back(lab)
        progress.step("booting the hosts")
        bwrap = host.find_bwrap()
        layer.ensure(lab, bwrap=bwrap, clock=clock, progress=progress)
        access = sites.load()
        # The remote site last, as when it was made: it follows a writer that is there.
        near = [h for h in lab.hosts if h.role is not Role.REMOTE]
        for together in (near, [h for h in lab.hosts if h.role is Role.REMOTE]):
            with ThreadPoolExecutor(max(1, len(together))) as pool:
                list(pool.map(lambda h: host.start(h, lab, bwrap=bwrap, clock=clock), together))
            progress.step("waiting for a writer and those who follow it")
            ready(stack, access, clock=clock, remote_too=together is not near)
    return timedelta(seconds=clock.monotonic() - started)


def _made_from(lab: LabPlan) -> str:
    _, code = provision.code_archive(lab.root / "code.tar")
    return f"{layer.digest()} {code}"


def ready(
    stack: Stack, access: sites.StackAccess, *, clock: Clock, remote_too: bool = True
) -> None:
    """Steady state, as drills find it: production writes, the same city follows synchronously, the remote
    site streams. Where the same city writes and production follows, production takes over as planned work.
    """
    writer, standby, remote = (
        _first(stack, r) for r in (Role.PRODUCTION, Role.SAME_CITY, Role.REMOTE)
    )
    if writer is None or standby is None:
        return
    if not remote_too:
        remote = None

    def why_not() -> str | None:
        reason = patroni.why_not_healthy(access, writer=writer, standby=standby, remote=remote)
        if reason is None:
            return None
        if patroni.why_not_healthy(access, writer=standby, standby=writer, remote=remote) is None:
            with suppress(Refused, Unreachable):  # asked again the next time round
                patroni.switchover(access, leader=standby, candidate=writer)
        return reason

    wait_until(
        why_not,
        what="the steady state",
        deadline=_STEADY,
        clock=clock,
        interval=_STEADY_INTERVAL,
        hint=f"zaibei lab shell {writer} -- tail -50 /var/log/zaibei/patroni.log",
    )


def _first(stack: Stack, role: Role) -> str | None:
    return next((s.name for s in stack.sites if s.role is role), None)


def down(*, clock: Clock, progress: Progress, keep_layers: bool = True) -> list[str]:
    """Remove all that a lab made, its disks and secrets included; answers with what was there.

    The shared layers stay as a cache unless told otherwise. Needs no stack file and no memory: it looks.
    """
    state = state_dir()
    with sole(state / "lab.lock", what="zaibei lab"):
        progress.step("taking the lab down")
        found = leftovers.remove(state, clock)
        _remove_tree(state / "lab")
        layer.prune(state / "layers", keep_current=keep_layers)
    left = leftovers.find(state)
    if left:
        raise ToolFailed(
            f"the lab left something behind: {'; '.join(left[:5])}", hint="zaibei lab down, again"
        )
    for disk_ in leftovers.held(state):
        progress.note(f"another program's mount namespace holds {disk_}, until it ends")
    return found


def status(stack: Stack) -> list[SiteStatus]:
    lab = plan(stack, state_dir())
    return [_status(h) for h in lab.hosts]


def _status(h: Host) -> SiteStatus:
    group = cgroup.of(h)
    processes = cgroup.processes(group)
    return SiteStatus(
        name=h.name,
        address=h.address,
        powered=bool(processes),
        frozen=cgroup.is_frozen(group),
        cut_off=bool(processes) and network.is_cut(h),
        processes=len(processes),
        memory_bytes=cgroup.memory_bytes(group),
    )


def shell_argv(stack: Stack, site: str) -> list[str]:
    """ssh into a site, as Ansible does."""
    lab = plan(stack, state_dir())
    h = lab.host(site)
    ssh = lab.secrets / "ssh"
    if not (ssh / "operator").exists():
        raise Missing("no lab is up", hint="zaibei lab up")
    return [
        "ssh",
        "-i",
        str(ssh / "operator"),
        "-o",
        f"UserKnownHostsFile={ssh / 'known_hosts'}",
        "-o",
        "IdentitiesOnly=yes",
        f"root@{h.address}",
    ]


def _forget_other_stack(lab: LabPlan, stack: Stack, clock: Clock) -> None:
    """A lab of another stack on this machine is taken down first: their addresses are the same."""
    mark = lab.root / "stack"
    made_for = mark.read_text() if mark.exists() else stack.name
    if made_for != stack.name:
        leftovers.remove(lab.root.parent, clock)
        _remove_tree(lab.root)
    write_atomic(mark, stack.name)


def _remove_tree(folder: Path) -> None:
    if folder.exists():
        # One file system: a mount that somehow survived is never walked into.
        run(["rm", "-rf", "--one-file-system", folder], deadline=timedelta(minutes=2))
