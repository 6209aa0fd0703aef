"""One profile for all: a busy machine is not a slow strategy. And a disk that is soon full."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")


@pytest.fixture(autouse=True)
def _environment_of_its_own() -> Iterator[None]:
    """A command that runs in this process drops other tools' variables; the next test has them again."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, int], Path]]:
    """Mounts a tmpfs of so many bytes; unmounted at the end. Only root may."""
    mounted: list[Path] = []

    def mount(where: Path, size_bytes: int) -> Path:
        if os.geteuid() != 0:
            pytest.skip("only root mounts a small disk")
        options = f"size={size_bytes},mode=0700"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(where)], check=True, timeout=10
        )
        mounted.append(where)
        return where

    yield mount
    for where in reversed(mounted):
        subprocess.run(["umount", str(where)], check=True, timeout=10)
