"""Plays for real, against this machine: none outlives its deadline, its parent, or the death of its middle."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from infra.ansible.play import play
from zaibei.kernel import tree
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import ToolFailed
from zaibei.kernel.progress import Silent

pytestmark = pytest.mark.timeout(60)
_A_PLAY_ELSEWHERE = """
import sys
from datetime import timedelta
from pathlib import Path
from infra.ansible.play import play
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.progress import Silent
at = Path(sys.argv[1])
play(at / "play.yml", inventory=at / "hosts.json", variables=at / "variables.json", private=at / "private",
     deadline=timedelta(minutes=5), clock=SystemClock(), progress=Silent())
"""


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A play whose only task writes its process id down and then sleeps for five minutes."""
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"here": host}}}))
    (tmp_path / "variables.json").write_text("{}")
    task = f"sh -c 'echo $$ >{tmp_path}/pid; sleep 300; true'"
    (tmp_path / "play.yml").write_text(
        json.dumps(
            [{"hosts": "all", "gather_facts": False, "tasks": [{"ansible.builtin.command": task}]}]
        )
    )
    return tmp_path


def test_a_play_at_its_deadline_is_ended_with_every_fork_of_it(endless: Path) -> None:
    with pytest.raises(ToolFailed, match=r"play\.yml: not done after"):
        play(
            endless / "play.yml",
            inventory=endless / "hosts.json",
            variables=endless / "variables.json",
            private=endless / "private",
            deadline=timedelta(seconds=10),
            clock=SystemClock(),
            progress=Silent(),
        )

    assert (endless / "pid").exists(), "the task had not begun: nothing was tested"
    assert _of_the_play(endless) == []


def test_a_play_whose_zaibei_is_killed_leaves_nothing_behind(endless: Path) -> None:
    parent = _elsewhere(endless)

    parent.kill()
    parent.wait()

    assert _soon(lambda: _of_the_play(endless) == [])


def test_a_play_whose_own_process_is_killed_is_still_ended_whole(endless: Path) -> None:
    """Then nothing holds the tree together: ansible-playbook is a child of init, in a session of its own."""
    parent = _elsewhere(endless)
    (child,) = [p for p in _of_the_play(endless) if b"infra.ansible.play\0" in _words(p)]

    os.kill(child, signal.SIGKILL)

    assert parent.wait(timeout=30) != 0
    assert _of_the_play(endless) == []


def _elsewhere(endless: Path) -> "subprocess.Popen[bytes]":
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", _A_PLAY_ELSEWHERE, str(endless)],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert _soon((endless / "pid").exists), "the task never began"
    return parent


def _of_the_play(endless: Path) -> list[int]:
    """Whatever on this machine was started with the play's folder, and the task itself."""
    mine = [
        int(e.name)
        for e in Path("/proc").iterdir()
        if e.name.isdigit()
        and (str(endless).encode() in _words(int(e.name)))
        and b"from infra.ansible.play import play" not in _words(int(e.name))
        and tree.started(e.name)
    ]
    task = (endless / "pid").read_text().strip() if (endless / "pid").exists() else ""
    return [*mine, *([int(task)] if task and tree.started(task) else [])]


def _words(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _soon(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + 30
    while not true() and time.monotonic() < until:
        time.sleep(0.1)
    return true()
