"""The clients' own record of what was acknowledged: the only source of RPO and RTO.

A record is on disk before the write counts as acknowledged (the rules
are told in docs/design/ledger.md). Times are CLOCK_MONOTONIC of the machine the clients run on, which
is outside every site.
"""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    OK = "ok"  # acknowledged
    FAIL = "fail"  # certainly not applied
    INFO = "info"  # nobody knows: the connection died, a time-out, a cancelled synchronous wait


class Kind(StrEnum):
    ROW = "row"  # a database write through the public entry
    OBJECT = "object"  # an object write


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One attempted write, complete. `intended_s <= sent_s <= completed_s`, monotonic seconds."""

    op_id: str  # unique; the idempotency key of the row, the key of the object
    kind: Kind
    client: str
    seq: int
    payload_sha256: str
    intended_s: float  # when the open-loop schedule wanted it sent
    sent_s: float
    completed_s: float
    outcome: Outcome
    door: str  # site whose entry answered, or was asked last
    epoch: int | None = None  # who acknowledged: the writer's timeline
    copies: int | None = None  # how many sites held it when it was acknowledged
    pooled: bool = True  # False: on a fresh connection
    detail: str = ""  # status or error, for people
