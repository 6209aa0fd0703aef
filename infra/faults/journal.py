"""What is broken right now. A fault is on disk before it is made and off it after it is unmade: whoever
finds an entry unmakes it, and unmaking what was never made does nothing.
"""

import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from infra.faults import inject
from infra.faults.model import Fault, Injected, Kind
from infra.lab.plan import LabPlan
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import ToolFailed, in_a_line
from zaibei.kernel.ids import new_id
from zaibei.kernel.state import write_atomic


def make(fault: Fault, lab: LabPlan, *, clock: Clock, rng: random.Random) -> Injected:
    """Write down, make, acknowledge. When making fails the fault is unmade at once."""
    fault_id = new_id("fault", clock, rng)
    entry = lab.faults / f"{fault_id}.json"
    write_atomic(entry, json.dumps(asdict(fault)))
    begun = clock.monotonic()
    try:
        proof = inject.make(fault, lab, clock)
    except BaseException:
        inject.unmake(fault, lab, clock)
        entry.unlink(missing_ok=True)
        raise
    return Injected(
        fault_id=fault_id, fault=fault, begun_s=begun, acknowledged_s=clock.monotonic(), proof=proof
    )


def undo(fault_id: str, lab: LabPlan, clock: Clock) -> None:
    entry = lab.faults / f"{fault_id}.json"
    fault = _read(entry)
    if fault is not None:
        inject.unmake(fault, lab, clock)
        entry.unlink(missing_ok=True)


def active(lab: LabPlan) -> dict[str, Fault]:
    found = {e.stem: _read(e) for e in sorted(lab.faults.glob("*.json"))}
    return {i: f for i, f in found.items() if f is not None}


def undo_all(
    lab: LabPlan, clock: Clock, *, unmake: Callable[[Fault, LabPlan, Clock], None] = inject.unmake
) -> list[str]:
    """Newest first; answers with what was undone. One that cannot be undone does not keep the others: ToolFailed
    names it at the end, and its entry stays.
    """
    undone, failures = [], []
    for fault_id, fault in reversed(active(lab).items()):
        try:
            unmake(fault, lab, clock)
        except Exception as failed:  # noqa: BLE001 - the others must be undone first
            failures.append(f"{fault}: {in_a_line(failed)}")
            continue
        (lab.faults / f"{fault_id}.json").unlink(missing_ok=True)
        undone.append(str(fault))
    if failures:
        raise ToolFailed(
            f"faults that could not be undone: {'; '.join(failures)}",
            hint="mend that, then zaibei drill undo; or give the lab up: zaibei lab down",
        )
    return undone


def _read(entry: Path) -> Fault | None:
    with suppress(FileNotFoundError):
        raw = json.loads(entry.read_text())
        return Fault(kind=Kind(raw["kind"]), site=raw["site"], process=raw["process"])
    return None
