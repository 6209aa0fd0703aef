"""One program, run to its end, and what it took of the machine.

CPU seconds and peak memory are the kernel's own account of the process and all its children (wait4), so no
tool can forget a thread or a helper. The kernel counts the memory of the process that starts a program as the
program's own until it runs, so a small tool shows at least `floor_bytes` here.
"""

import os
import resource
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from zaibei.kernel import process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import ToolFailed

_LAST_WORDS = 2000
_TICKS = os.sysconf("SC_CLK_TCK")
_NOT_BUSY = (3, 4)  # columns of /proc/stat: idle, iowait


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """`others_cores`: how many cores the rest of the machine was using meanwhile."""

    wall: timedelta
    cpu: timedelta
    peak_bytes: int
    others_cores: float


def measure(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    clock: Clock,
    deadline: timedelta,
) -> Sample:
    """Raises ToolFailed when it does not end well: a tool that failed has no time to compare."""
    # What one tool wrote must not be flushed on the next one's time.
    os.sync()
    said = cwd / "said"
    with said.open("wb") as out:
        busy, begun = _busy_s(), clock.monotonic()
        one = process.start(argv, env=env, cwd=cwd, stdout=out, stderr=out)
        late = threading.Timer(deadline.total_seconds(), one.kill)
        late.start()
        try:
            _, status, used = os.wait4(one.pid, 0)
        finally:
            late.cancel()
        one.returncode = os.waitstatus_to_exitcode(status)
        wall = clock.monotonic() - begun
        busy = _busy_s() - busy
    if one.returncode != 0:
        tail = said.read_bytes()[-_LAST_WORDS:].decode(errors="replace").strip()
        raise ToolFailed(f"{' '.join(argv[:6])}: exit {one.returncode}: {tail}")
    cpu = used.ru_utime + used.ru_stime
    return Sample(
        wall=timedelta(seconds=wall),
        cpu=timedelta(seconds=cpu),
        peak_bytes=used.ru_maxrss * 1024,
        others_cores=max(0.0, busy - cpu) / wall if wall else 0.0,
    )


def floor_bytes() -> int:
    """What this process itself weighs, and so the least that `peak_bytes` can show."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _busy_s() -> float:
    """Seconds of all cores that were not idle since the boot, of everybody."""
    columns = [int(c) for c in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(c for at, c in enumerate(columns) if at not in _NOT_BUSY) / _TICKS
