"""A process and everything it started, ended together.

A process group is not enough: ansible-runner puts ansible-playbook in a session of its own (pexpect), ansible's
workers call setsid once more, and ssh leaves a master behind. The child that runs a play is a
*subreaper*, so that whoever of them loses its parent becomes its child and stays in its tree.
"""

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_MAX_ROUNDS = (
    50  # each round kills all it sees; more rounds means something forks faster than we look
)


def become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def descendants(root: int) -> list[int]:
    """Living processes below `root`, without itself."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError, ValueError, IndexError):
            # The name in parentheses may hold blanks and parentheses: look behind the last one.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in ("Z", "X"):
                children.setdefault(int(parent), []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def kill_below(root: int) -> int:
    """SIGKILL everything below `root` until nothing is left; how many were killed."""
    killed: set[int] = set()
    for _ in range(_MAX_ROUNDS):
        living = descendants(root)
        if not living:
            break
        for pid in living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    return len(killed)
