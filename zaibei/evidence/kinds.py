"""What can be stated, and in which order it must have been stated. Pure.

An intent comes before its outcome, so that a drill which went badly cannot simply be forgotten: its
intent is in the log, and it stays open until an outcome or an abort closes it.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from zaibei.kernel.errors import Usage


class Kind(StrEnum):
    """Predicate types that have rules or a place in a pack. Others of the same form are welcome."""

    SCHEDULE = "urn:zaibei:schedule/v1"  # which drills are due, and when
    INTENT = "urn:zaibei:intent/v1"  # about to drill: plan hash, approver, target, hazard
    OUTCOME = "urn:zaibei:drill/v1"  # what the drill measured: PASS, FAIL or INVALID
    ABORTED = "urn:zaibei:aborted/v1"  # ended before it measured anything
    SWITCH_BACK = "urn:zaibei:switch-back/v1"
    ACTION = "urn:zaibei:action/v1"  # corrective action
    ADMISSION = "urn:zaibei:admission/v1"  # what a store was found to do
    RESTORE = "urn:zaibei:restore/v1"  # a backup that was read back
    SURGE = "urn:zaibei:surge/v1"
    RUNBOOK = "urn:zaibei:runbook/v1"


NEED_DRILL = frozenset({Kind.INTENT, Kind.OUTCOME, Kind.ABORTED, Kind.SWITCH_BACK})
_ENDS = frozenset({Kind.OUTCOME, Kind.ABORTED})
_FORM = re.compile(r"urn:zaibei:[a-z]+(?:-[a-z]+)*/v[1-9]")
DRILL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_CLOSE = 0.85  # nearer than this to a known kind: a misspelling, not a new kind
_ALIASES = {"urn:zaibei:outcome/v1": Kind.OUTCOME}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the order rules look at, of one log entry."""

    index: int
    predicate_type: str
    drill_id: str | None


def checked(predicate_type: str) -> str:
    """The predicate type, if it is one. Raises Usage with the nearest name."""
    if predicate_type in set(Kind):
        return str(predicate_type)
    if meant := _ALIASES.get(predicate_type):
        raise Usage(f"no such predicate type: {predicate_type}", hint=f"write {meant}")
    if near := difflib.get_close_matches(predicate_type, list(Kind), n=1, cutoff=_CLOSE):
        raise Usage(f"no such predicate type: {predicate_type}", hint=f"did you mean {near[0]}?")
    if not _FORM.fullmatch(predicate_type):
        raise Usage(
            f"not a predicate type: {predicate_type!r}", hint="urn:zaibei:<name>/v1, in lower case"
        )
    return predicate_type


def short(predicate_type: str) -> str:
    """`drill` of urn:zaibei:drill/v1: the word used in file names."""
    return predicate_type.removeprefix("urn:zaibei:").partition("/")[0]


def why_not_next(history: Sequence[Step], step: Step) -> str | None:
    """Why `step` cannot follow `history`; None when it can."""
    kind, drill = step.predicate_type, step.drill_id
    if kind not in NEED_DRILL:
        return None
    name = short(kind)
    if drill is None:
        return f"entry {step.index} ({name}) names no drill"
    earlier = {s.predicate_type for s in history if s.drill_id == drill}
    if kind == Kind.INTENT:
        return f"a second intent for {drill}" if Kind.INTENT in earlier else None
    if Kind.INTENT not in earlier:
        return f"{name} of {drill} without its intent"
    if kind in _ENDS and earlier & _ENDS:
        return f"a second end for {drill}"
    return None


def disorder(steps: Sequence[Step]) -> list[str]:
    """Everything in a log that is out of order."""
    found = (why_not_next(steps[:n], step) for n, step in enumerate(steps))
    return [reason for reason in found if reason]


def open_intents(steps: Sequence[Step]) -> list[str]:
    """Drills that were announced and have no end: running, or gone without a word."""
    ended = {s.drill_id for s in steps if s.predicate_type in _ENDS}
    return [
        s.drill_id
        for s in steps
        if s.predicate_type == Kind.INTENT and s.drill_id is not None and s.drill_id not in ended
    ]
