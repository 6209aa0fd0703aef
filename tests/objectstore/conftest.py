"""Real stores for the tests of what is built on the contract."""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from infra.lab.loopback_store import LoopbackSite, loopback
from infra.sites import Secret, StoreAccess
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.wait import wait_until


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSite]:
    with loopback(tmp_path_factory.mktemp("seaweedfs"), clock=SystemClock()) as running:
        yield running


@pytest.fixture
def rng() -> random.Random:
    return random.Random(7)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[list[str]], StoreAccess]]:
    """Start a foreign S3 server (`PORT` in its arguments is replaced) and say how to reach it."""
    running: list[subprocess.Popen[bytes]] = []

    def start(argv: list[str]) -> StoreAccess:
        port = free_port()
        secret = tmp_path / "secret"
        secret.write_text("a-secret-of-some-length\n")
        program = [str(Path(sys.executable).parent / argv[0]), *argv[1:]]
        running.append(
            subprocess.Popen(
                [a.replace("PORT", str(port)) for a in program],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
                start_new_session=True,
            )
        )
        wait_until(
            lambda: why_silent(port),
            what=argv[0],
            deadline=timedelta(seconds=60),
            clock=SystemClock(),
        )
        return StoreAccess(
            endpoint=f"http://127.0.0.1:{port}",
            region="us-east-1",
            keys={"admin": ("some-key-id", Secret(file=secret))},
        )

    try:
        yield start
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def why_silent(port: int) -> str | None:
    try:
        urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
    except HTTPError:
        return None
    except (URLError, OSError) as silent:
        return str(silent)
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
