"""Undo every fault and end every helper when the drill dies or forgets: a process of its own, outside the
drill's session, that holds a handle on the drill's process and a deadline. Faults that outlive their experiment are
the oldest complaint about chaos tools.

    python -P -m infra.faults.deadman LAB_FOLDER DRILL_PID DEADLINE_S
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from infra.faults import journal
from infra.lab.plan import Host, LabPlan
from zaibei.config.model import Role
from zaibei.kernel import process, tree
from zaibei.kernel.clock import Clock, SystemClock
from zaibei.kernel.errors import Unreachable
from zaibei.kernel.state import state_dir, write_atomic
from zaibei.kernel.wait import wait_until

_DYING = timedelta(seconds=5)
_ARM, _DONE = b"arm\n", b"done\n"


class Guard:
    """The other end, in the drill."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self._child = child

    def arm(self) -> None:
        """The first fault is about to be made: the deadline runs from here."""
        self._say(_ARM)

    def release(self) -> None:
        """Let it go without a last sweep; a closed pipe without this word does not."""
        self._say(_DONE)
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):
            self._child.stdin.close()
        self._child.wait(timeout=30)

    def _say(self, word: bytes) -> None:
        assert self._child.stdin is not None
        with suppress(BrokenPipeError, ValueError):
            self._child.stdin.write(word)
            self._child.stdin.flush()


@contextmanager
def watching(lab: LabPlan, *, deadline: timedelta) -> Iterator[Guard]:
    """Helpers may be started inside, and faults made once it is armed; whatever happens to this process, the faults
    are undone and the helpers ended.
    """
    hosts = [{"name": h.name, "role": h.role.value, "address": h.address} for h in lab.hosts]
    write_atomic(lab.root / "deadman.json", json.dumps({"stack": lab.stack, "hosts": hosts}))
    # Not by `process.start`: that would end it with the drill.
    around = {k: v for k, v in os.environ.items() if k != process.MARK}
    child = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "infra.faults.deadman",
            str(lab.root),
            str(os.getpid()),
            str(deadline.total_seconds()),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=around | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    guard = Guard(child)
    try:
        yield guard
    finally:
        try:
            journal.undo_all(lab, SystemClock())
        finally:
            guard.release()


def _main(root: Path, pid: int, deadline_s: float) -> int:
    raw = json.loads((root / "deadman.json").read_text())
    hosts = tuple(
        Host(
            name=h["name"],
            role=Role(h["role"]),
            address=h["address"],
            folder=root / "sites" / h["name"],
        )
        for h in raw["hosts"]
    )
    lab = LabPlan(stack=raw["stack"], root=root, hosts=hosts)
    clock = SystemClock()
    heard, armed_s, late = b"", None, False
    while True:
        left_s = None if armed_s is None else max(0.0, armed_s + deadline_s - clock.monotonic())
        ready, _, _ = select.select([0], [], [], left_s)
        said = os.read(0, 64) if ready else b""
        heard += said
        if heard.endswith(_DONE):
            return 0
        late = not ready
        if not said:
            break  # the deadline; or a closed pipe: the drill died, whatever killed it
        armed_s = clock.monotonic() if armed_s is None else armed_s
    # The faults first: a helper that lives a little longer harms nobody.
    try:
        journal.undo_all(lab, clock)
    finally:
        if not late:
            _end_helpers(pid, clock)
    return 0


def _end_helpers(pid: int, clock: Clock) -> None:
    with suppress(Unreachable):
        wait_until(
            lambda: "it is dying" if tree.started(str(pid)) else None,
            what="the drill to end",
            deadline=_DYING,
            clock=clock,
        )
    process.end_orphans(state_dir())


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
