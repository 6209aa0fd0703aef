"""A site's disk: an ext4 image on a loop device, and the switch that cuts its power.

Power loss is EXT4_IOC_SHUTDOWN without flushing the journal, before the processes are killed: what
nobody fsynced is really gone. The other order (kill, then shut down) would let the kernel write the
dead processes' pages back, and every un-fsynced write would survive.
"""

import fcntl
import os
import struct
from datetime import timedelta
from pathlib import Path

from infra.lab.plan import Host
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import NoSpace, ToolFailed
from zaibei.kernel.process import run
from zaibei.kernel.wait import wait_until

SIZE_BYTES = 8 << 30  # sparse: costs what is written
_EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), fs/ext4/ext4.h
_NO_LOG_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
_UNMOUNT_DEADLINE = timedelta(seconds=20)


def make(host: Host) -> None:
    """A fresh image with the folders of an overlay root. An existing one is kept."""
    if host.image.exists():
        return
    host.folder.mkdir(parents=True, exist_ok=True)
    made = host.image.with_suffix(".new")
    try:
        with made.open("wb") as image:
            image.truncate(SIZE_BYTES)
        # lazy_itable_init: the kernel would go on writing inode tables behind the first benchmarks.
        run(
            [
                "mkfs.ext4",
                "-q",
                "-F",
                "-m",
                "0",
                "-E",
                "lazy_itable_init=1,nodiscard",
                "-J",
                "size=64",
                made,
            ]
        )
    except (OSError, ToolFailed) as failed:
        made.unlink(missing_ok=True)
        raise NoSpace(
            f"cannot make the disk of {host.name}: {failed}", hint="free disk space"
        ) from failed
    made.rename(host.image)  # a crash before this line leaves no half-made disk under the name


def attach(host: Host) -> None:
    """Mount; the journal is replayed, as after a power loss."""
    if is_attached(host):
        return
    host.disk.mkdir(parents=True, exist_ok=True)
    run(["mount", "-o", "loop,noatime", host.image, host.disk])
    for part in ("up", "work", "data"):
        (host.disk / part).mkdir(exist_ok=True)


def detach(host: Host, clock: Clock) -> None:
    """Unmount; the loop device goes with it. Waits until the host's last mount of it is gone."""

    def why_not() -> str | None:
        if not is_attached(host):
            return None
        try:
            run(["umount", host.disk])
        except ToolFailed as busy:
            return busy.message
        return None

    wait_until(
        why_not, what=f"unmounting the disk of {host.name}", deadline=_UNMOUNT_DEADLINE, clock=clock
    )


def cut_power(host: Host) -> None:
    """From here on every write fails with EIO and nothing in memory reaches the disk."""
    fd = os.open(host.disk, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
    finally:
        os.close(fd)


def is_attached(host: Host) -> bool:
    return str(host.disk) in mounts()


def mounts() -> dict[str, str]:
    """Mount point → device, of this process's mount namespace."""
    table = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, point = line.split()[:2]
        table[point.encode().decode("unicode_escape")] = device
    return table


def remove(host: Host) -> None:
    host.image.unlink(missing_ok=True)
