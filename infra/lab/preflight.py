"""What this machine lacks for a lab, all of it at once, before anything is made."""

import ipaddress
import json
import os
import shutil
from pathlib import Path

from infra.lab import cgroup
from infra.lab.plan import NETWORK, OPERATOR_LINK
from zaibei.kernel.errors import Missing, NoSpace, Refused
from zaibei.kernel.process import run

# Debian's name of the package that holds each program.
PROGRAMS = {
    "ip": "iproute2",
    "bridge": "iproute2",
    "nft": "nftables",
    "mkfs.ext4": "e2fsprogs",
    "chattr": "e2fsprogs",
    "mount": "mount",
    "losetup": "mount",
    "nsenter": "util-linux",
    "fsfreeze": "util-linux",
    "ssh": "openssh-client",
    "/usr/sbin/sshd": "openssh-server",
    "/usr/bin/etcd": "etcd-server",
    "/usr/bin/etcdctl": "etcd-client",
    "/usr/sbin/haproxy": "haproxy",
    "/usr/lib/postgresql/15/bin/postgres": "postgresql-15",
    "openssl": "openssl",
    "/usr/bin/python3": "python3",
}
_FILE_SYSTEMS = ("ext4", "overlay")
_DISK_BYTES = 6 << 30
_MEMORY_BYTES = 5 << 30


def missing_programs() -> dict[str, str]:
    """Program → package, for every program that is not here."""
    found = {
        p: shutil.which(p, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") for p in PROGRAMS
    }
    return {p: PROGRAMS[p] for p, where in found.items() if where is None}


def check(state: Path) -> None:
    """Raises Refused (no root), Missing (program, kernel feature), NoSpace, with all that is wrong."""
    if os.geteuid() != 0:
        raise Refused(
            "the lab needs root: network namespaces, mounts, power loss by an ext4 ioctl",
            hint="sudo zaibei lab up; without root `zaibei backup`, `stack` and `evidence` still work",
        )
    if lacking := missing_programs():
        packages = " ".join(sorted(set(lacking.values())))
        raise Missing(
            f"not installed: {', '.join(sorted(lacking))}",
            hint=f"apt-get install --no-install-recommends {packages}",
        )
    cgroup.top()
    known = Path("/proc/filesystems").read_text().split()
    if lost := [f for f in _FILE_SYSTEMS if f not in known and not _modprobe(f)]:
        raise Missing(
            f"the kernel has no {', '.join(lost)}", hint="load the module, or another kernel"
        )
    if not Path("/dev/loop-control").exists() and not _modprobe("loop"):
        raise Missing("the kernel has no loop devices", hint="modprobe loop")
    state.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(state).free
    if free < _DISK_BYTES:
        raise NoSpace(
            f"{state} has {free >> 20} MiB free, the lab wants {_DISK_BYTES >> 20} MiB",
            hint="free some, or put ZAIBEI_STATE on another disk",
        )
    if (memory := available_memory()) < _MEMORY_BYTES:
        raise NoSpace(
            f"{memory >> 20} MiB of memory are available, the lab wants {_MEMORY_BYTES >> 20} MiB"
        )
    if taken := _route_taken():
        raise Refused(
            f"the lab's network {NETWORK} is in use on this machine: {taken}",
            hint="the lab would cut that route off; remove it first",
        )


def available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise Missing("/proc/meminfo has no MemAvailable")


def _route_taken() -> str | None:
    ours = ipaddress.ip_network(NETWORK)
    for route in json.loads(run(["ip", "-j", "-4", "route", "show"]) or "[]"):
        target = route["dst"]
        if target == "default" or route.get("dev") == OPERATOR_LINK:
            continue
        if ipaddress.ip_network(target, strict=False).overlaps(ours):
            return f"{target} by {route.get('dev', 'unknown')}"
    return None


def _modprobe(module: str) -> bool:
    if shutil.which("modprobe") is None:
        return False
    try:
        run(["modprobe", module])
    except Missing:
        return False
    except Exception:  # noqa: BLE001 - a kernel without modules says so in many ways; the answer is no
        return False
    return True
