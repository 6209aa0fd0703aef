"""A site's disk: an ext4 image on a loop device, and the switch that cuts its power.

Power loss is EXT4_IOC_SHUTDOWN without flushing the journal, before the processes are killed: what
nobody fsynced is really gone. The other order (kill, then shut down) would let the kernel write the
dead processes' pages back, and every un-fsynced write would survive.
"""

import errno
import fcntl
import json
import os
import struct
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from infra.lab import cgroup
from infra.lab.plan import Host
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import NoSpace, ToolFailed, Unreachable
from zaibei.kernel.process import run
from zaibei.kernel.wait import wait_until

SIZE_BYTES = 8 << 30  # sparse: costs what is written
_EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), fs/ext4/ext4.h
_NO_LOG_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
_UNMOUNT_DEADLINE = timedelta(seconds=20)
_LET_GO = timedelta(seconds=3)  # a namespace that has lost its last process lets go a moment later
_COPY = timedelta(minutes=2)


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


def attach(host: Host, clock: Clock) -> None:
    """Mount, on a loop device of its own; the journal is replayed, as after a power loss. Asks for the effect: a
    byte is written and flushed. Raises ToolFailed when none can be.
    """
    if is_attached(host):
        if why_not_writable(host) is None:
            return
        detach(host, clock)  # its power was cut, and nothing has given it back
    host.disk.mkdir(parents=True, exist_ok=True)
    _leave_to_others(host, clock)
    # `mount -o loop` would take up a device that is there for the image already, and with it the dead file
    # system of before the power loss.
    device = run(["losetup", "--find", "--show", host.image]).strip()
    try:
        run(["mount", "-o", "noatime", device, host.disk])
    finally:
        run(["losetup", "--detach", device])  # of a mounted one: when it is unmounted
    if reason := why_not_writable(host):
        raise ToolFailed(f"the disk of {host.name} was mounted and takes no writes: {reason}")
    for part in ("up", "work", "data"):
        (host.disk / part).mkdir(exist_ok=True)


def why_not_writable(host: Host) -> str | None:
    """Whether a byte can be written and flushed; after a power loss none can, though the disk is still mounted.
    A full disk lives.
    """
    probe = host.disk / ".zaibei-probe"
    try:
        with probe.open("wb") as out:
            out.write(b"1")
            out.flush()
            os.fsync(out.fileno())
        probe.unlink()
    except OSError as refused:
        return None if refused.errno == errno.ENOSPC else str(refused)
    return None


def _leave_to_others(host: Host, clock: Clock) -> None:
    """A copy of the image under its name when another program's mount namespace still holds the disk.

    Such a namespace is copied with every mount in it (`unshare -m`, `ip netns exec`, a container). The file system
    in it is shut down for good but its device lives, and what that has cached may yet be written: it keeps the old
    file, which is gone when it is.
    """

    def why_not() -> str | None:
        return "still there" if loops(host) else None

    try:
        wait_until(why_not, what="the loop device to go", deadline=_LET_GO, clock=clock)
    except Unreachable:
        copy = host.image.with_suffix(".copy")
        try:
            run(["cp", "--sparse=always", host.image, copy], deadline=_COPY)
        except ToolFailed as failed:
            copy.unlink(missing_ok=True)
            raise NoSpace(
                f"the disk of {host.name} is held by {', '.join(holders(host)) or 'another program'}"
                f" and cannot be copied: {failed.message}",
                hint="end that program, or free disk space",
            ) from failed
        copy.replace(host.image)


def loops(host: Host) -> list[str]:
    """Loop devices on the image, as `major:minor`."""
    shown = run(["losetup", "--json", "--output", "MAJ:MIN", "--associated", host.image]).strip()
    return [d["maj:min"].strip() for d in json.loads(shown)["loopdevices"]] if shown else []


def holders(host: Host) -> list[str]:
    """Programs, not the host's own, in whose mount namespace the disk is: one of each namespace."""
    devices, ours = set(loops(host)), _mount_namespace("self")
    own = set(cgroup.processes(cgroup.of(host)))
    found: dict[str, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in own:
            continue
        with suppress(OSError):
            space = _mount_namespace(entry.name)
            if space == ours or space in found:
                continue
            table = (entry / "mountinfo").read_text(errors="replace").splitlines()
            if devices & {line.split(" ", 3)[2] for line in table}:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                name = b" ".join(words[:3]).decode(errors="replace").strip()
                found[space] = f"process {entry.name} ({name})"
    return sorted(found.values())


def _mount_namespace(pid: str) -> str:
    return str(Path(f"/proc/{pid}/ns/mnt").readlink())


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
