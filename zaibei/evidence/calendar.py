"""Record which drills are due, so that one that never runs is seen in the log. Deciding is pure.

A date that was promised stays until a drill answers it: recording the schedule again, or a longer
period in the stack, does not move it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from zaibei.evidence.kinds import Kind
from zaibei.evidence.pass_rules import contradictions
from zaibei.evidence.record import Entry, Evidence
from zaibei.evidence.roll import MEASURED, due_items, stamp_of
from zaibei.evidence.statement import Statement

_FORM = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One line of a stack's `calendar`."""

    scenario: str
    every: timedelta
    owner: str


def due(
    logged: Sequence[Entry], planned: Sequence[Planned], *, now: datetime
) -> list[dict[str, Any]]:
    """When each planned drill is due next: a period after the last one that measured something.

    Never run: a period after it was first planned. Promised before and not answered: as promised.
    """
    found = []
    intents = {
        e.statement.drill_id: e.statement
        for e in logged
        if e.statement.predicate_type == Kind.INTENT
    }
    for one in planned:
        ran = [e for e in logged if _answers(e, one.scenario, intents.get(e.statement.drill_id))]
        last = stamp_of(ran[-1]) if ran else None
        since = datetime.fromisoformat(last) if last else now
        by = (since + one.every).astimezone(UTC).strftime(_FORM)
        after = ran[-1].index if ran else -1
        promised = [
            day
            for e in logged[after + 1 :]
            if e.statement.predicate_type == Kind.SCHEDULE
            for name, day in due_items(e) or ()
            if name == one.scenario
        ]
        found.append(
            {
                "by": min([by, *promised]),
                "every_s": int(one.every.total_seconds()),
                "owner": "".join(c for c in one.owner if c not in '"\\' and c.isprintable()),
                "scenario": one.scenario,
            }
        )
    return found


def record_due(evidence: Evidence, planned: Sequence[Planned]) -> Entry | None:
    """State the schedule, unless it is the one that was stated last. None: nothing was recorded."""
    logged = evidence.entries()
    stated = [e for e in logged if e.statement.predicate_type == Kind.SCHEDULE]
    wanted = due(logged, planned, now=evidence.clock.now())
    if (stated[-1].statement.predicate.get("due") if stated else []) == wanted:
        return None
    return evidence.record(Kind.SCHEDULE, {"due": wanted})


def _answers(entry: Entry, scenario: str, intent: Statement | None) -> bool:
    said = entry.statement
    return (
        said.predicate_type == Kind.OUTCOME
        and said.predicate.get("verdict") in MEASURED
        and said.predicate.get("scenario") == scenario
        and stamp_of(entry) is not None
        and not contradictions(said, intent)
    )
