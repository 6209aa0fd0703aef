"""A process and everything it started, ended together.

A process group is not enough: ansible-runner puts ansible-playbook in a session of its own (pexpect), ansible's
workers call setsid once more, and ssh leaves a master behind. The child that runs a play is a
*subreaper*, so that whichever of them loses its parent becomes its child and stays in its tree.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_GONE = 97
_MAX_ROUNDS = (
    50  # each round kills all it sees; more rounds means something forks faster than we look
)


def hold_together(*, then: Callable[[], None] = lambda: None) -> None:
    """In a child that starts programs: keep all of them in its own tree, and end them and itself when stdin ends.

    Stdin ends when the parent is gone, however it went; `then` is the last thing done. Call it before anything slow
    is imported.
    """
    _become_subreaper()
    watch = threading.Thread(target=_end_with_the_parent, args=(then,), name="parent", daemon=True)
    watch.start()


def _become_subreaper() -> None:
    import ctypes  # noqa: PLC0415 - every command imports this module, and only such a child needs it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def _end_with_the_parent(then: Callable[[], None]) -> None:
    while os.read(sys.stdin.fileno(), 1 << 16):
        pass
    kill_below(os.getpid())
    then()
    os._exit(_GONE)


def descendants(root: int) -> list[int]:
    """Living processes below `root`, without itself."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(entry.name)):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
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


def started(pid: str) -> str:
    """When, in ticks since boot: with the number it names a process for good. Empty when it has ended."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def _stat(pid: str) -> list[str]:
    """From its state on; empty when it has ended, also while its parent has not asked how."""
    with suppress(OSError):
        # The name in parentheses may hold blanks and parentheses: look behind the last one.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        if fields and fields[0] not in ("Z", "X"):
            return fields
    return []
