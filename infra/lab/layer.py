"""What all hosts share and what takes longest to make: the Python environment of the services.

It is built by the same script that the role python_env runs on a real host, in an overlay over the
machine's own root, onto an image of its own; hosts then stack it read-only under their roots. The
image's name holds a hash of what it was made from, so a changed lock makes a new one.
"""

import hashlib
import os
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

from infra.lab import disk
from infra.lab.plan import LabPlan
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import NoSpace, ToolFailed
from zaibei.kernel.process import run
from zaibei.kernel.progress import Progress
from zaibei.kernel.wait import wait_until

VENV = Path("/opt/zaibei/venv")
_SIZE_BYTES = 3 << 30
_BUILD_DEADLINE = timedelta(minutes=10)
_ENV_KEPT = ("PIP_", "HTTP", "http", "NO_PROXY", "no_proxy", "SSL_CERT", "REQUESTS_CA")


def digest() -> str:
    role = files("infra.ansible") / "roles" / "python_env" / "files"
    made_of = hashlib.sha256()
    for name in ("requirements.txt", "make-venv.sh"):
        made_of.update((role / name).read_bytes())
    made_of.update(Path("/etc/debian_version").read_bytes())
    made_of.update(os.path.realpath("/usr/bin/python3").encode())
    return made_of.hexdigest()[:16]


def image(lab: LabPlan) -> Path:
    return lab.layers / f"{digest()}.img"


def mount_point(lab: LabPlan) -> Path:
    return lab.layers / f"{digest()}.mnt"


def root(lab: LabPlan) -> Path:
    return mount_point(lab) / "up"


def ensure(lab: LabPlan, *, bwrap: Path, clock: Clock, progress: Progress) -> None:
    """Build the layer unless it is there, then mount it read-only."""
    if not image(lab).exists():
        progress.step("making the services' Python environment (once for this lock)")
        _build(lab, bwrap, clock)
    point = mount_point(lab)
    if str(point) not in disk.mounts():
        point.mkdir(parents=True, exist_ok=True)
        run(["mount", "-o", "loop,ro,noatime", image(lab), point])


def prune(layers: Path, *, keep_current: bool) -> None:
    """Remove the layers of older locks, or all. None of them may be mounted any more."""
    for old in layers.glob("*"):
        if keep_current and old.name == f"{digest()}.img":
            continue
        if old.is_dir():
            old.rmdir()
        else:
            old.unlink()


def _build(lab: LabPlan, bwrap: Path, clock: Clock) -> None:
    lab.layers.mkdir(parents=True, exist_ok=True)
    new = image(lab).with_suffix(".new")
    at = image(lab).with_suffix(".build")
    new.unlink(missing_ok=True)
    with new.open("wb") as blank:
        blank.truncate(_SIZE_BYTES)
    run(["mkfs.ext4", "-q", "-F", "-m", "0", new])
    at.mkdir(exist_ok=True)
    run(["mount", "-o", "loop", new, at])
    try:
        (at / "up").mkdir()
        (at / "work").mkdir()
        script = files("infra.ansible") / "roles" / "python_env" / "files"
        kept = {k: v for k, v in os.environ.items() if k.startswith(_ENV_KEPT)}
        kept |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
        run(
            [
                bwrap,
                "--overlay-src",
                "/",
                "--overlay",
                at / "up",
                at / "work",
                "/",
                "--dev",
                "/dev",
                "--proc",
                "/proc",
                "--tmpfs",
                "/tmp",
                "--ro-bind",
                str(script),
                "/tmp/python_env",
                "sh",
                "/tmp/python_env/make-venv.sh",
                VENV,
                "/tmp/python_env/requirements.txt",
            ],
            deadline=_BUILD_DEADLINE,
            env=kept,
        )
    except ToolFailed as failed:
        if "No space" in failed.message:
            raise NoSpace(failed.message, hint="free disk space") from failed
        raise
    finally:

        def why_not() -> str | None:
            try:
                run(["umount", at])
            except ToolFailed as busy:
                return busy.message
            return None

        wait_until(why_not, what=f"unmounting {at}", deadline=timedelta(seconds=20), clock=clock)
        at.rmdir()
    # The name comes last: a build that was killed leaves a `.new`, which the next one starts over.
    new.rename(image(lab))
