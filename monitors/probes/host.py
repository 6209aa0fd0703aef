"""What a site knows of itself: ports that answer, free disk, SeaweedFS's own lag figure."""

import os
import socket
from datetime import timedelta
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from monitors.probes.https import page
from zaibei.kernel.errors import Unreachable

_OBJECT_LAG = "SeaweedFS_filerSync_lag_seconds"


def listens(address: str, port: int, *, deadline: timedelta) -> bool:
    """A refused connection is an answer (no); silence is none. Raises Unreachable."""
    try:
        with socket.create_connection((address, port), timeout=deadline.total_seconds()):
            return True
    except ConnectionRefusedError:
        return False
    except OSError as silent:
        raise Unreachable(f"{address}:{port}: {silent}") from silent


def disk_free(path: Path) -> tuple[int, float]:
    """Free bytes and free share, for a process that is not root (root's reserve is not free)."""
    try:
        seen = os.statvfs(path)
    except OSError as gone:
        raise Unreachable(f"{path}: {gone.strerror}") from gone
    usable = seen.f_blocks - (seen.f_bfree - seen.f_bavail)
    free = seen.f_bavail * seen.f_frsize
    return free, seen.f_bavail / usable if usable else 0.0


def object_lag(url: str, *, deadline: timedelta) -> timedelta:
    """The largest lag of the asynchronous copies that SeaweedFS reports."""
    text = page(url, tls=None, deadline=deadline)
    lags = [
        s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.name == _OBJECT_LAG
    ]
    if not lags:
        raise Unreachable(f"{url}: no {_OBJECT_LAG}: no copy runs here, or it has not begun")
    return timedelta(seconds=max(lags))
