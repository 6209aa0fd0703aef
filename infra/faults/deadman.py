"""Undoes every fault when the drill dies or forgets: a process of its own, outside the drill's session, that
holds a handle on the drill's process and a deadline. Faults that outlive their experiment are the oldest
complaint about chaos tools.

    python -P -m infra.faults.deadman LAB_FOLDER DRILL_PID DEADLINE_S
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from infra.faults import journal
from infra.lab.plan import Host, LabPlan
from zaibei.config.model import Role
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.state import write_atomic


@contextmanager
def watching(lab: LabPlan, *, deadline: timedelta) -> Iterator[None]:
    """Faults may be made inside; whatever happens to this process, they are undone."""
    hosts = [{"name": h.name, "role": h.role.value, "address": h.address} for h in lab.hosts]
    write_atomic(lab.root / "deadman.json", json.dumps({"stack": lab.stack, "hosts": hosts}))
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", "infra.faults.deadman", str(lab.root), str(os.getpid()),
         str(deadline.total_seconds())],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    assert guard.stdin is not None
    try:
        yield
    finally:
        try:
            journal.undo_all(lab, SystemClock())
        finally:
            # "done" lets the guard go without a last sweep; a closed pipe without it does not.
            if guard.poll() is None:
                try:
                    guard.stdin.write(b"done\n")
                    guard.stdin.close()
                except BrokenPipeError:
                    pass
            guard.wait(timeout=30)


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
    # A closed pipe means that the drill died, whatever killed it; so does the deadline.
    ready, _, _ = select.select([sys.stdin], [], [], deadline_s)
    if ready and sys.stdin.buffer.readline() == b"done\n":
        return 0
    journal.undo_all(lab, SystemClock())
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
