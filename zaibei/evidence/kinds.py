"""What can be stated, and in which order it must have been stated. Pure.

An intent comes before its outcome, so that a drill which went badly cannot simply be forgotten: its
intent is in the log, and it stays open until an outcome or an abort closes it.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from zaibei.kernel.errors import Usage


class Kind(StrEnum):
    """Predicate types: a closed list, the same in `packed/verify.sh`. Another is refused by both verifiers:
    `drill/v2` or `dril/v1` would be an outcome that the rules of order do not see."""

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
    WITNESSES = "urn:zaibei:witnesses/v1"  # which witnesses are declared for this log
    AUTHORISATION = "urn:zaibei:authorisation/v1"  # leave to restore tables in plain


_KINDS = frozenset(map(str, Kind))
NEED_DRILL = frozenset({Kind.INTENT, Kind.OUTCOME, Kind.ABORTED, Kind.SWITCH_BACK})
_ENDS = frozenset({Kind.OUTCOME, Kind.ABORTED})
DRILL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_CLOSE = 0.85  # nearer than this to a kind: a misspelling of it
_ALIASES = {"urn:zaibei:outcome/v1": Kind.OUTCOME}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the order rules look at, of one log entry."""

    index: int
    predicate_type: str
    drill_id: str | None


def checked(predicate_type: str) -> str:
    """The predicate type, if it is one. Raises Usage with the nearest name."""
    if not isinstance(predicate_type, str):
        raise Usage(f"a predicate type is text, not {predicate_type!r:.80}")
    if predicate_type in _KINDS:
        return str(predicate_type)
    if meant := _ALIASES.get(predicate_type):
        raise Usage(f"no such predicate type: {predicate_type}", hint=f"write {meant}")
    near = difflib.get_close_matches(predicate_type, list(Kind), n=1, cutoff=_CLOSE)
    raise Usage(
        f"no such predicate type: {predicate_type!r}",
        hint=f"did you mean {near[0]}?" if near else f"there are: {', '.join(map(short, Kind))}",
    )


def short(predicate_type: str) -> str:
    """`drill` of urn:zaibei:drill/v1: the word used in file names."""
    return predicate_type.removeprefix("urn:zaibei:").partition("/")[0]


class Order:
    """The rules of order, fed a log entry by entry. Keeps a few words for each drill and no entry."""

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {}  # by drill, in the order of their intents

    def why_not(self, step: Step) -> str | None:
        """Why `step` cannot come next; None when it can, and then it has come."""
        kind, drill = step.predicate_type, step.drill_id
        if kind not in NEED_DRILL:
            return None
        name = short(kind)
        if drill is None:
            return f"entry {step.index} ({name}) names no drill"
        earlier = self._seen.setdefault(drill, set())
        if kind == Kind.INTENT:
            reason = f"a second intent for {drill}" if Kind.INTENT in earlier else None
        elif Kind.INTENT not in earlier:
            reason = f"{name} of {drill} without its intent"
        else:
            reason = f"a second end for {drill}" if kind in _ENDS and earlier & _ENDS else None
        earlier.add(kind)
        return reason

    def open_intents(self) -> list[str]:
        """Drills that were announced and have no end: running, or gone without a word."""
        return [d for d, k in self._seen.items() if Kind.INTENT in k and not k & _ENDS]


def why_not_next(history: Iterable[Step], step: Step) -> str | None:
    """Why `step` cannot follow `history`; None when it can."""
    order = Order()
    for earlier in history:
        order.why_not(earlier)
    return order.why_not(step)


def disorder(steps: Iterable[Step]) -> list[str]:
    """Everything in a log that is out of order."""
    order = Order()
    return [reason for step in steps if (reason := order.why_not(step))]


def open_intents(steps: Iterable[Step]) -> list[str]:
    order = Order()
    for step in steps:
        order.why_not(step)
    return order.open_intents()
