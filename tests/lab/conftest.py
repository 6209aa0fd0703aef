"""One lab for all tests of this folder. It boots once, is killed in the middle of booting, and goes on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.lab import leftovers
from zaibei.kernel.clock import SystemClock

STATE = Path("/var/lib/zaibei-test")  # kept between runs for its layer; everything else goes
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def lab_state() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, mounts and a true power loss")
    if left := leftovers.find(Path("/var/lib/zaibei")) + leftovers.find(STATE):
        pytest.fail(
            f"a lab is up on this machine, and its names are the test's: {left[:3]}; zaibei lab down"
        )
    before = os.environ.get("ZAIBEI_STATE")
    os.environ["ZAIBEI_STATE"] = str(STATE)
    STATE.mkdir(parents=True, exist_ok=True)
    _wipe()  # a run that was killed left its disks
    yield STATE
    _wipe()
    if before is None:
        del os.environ["ZAIBEI_STATE"]
    else:
        os.environ["ZAIBEI_STATE"] = before


def _wipe() -> None:
    leftovers.remove(STATE, SystemClock())
    for entry in STATE.iterdir():
        if entry.name != "layers":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@pytest.fixture
def cli(lab_state: Path) -> Cli:
    def run(*words: str, within_s: float = 420) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-P", "-m", "zaibei.cli.main", *words],
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
            cwd="/",
        )

    return run
