import dataclasses
import random
from pathlib import Path

import pytest

from infra.faults import journal
from infra.faults.model import Fault, Kind
from infra.faults.trace import differences
from infra.lab.plan import LabPlan, plan
from zaibei.config.model import Stack
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
