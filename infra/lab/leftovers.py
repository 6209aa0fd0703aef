"""Find what a lab leaves on a machine by looking: processes, cgroups, mounts, loop devices, links, namespaces.

A record of what was made would be missing exactly the thing a crash made last. What bears the mark of another state
folder is that one's, and stays.
"""

import json
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from infra.lab import cgroup, network
from infra.lab.disk import mounts
from infra.lab.plan import CGROUP, OPERATOR_LINK, PREFIX
from zaibei.kernel import process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import ToolFailed
from zaibei.kernel.process import run
from zaibei.kernel.wait import wait_until

_DEADLINE = timedelta(seconds=20)


def find(state: Path) -> list[str]:
    """Everything there is of this state folder's lab, a line each; empty when the machine is clean of it."""
    groups = _groups(state)
    found = [f"process {pid} of {g.name}" for g in groups for pid in cgroup.processes(g)]
    found += [
        f"process {pid} of a zaibei that has ended: {words}"
        for pid, words in process.orphans(state).items()
    ]
    found += [f"cgroup {g}" for g in groups]
    found += [f"mount {m}" for m in _mounts(state)]
    found += [f"loop device {dev} on {file}" for dev, file in _loops(state)]
    if elsewhere(state) is None:
        if OPERATOR_LINK in network.links(None):
            found.append(f"link {OPERATOR_LINK}")
        found += [f"namespace {n}" for n in sorted(network.namespaces()) if n.startswith(PREFIX)]
    return found


def elsewhere(state: Path) -> Path | None:
    """Another state folder whose lab is up on this machine: the names of links and namespaces are its own then."""
    if link := network.made_for():
        return None if link == state.resolve() else link
    marks = (cgroup.made_for(g) for g in cgroup.all_of_labs())
    return next((m for m in marks if m is not None and m != state.resolve()), None)


def remove(state: Path, clock: Clock) -> list[str]:
    """Remove all of it; answers with what was there. Safe to repeat, also after a crash in the middle."""
    found = find(state)
    process.end_orphans(state)
    for group in _groups(state):
        cgroup.kill(group, clock)
    for point in _mounts(state):

        def why_not(point: Path = point) -> str | None:
            if point not in _mounts(state):
                return None
            try:
                run(["umount", point])
            except ToolFailed as busy:
                return busy.message
            return None

        wait_until(why_not, what=f"unmounting {point}", deadline=_DEADLINE, clock=clock)
    for device, _ in _loops(state):
        with suppress(ToolFailed):  # the unmount freed it in the meantime
            run(["losetup", "--detach", device])
    if elsewhere(state) is None:
        network.remove_all()
    for group in _groups(state):
        cgroup.remove(group)
    with suppress(OSError):
        (cgroup.top() / CGROUP).rmdir()
    return found


def _groups(state: Path) -> list[Path]:
    """Those that bear no other state folder's mark."""
    return [g for g in cgroup.all_of_labs() if cgroup.made_for(g) in (None, state.resolve())]


def _mounts(state: Path) -> list[Path]:
    """Below the lab's folder or its layers, deepest first."""
    ours = (state / "lab", state / "layers")
    points = [Path(m) for m in mounts()]
    below = [p for p in points if any(p.is_relative_to(o) for o in ours)]
    return sorted(below, key=lambda p: len(p.parts), reverse=True)


def held(state: Path) -> list[str]:
    """Disks of ours, gone here, in the mount namespace of another program: each goes when that ends, and nothing can
    take it away before.
    """
    ours = set(_devices(state)) - set(_loops(state))
    return [f"{file.removesuffix(' (deleted)')}, {device}" for device, file in sorted(ours)]


def _loops(state: Path) -> list[tuple[str, str]]:
    """Loop devices that are to be removed: mounted here, or not detached yet."""
    mounted = set(mounts().values())
    return [d for d, lazy in _devices(state).items() if d[0] in mounted or not lazy]


def _devices(state: Path) -> dict[tuple[str, str], bool]:
    """Loop devices on files below the state folder, and whether each is detached already."""
    columns = "NAME,BACK-FILE,AUTOCLEAR"
    shown = run(["losetup", "--list", "--json", "--output", columns]).strip()
    devices = json.loads(shown)["loopdevices"] if shown else []
    return {
        (d["name"], d["back-file"]): bool(d["autoclear"])
        for d in devices
        if d.get("back-file")
        and Path(d["back-file"].removesuffix(" (deleted)")).is_relative_to(state)
    }
