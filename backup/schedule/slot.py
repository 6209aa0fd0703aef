"""Guarantees one snapshot a slot: before a commit the vault is asked whether it has one already.

Snapshots are numbered and a number is created once, so the answer holds until our own commit or is
asked again: two hosts, or a worker that was wrongly thought dead, end with one snapshot in each
vault.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from backup.format.snapshot import Content, Snapshot
from backup.repository.repository import Repository
from backup.writer.writer import Fence
from zaibei.kernel.errors import Refused

FACT: Final = "schedule"
LOOK_BACK: Final = 500  # snapshots in which an earlier run of the slot is looked for


class SlotTaken(Refused):
    """The slot has its snapshot already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """`token`: the lease's number; a higher one was given out later."""

    job: str
    at: datetime
    token: int = 0

    @property
    def name(self) -> str:
        return f"{self.job}/{self.at.astimezone(UTC):%Y%m%dT%H%M%SZ}"

    def as_fact(self) -> dict[str, Any]:
        return {"job": self.job, "slot": self.at.isoformat(), "token": self.token}

    def is_of(self, content: Content) -> bool:
        told = content.facts.get(FACT)
        if not isinstance(told, dict) or told.get("job") != self.job:
            return False
        try:
            return datetime.fromisoformat(str(told.get("slot"))) == self.at
        except ValueError:
            return False


def committed(repo: Repository, slot: Slot, *, after: int = 0) -> Snapshot | None:
    """The slot's complete snapshot among those after that number, newest first."""
    for sequence in [s for s in reversed(repo.sequences()) if s > after][:LOOK_BACK]:
        one = repo.snapshot(sequence)
        if slot.is_of(one.content) and one.content.complete:
            return one
    return None


def fence(slot: Slot) -> Fence:
    """For a `Writer`: refuses to commit the slot a second time."""
    looked: dict[str, int] = {}

    def check(repo: Repository, tip: int) -> None:
        if (found := committed(repo, slot, after=looked.get(repo.name, 0))) is not None:
            raise SlotTaken(f"{repo.name}: {slot.name} is snapshot {found.sequence} already")
        looked[repo.name] = tip

    return check
