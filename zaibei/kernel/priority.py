"""Who goes first on a busy machine: what measures, before what is measured."""

import os
from contextlib import suppress

_MEASURING = -10  # nice; between ordinary work (0) and the kernel's own threads


def measure_first(pid: int = 0) -> None:
    """Give a process (0: this one) the priority of an instrument. Without the right to do so nothing
    changes: the instrument checks its own lateness, and a late one is told as INVALID."""
    with suppress(PermissionError, ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, pid, _MEASURING)
