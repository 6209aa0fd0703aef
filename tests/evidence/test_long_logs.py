"""A log of many years is verified in a time that grows with its length, and in memory that hardly does.

`make bench-evidence` runs it with 100,000 entries: within 60 s and 256 MiB.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evidence.conftest import Forger
from zaibei.evidence import Entry, Kind, kinds

pytestmark = pytest.mark.attack

ENTRIES = int(os.environ.get("ZAIBEI_ENTRIES", "3000"))
SECONDS_MAX = 60.0
MEMORY_MAX_BYTES = 256 << 20
VERIFY = """
import json, sys, time
from pathlib import Path
from zaibei.evidence import verify
start = time.process_time()
found = verify(Path(sys.argv[1]))
took = time.process_time() - start
# Of this program alone: ru_maxrss begins with what its parent held, which made the whole log.
(peak,) = (int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"problems": found.problems, "size": found.size, "drills": len(found.roll.drills),
                  "cpu_s": round(took, 1), "peak_bytes": peak}))
"""


def long_log(forger: Forger, count: int) -> list[Entry]:
    """A year's work over and over: what is due, drills with figures, actions."""
    logged: list[Entry] = []

    def add(kind: str, predicate: dict[str, object]) -> None:
        logged.append(forger.entry(len(logged), kind, predicate))

    while len(logged) < count:
        n = len(logged)
        stamp = f"20{n // 30_000 % 10 + 26}-01-01T00:00:00.000Z"
        if n % 1000 == 0:
            due = [{"by": "2026-02-01", "scenario": "site-power-loss"}]
            add(Kind.SCHEDULE, {"due": due, "recorded_at": stamp})
        add(Kind.INTENT, {"drill_id": f"drill-{n}", "hazard": "H1", "recorded_at": stamp})
        figures = {"rto_stable_s": 12.25, "rpo_s": 0, "lost": 0, "acked": 20_000}
        checks = [{"name": f"check-{k}", "passed": True, "ran": True} for k in range(9)]
        outcome = {"verdict": "FAIL", "checks": checks, "title": {"zh": "市电中断"}, **figures}
        add(Kind.OUTCOME, {"drill_id": f"drill-{n}", "recorded_at": stamp, **outcome})
        add(Kind.ACTION, {"owner": "运维", "what": "x" * 200, "recorded_at": stamp})
    return logged[:count]


def test_a_long_log_is_verified_within_its_time_and_memory(forger: Forger, tmp_path: Path) -> None:
    pack = forger.pack(long_log(forger, ENTRIES), [0], tmp_path / "long")
    done = subprocess.run(
        [sys.executable, "-P", "-c", VERIFY, pack], capture_output=True, text=True, check=True
    )
    figures = json.loads(done.stdout)
    print(figures)
    assert (figures["problems"], figures["size"]) == ([], ENTRIES)
    assert figures["peak_bytes"] <= MEMORY_MAX_BYTES
    assert figures["cpu_s"] <= max(SECONDS_MAX * ENTRIES / 100_000, 6.0)


def test_the_rules_of_order_are_checked_in_one_pass() -> None:
    """Twice as many entries: twice the time, not four times. 40,000 took a quarter of an hour."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    steps = [
        kinds.Step(index=2 * n + k, predicate_type=kind, drill_id=f"d-{n}")
        for n in range(40_000)
        for k, kind in enumerate((Kind.INTENT, Kind.OUTCOME))
    ]
    assert kinds.disorder(steps) == []
    assert kinds.open_intents(steps[:-1]) == ["d-39999"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 5.0
