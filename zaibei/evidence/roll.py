"""List what a whole log holds: every drill with its verdict, every due drill with what answered it. Pure.

A pack is about a few chosen entries; the log in it holds all of them. A drill that failed and was not
chosen, and one that was due and never ran, are found here and in `verify.sh` by the same rules.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from zaibei.evidence.kinds import Kind
from zaibei.evidence.pass_rules import contradictions, left_out
from zaibei.evidence.record import Entry
from zaibei.evidence.statement import RECORDED_AT, Statement

VERDICTS = ("PASS", "FAIL", "INVALID")
# INVALID measured nothing, so it answers no schedule; nor does a PASS that its own data deny.
MEASURED = ("PASS", "FAIL")
_ITEM = {"by", "drill", "every_s", "owner", "scenario"}
_BY = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\dZ)?", re.ASCII)
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_OWNER = re.compile(r'[^"\\\x00-\x1f]*')  # what a shell reads without unescaping


class State(StrEnum):
    """Of a drill that was due."""

    MET = "met"
    OVERDUE = "overdue"
    DUE = "due"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """One drill of the log, by its end; or by its intent when it has none."""

    drill_id: str
    index: int
    scenario: str | None
    verdict: str  # PASS, FAIL, INVALID, aborted, `no end`; `no verdict` for an outcome without one
    chosen: bool  # for this pack
    denied: tuple[dict[str, str], ...]  # what its own data say against a recorded PASS, zh and en

    def __str__(self) -> str:
        recorded = "INVALID, recorded as PASS" if self.denied else self.verdict
        return f"drill {self.drill_id}: {recorded}{'' if self.chosen else ' (not chosen)'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One line of one schedule statement."""

    index: int  # of the statement
    scenario: str
    by: str
    state: State
    answered_by: str | None  # drill id; with OVERDUE: too late
    verdict: str | None

    def __str__(self) -> str:
        line = f"schedule {self.index}: {self.scenario} by {self.by}: {self.state}"
        if self.answered_by is None:
            return line
        late = "run late, " if self.state is State.OVERDUE else ""
        return f"{line}, {late}{self.answered_by} {self.verdict}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    drills: tuple[Drill, ...]
    due: tuple[Due, ...]
    notes: tuple[str, ...]

    @property
    def overdue(self) -> tuple[Due, ...]:
        return tuple(d for d in self.due if d.state is State.OVERDUE)


class RollCall:
    """Fed a log entry by entry; keeps a line for each drill and each due one, and an intent until its end."""

    def __init__(self, *, chosen: Collection[int]) -> None:
        self._chosen = chosen
        self._drills: dict[str, Drill] = {}
        self._intents: dict[str, Statement] = {}  # of drills that have no end yet
        self._schedules: list[tuple[int, list[tuple[str, str]] | None]] = []
        self._measured: dict[str, list[_Measured]] = {}  # by scenario and by drill, in log order
        self._newest = ""
        self._lacks: list[str] = []

    def see(self, entry: Entry) -> None:
        one = entry.statement
        if one.predicate_type == Kind.SCHEDULE:
            self._schedules.append((entry.index, due_items(entry)))
        elif one.predicate_type == Kind.INTENT:
            self._intents[str(one.drill_id)] = one
            self._list(entry, denied=())
        elif one.predicate_type in {Kind.OUTCOME, Kind.ABORTED}:
            intent = self._intents.pop(str(one.drill_id), None)
            denied = tuple(contradictions(one, intent))
            self._list(entry, denied=denied)
            if not denied:
                self._measure(entry)
            if entry.index in self._chosen and one.predicate_type == Kind.OUTCOME:
                lacks = left_out(one, intent)
                self._lacks += [f"{one.drill_id}: not in this pack: {name}" for name in lacks]
        else:
            return
        self._newest = max(self._newest, stamp_of(entry) or "", key=lambda s: s[:19])

    def roll(self, *, as_of: str) -> Roll:
        """`as_of`: RFC 3339, when the pack was made. What is due later than that is not overdue yet."""
        notes = [] if self._schedules else ["schedule: none"]
        due: list[Due] = []
        now = max(as_of, self._newest, key=lambda s: s[:19])
        for index, items in self._schedules:
            if items is None:
                notes.append(f"schedule {index}: not in a form that can be compared; read it")
                continue
            due += (_answered(index, name, by, self._measured, now=now) for name, by in items)
        drills = tuple(self._drills.values())
        return Roll(drills=drills, due=tuple(due), notes=(*notes, *self._lacks))

    def _list(self, entry: Entry, *, denied: tuple[dict[str, str], ...]) -> None:
        drill_id, scenario = (
            str(entry.statement.drill_id),
            entry.statement.predicate.get("scenario"),
        )
        self._drills[drill_id] = Drill(
            drill_id=drill_id,
            index=entry.index,
            scenario=scenario if isinstance(scenario, str) else None,
            verdict=_verdict(entry),
            chosen=entry.index in self._chosen,
            denied=denied,
        )

    def _measure(self, entry: Entry) -> None:
        said, stamp, verdict = entry.statement, stamp_of(entry), _verdict(entry)
        if stamp is None or verdict not in MEASURED or said.predicate_type != Kind.OUTCOME:
            return
        one = _Measured(entry.index, stamp, str(said.drill_id), verdict)
        scenario = said.predicate.get("scenario")
        for name in {str(said.drill_id), scenario if isinstance(scenario, str) else ""}:
            self._measured.setdefault(name, []).append(one)


class _Measured(NamedTuple):
    """A drill that can answer a schedule."""

    entry: int
    stamp: str
    drill_id: str
    verdict: str


def due_items(entry: Entry) -> list[tuple[str, str]] | None:
    """Scenario and date of each line; None unless all of them have the one form.

    The form is narrow because the script reads it with patterns: both must read the same.
    """
    found = entry.statement.predicate.get("due")
    if not isinstance(found, list):
        return None
    read = [_item(item) for item in found]
    return None if None in read else [item for item in read if item]


def _item(item: object) -> tuple[str, str] | None:
    if not isinstance(item, Mapping):
        return None
    if len({"scenario", "drill"} & set(item)) != 1 or set(item) - _ITEM:
        return None
    by, owner, every = item.get("by"), item.get("owner", ""), item.get("every_s", 0)
    name = item.get("scenario", item.get("drill"))
    if not (isinstance(by, str) and isinstance(owner, str) and isinstance(name, str)):
        return None
    if not isinstance(every, int) or isinstance(every, bool) or every < 0:
        return None
    good = _BY.fullmatch(by) and _NAME.fullmatch(name) and _OWNER.fullmatch(owner)
    return (name, by) if good else None


def _answered(
    index: int, name: str, by: str, measured: Mapping[str, Sequence[_Measured]], *, now: str
) -> Due:
    """The first drill after the statement that measured something; in time, or else late."""

    def due(state: State, one: _Measured | None = None) -> Due:
        answer, verdict = (one.drill_id, one.verdict) if one else (None, None)
        return Due(
            index=index, scenario=name, by=by, state=state, answered_by=answer, verdict=verdict
        )

    length = 10 if len(by) == 10 else 19  # a day lasts to its end
    drills = measured.get(name, ())
    at = bisect_right(drills, index, key=lambda one: one.entry)
    if at < len(drills):
        in_time = drills[at].stamp[:length] <= by[:length]
        return due(State.MET if in_time else State.OVERDUE, drills[at])
    return due(State.OVERDUE if now[:length] > by[:length] else State.DUE)


def _verdict(entry: Entry) -> str:
    if entry.statement.predicate_type == Kind.INTENT:
        return "no end in this log"
    if entry.statement.predicate_type == Kind.ABORTED:
        return "aborted"
    said: Any = entry.statement.predicate.get("verdict")
    return said if said in VERDICTS else "no verdict"


def stamp_of(entry: Entry) -> str | None:
    said = entry.statement.predicate.get(RECORDED_AT)
    return said if isinstance(said, str) and _STAMP.fullmatch(said) else None
