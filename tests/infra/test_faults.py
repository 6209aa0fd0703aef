import dataclasses
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.faults import inject, journal
from infra.faults.model import Fault, Kind
from infra.faults.trace import differences
from infra.lab.plan import LabPlan, plan
from zaibei.config.model import Stack
from zaibei.kernel import tree
from zaibei.kernel.clock import Clock, SimClock
from zaibei.kernel.errors import Refused, ToolFailed


@pytest.fixture
def lab(stack_of_three: Stack, tmp_path: Path) -> LabPlan:
    """Sites by names that no lab on this machine has: cgroups and cables are the machine's."""
    named = tuple(
        dataclasses.replace(s, name=f"nowhere-{s.name[-1]}") for s in stack_of_three.sites
    )
    return plan(dataclasses.replace(stack_of_three, sites=named), tmp_path)


def test_a_fault_at_a_site_without_power_is_refused_and_leaves_no_entry(lab: LabPlan) -> None:
    with pytest.raises(Refused, match="no power"):
        journal.make(
            Fault(kind=Kind.FREEZE, site="nowhere-a"), lab, clock=SimClock(), rng=random.Random(1)
        )

    assert journal.active(lab) == {}


@pytest.mark.parametrize(
    ("argv", "called"),
    [
        ([b"/usr/lib/postgresql/15/bin/postgres", b"-D", b"/data"], True),
        ([b"postgres: main: zaibei_app health_code 10.77.0.11(41210) idle"], True),
        ([b"postgres: main: checkpointer "], True),
        ([b"/opt/venv/bin/python3", b"/opt/venv/bin/patroni", b"postgres.yml"], False),
        ([b"grep", b"-r", b"postgres"], False),
        ([b""], False),
    ],
)
def test_a_killed_program_leaves_no_child_under_a_title_of_its_own(
    argv: list[bytes], *, called: bool
) -> None:
    """A backend that outlives the postmaster holds the memory that the next start needs."""
    assert inject.is_called("postgres", argv) is called


def test_one_fault_that_cannot_be_undone_does_not_keep_the_others(lab: LabPlan) -> None:
    folder = lab.faults
    folder.mkdir(parents=True)
    for i, site in enumerate(("nowhere-a", "nowhere-b", "nowhere-c")):
        (folder / f"fault-{i}.json").write_text(
            f'{{"kind": "partition", "site": "{site}", "process": null}}'
        )
    undone = []

    def unmake(fault: Fault, lab: LabPlan, clock: Clock) -> None:
        if fault.site == "nowhere-b":
            raise OSError("bridge is gone")
        undone.append(fault.site)

    with pytest.raises(
        ToolFailed, match="could not be undone: partition at nowhere-b: bridge is gone"
    ):
        journal.undo_all(lab, SimClock(), unmake=unmake)

    assert undone == ["nowhere-c", "nowhere-a"]
    assert [f.site for f in journal.active(lab).values()] == ["nowhere-b"]


def test_a_difference_names_what_came_and_what_went() -> None:
    before = frozenset({"link wan a", "mount /x"})
    after = frozenset({"link wan a", "nft wan drop"})

    assert differences(before, after) == ["+ nft wan drop", "- mount /x"]
    assert differences(before, before) == []


_A_DRILL = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
from infra.faults import deadman
from infra.lab.plan import LabPlan
from zaibei.kernel.process import run
state = Path(os.environ["ZAIBEI_STATE"])
lab = LabPlan(stack="three", root=state / "lab", hosts=())
with deadman.watching(lab, deadline=timedelta(minutes=5)):
    print(run(["sh", "-c", "setsid sleep 300 >/dev/null 2>&1 </dev/null & echo $!"]).strip(), flush=True)
    time.sleep(300)
"""


@pytest.mark.timeout(60)
def test_the_dead_man_ends_the_helpers_of_a_killed_drill_also_those_that_left_its_tree(
    tmp_path: Path,
) -> None:
    """A pg_receivewal once lived on for minutes, holding a replication slot."""
    drill = subprocess.Popen(
        [sys.executable, "-P", "-c", _A_DRILL],
        stdout=subprocess.PIPE,
        env=os.environ | {"ZAIBEI_STATE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert drill.stdout is not None
    helper = drill.stdout.readline().decode().strip()
    assert tree.started(helper), "it was never there: nothing was tested"

    drill.kill()
    drill.wait()

    until = time.monotonic() + 30
    while tree.started(helper) and time.monotonic() < until:
        time.sleep(0.1)
    assert not tree.started(helper)
