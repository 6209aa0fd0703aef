"""What can be broken on purpose. Pure: names, and what an injector answers with."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    POWER_LOSS = "power-loss"  # un-fsynced data is gone; nobody says goodbye
    PARTITION = "partition"  # silence: frames are dropped, no link goes down
    FREEZE = "freeze"  # every process of the site stands still
    KILL = "kill"  # SIGKILL to one service; the kernel still writes its pages back


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    kind: Kind
    site: str
    process: str | None = None  # KILL: the service

    def __str__(self) -> str:
        what = f" of {self.process}" if self.process else ""
        return f"{self.kind.value}{what} at {self.site}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """An acknowledged fault. The clock of RTO starts here, not at the alarm."""

    fault_id: str
    fault: Fault
    begun_s: float  # monotonic: just before the first effect
    acknowledged_s: float  # monotonic: the effect is complete and was checked
    proof: str  # how it was checked
