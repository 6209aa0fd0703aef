"""Turns a recovery target into PostgreSQL's settings, and its log back into facts. Pure."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from backup.format import wal_segment
from zaibei.kernel.errors import Usage

_LAST = re.compile(r"last completed transaction was at log time (.+)")
_STOPPED = re.compile(r"LOG:\s+(recovery stopping (?:before|after|at) .+)")


class Action(StrEnum):
    """What the server does at the target."""

    PROMOTE = "promote"  # writable, on a timeline of its own
    PAUSE = "pause"  # read-only; a person looks whether it is the right moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How far to recover. `how`: latest, time, lsn or name. `timeline` None: the newest that descends from
    the backup; a number: that one, although the cluster went on without it."""

    how: str = "latest"
    value: str = ""
    timeline: int | None = None
    action: Action = Action.PROMOTE

    def __post_init__(self) -> None:
        if self.how == "latest" and self.action is Action.PAUSE:
            raise Usage(
                "nothing to pause at: PostgreSQL promotes at the end of the log",
                hint="give a time, an LSN or a name",
            )

    @classmethod
    def parse(
        cls, text: str, *, timeline: int | None = None, action: Action = Action.PROMOTE
    ) -> "Target":
        """`latest`, `time=2026-11-22T04:00:00Z`, `lsn=0/3000028`, `name=before-the-migration`."""
        how, _, value = text.partition("=")
        if timeline is not None and timeline < 1:
            raise Usage(f"not a timeline: {timeline}", hint="they count from 1")
        if how == "latest" and not value:
            return cls(timeline=timeline, action=action)
        if how not in ("time", "lsn", "name") or not value or "'" in value or "\n" in value:
            raise Usage(
                f"not a recovery target: {text!r}",
                hint="latest, time=2026-11-22T04:00:00Z, lsn=0/3000028 or name=RESTORE_POINT",
            )
        if how == "lsn":
            wal_segment.lsn(value)
        if how == "time" and _aware(value) is None:
            raise Usage(f"not a time with an offset: {value!r}", hint="2026-11-22T04:00:00Z")
        return cls(how=how, value=value, timeline=timeline, action=action)

    @property
    def at(self) -> datetime | None:
        """Of a time, which one."""
        return _aware(self.value) if self.how == "time" else None

    def settings(self) -> dict[str, str]:
        if self.how == "latest":
            return {}
        value = self.value
        if (at := self.at) is not None:
            # PostgreSQL 15 and before refuse the Z of ISO 8601, and no version knows all its other forms.
            value = at.isoformat(sep=" ")
        return {
            f"recovery_target_{self.how}": value,
            "recovery_target_action": self.action.value,
        }

    def __str__(self) -> str:
        said = f"{self.how} {self.value}".rstrip()
        return said if self.timeline is None else f"{said} of timeline {self.timeline}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What was recovered, by the server's own account. None: it did not say.

    `last_commit` is the newest transaction that is in; with none after the backup began there is none
    to name, although the data is whole.
    """

    lsn: str
    timeline: int
    promoted: bool
    last_commit: datetime | None
    stopped: str | None  # `recovery stopping at restore point …`; None: the log's end


def stopped(log: str) -> str | None:
    """Why recovery stopped, in PostgreSQL's words."""
    found = _STOPPED.search(log)
    return found[1].strip() if found else None


def last_completed(log: str) -> str | None:
    """When the last transaction that the log holds was, in PostgreSQL's words: it says so when a log ends early."""
    found = _LAST.search(log)
    return found[1].strip() if found else None


def strayed(target: Target, done: Recovered, *, until: int | None = None) -> str | None:
    """Why what came of the recovery is not the target; None: it is. Pure. `until`: where the backup ended."""
    if target.how == "latest":
        return None
    if done.stopped is None and done.promoted:
        return "recovery ended, and not at the target"
    if target.at is not None and done.last_commit is not None and done.last_commit > target.at:
        return f"a commit of {done.last_commit.isoformat()} is in it"
    if target.how == "lsn" and wal_segment.lsn(done.lsn) < wal_segment.lsn(target.value):
        return f"recovery stopped at {done.lsn}"
    if target.how == "name" and done.stopped and f'"{target.value}"' not in done.stopped:
        return f"the server says: {done.stopped}"
    if until is not None and wal_segment.lsn(done.lsn) < until:
        return f"recovery stopped at {done.lsn}, before the end of the backup"
    return None


def _aware(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
