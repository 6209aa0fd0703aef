"""A site's disk for real: its power is cut and comes back, whatever other programs hold."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from infra.lab import disk, leftovers
from infra.lab.plan import Host
from zaibei.config.model import Role
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.process import end, run, start

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
CLOCK = SystemClock()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    one = Host(name="nowhere-d", role=Role.PRODUCTION, address="10.77.0.99", folder=tmp_path)
    disk.make(one)
    disk.attach(one, CLOCK)
    yield one
    disk.detach(one, CLOCK)


@contextmanager
def another_program_with_a_mount_table() -> "Iterator[subprocess.Popen[bytes]]":
    """It copies every mount there is, and none of our unmounts ever reaches it."""
    held = start(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            "echo ready; exec sleep 600",
        ],
        stdout=subprocess.PIPE,
    )
    assert held.stdout is not None
    assert held.stdout.readline() == b"ready\n"
    try:
        yield held
    finally:
        end(held)


def flushed(at: Path, text: str) -> None:
    with at.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def test_after_a_power_loss_the_disk_takes_writes_again_and_has_what_was_flushed(
    host: Host,
) -> None:
    flushed(host.disk / "data" / "kept", "kept")
    disk.cut_power(host)
    assert disk.why_not_writable(host) is not None

    disk.attach(host, CLOCK)

    assert disk.why_not_writable(host) is None
    assert (host.disk / "data" / "kept").read_text() == "kept"


@pytest.mark.attack
def test_a_mount_table_that_another_program_keeps_does_not_keep_the_power_away(host: Host) -> None:
    """Its copy holds the dead file system alive, and a plain `mount -o loop` gives that back."""
    flushed(host.disk / "data" / "kept", "kept")
    before = host.image.stat().st_ino
    with another_program_with_a_mount_table() as other:
        (held,) = disk.holders(host)
        assert held.startswith(f"process {other.pid} (")
        disk.cut_power(host)
        disk.detach(host, CLOCK)

        disk.attach(host, CLOCK)

        assert disk.why_not_writable(host) is None
        assert (host.disk / "data" / "kept").read_text() == "kept"
        assert host.image.stat().st_ino != before, "two file systems write to one file"
        flushed(host.disk / "data" / "after", "after")
        (held_still,) = leftovers.held(host.folder)
        assert held_still.startswith(f"{host.image}, /dev/loop")
        mine = [f for f in leftovers.find(host.folder) if f.startswith("loop device")]
        assert len(mine) == 1, "the one that is mounted; the other is not ours to remove"
    disk.detach(host, CLOCK)
    run(["e2fsck", "-f", "-n", host.image])
    disk.attach(host, CLOCK)
    assert (host.disk / "data" / "after").read_text() == "after"


def test_a_disk_that_nobody_holds_is_not_copied(host: Host) -> None:
    before = host.image.stat().st_ino
    disk.cut_power(host)
    disk.attach(host, CLOCK)
    assert host.image.stat().st_ino == before


def test_a_full_disk_is_not_taken_for_a_dead_one(host: Host) -> None:
    with suppress(OSError), (host.disk / "data" / "ballast").open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, disk.SIZE_BYTES)
    free = os.statvfs(host.disk)
    if free.f_bavail:
        with suppress(OSError), (host.disk / "data" / "rest").open("wb") as out:
            os.posix_fallocate(out.fileno(), 0, free.f_bavail * free.f_frsize)

    assert disk.why_not_writable(host) is None
