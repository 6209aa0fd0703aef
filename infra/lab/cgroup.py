"""A cgroup a host: all its processes can be stopped, thawed, counted or killed at once (cgroup v2).

The unified hierarchy is used wherever it is mounted: also on machines whose controllers are still
bound to v1, since freeze and kill need no controller.
"""

import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from infra.lab.plan import CGROUP, Host
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Missing
from zaibei.kernel.wait import wait_until

_CANDIDATES = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
_DEADLINE = timedelta(seconds=15)
_STATE = "trusted.zaibei-state"


def top() -> Path:
    for mounted in _CANDIDATES:
        if (mounted / "cgroup.controllers").exists():
            return mounted
    raise Missing(
        "no cgroup v2 hierarchy is mounted",
        hint="mount -t cgroup2 none /sys/fs/cgroup/unified (freeze and power loss need it)",
    )


def of(host: Host) -> Path:
    return top() / CGROUP / host.name


def make(host: Host) -> Path:
    group = of(host)
    group.mkdir(parents=True, exist_ok=True)
    with suppress(
        OSError
    ):  # an old kernel has no attributes here; then the links alone say whose it is
        os.setxattr(group, _STATE, os.fsencode(host.state.resolve()))
    return group


def all_of_labs() -> list[Path]:
    parent = top() / CGROUP
    return sorted(p for p in parent.glob("*") if p.is_dir()) if parent.exists() else []


def made_for(group: Path) -> Path | None:
    """The state folder whose lab made it."""
    with suppress(OSError):
        return Path(os.fsdecode(os.getxattr(group, _STATE)))
    return None


def processes(group: Path) -> list[int]:
    try:
        return [int(p) for p in (group / "cgroup.procs").read_text().split()]
    except FileNotFoundError:
        return []


def kill(group: Path, clock: Clock) -> None:
    """SIGKILL to all, at once; returns when the kernel has buried them. A frozen group dies too."""
    if not group.exists():
        return
    (group / "cgroup.kill").write_text("1")

    def why_not() -> str | None:
        left = processes(group)
        return f"{len(left)} processes are left" if left else None

    wait_until(
        why_not,
        what=f"killing {group.name}",
        deadline=_DEADLINE,
        clock=clock,
        interval=timedelta(milliseconds=20),
    )


def freeze(group: Path, *, frozen: bool, clock: Clock) -> None:
    (group / "cgroup.freeze").write_text("1" if frozen else "0")
    wanted = f"frozen {int(frozen)}"

    def why_not() -> str | None:
        events = (group / "cgroup.events").read_text()
        return None if wanted in events else "not all processes have stopped yet"

    wait_until(
        why_not,
        what=f"{'freezing' if frozen else 'thawing'} {group.name}",
        deadline=_DEADLINE,
        clock=clock,
        interval=timedelta(milliseconds=10),
    )


def is_frozen(group: Path) -> bool:
    with suppress(FileNotFoundError):
        return (group / "cgroup.freeze").read_text().strip() == "1"
    return False


def memory_bytes(group: Path) -> int:
    """Proportional set size of the group: shared pages are counted once among those who share."""
    total = 0
    for pid in processes(group):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def remove(group: Path) -> None:
    with suppress(FileNotFoundError):
        group.rmdir()
