"""The ledger's lines: header, intents, outcomes, notes; sealed and parsed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

FORMAT = "zaibei-ledger/1"
BATCH_MAX = 4096  # records a seal covers; also the reader's memory
NOTES_MAX = 10_000
_LINE_MAX = 65_536


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What is on disk before the first byte leaves: a client that dies leaves INFO, never silence."""

    op_id: str
    kind: Kind
    client: str
    seq: int
    payload_sha256: str
    intended_s: float
    pooled: bool = True

    def done(
        self,
        *,
        sent_s: float,
        completed_s: float,
        outcome: Outcome,
        door: str,
        epoch: int | None = None,
        copies: int | None = None,
        detail: str = "",
    ) -> Op:
        assert self.intended_s <= sent_s <= completed_s, "an answer before its question"
        return Op(
            op_id=self.op_id,
            kind=self.kind,
            client=self.client,
            seq=self.seq,
            payload_sha256=self.payload_sha256,
            intended_s=self.intended_s,
            pooled=self.pooled,
            sent_s=sent_s,
            completed_s=completed_s,
            outcome=outcome,
            door=door,
            epoch=epoch,
            copies=copies,
            detail=detail,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Whose clock the times are of. Two ledgers may be compared when `boot_id` is the same."""

    drill: str
    host: str
    boot_id: str
    pid: int
    clock: str
    clock_resolution_s: float
    monotonic_s: float  # at the same moment as `wall`
    wall: str
    facts: Mapping[str, Any] = field(default_factory=dict)  # seed, rates, doors: what was asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that happened while the clients wrote: a fault, an observation."""

    t_s: float
    what: str
    detail: str = ""


def _seal(size: int, sha256: str) -> bytes:
    return orjson.dumps({"t": "seal", "bytes": size, "sha256": sha256}) + b"\n"


def _intent(record: Mapping[str, Any]) -> Intent:
    return Intent(
        op_id=record["id"],
        kind=Kind(record["kind"]),
        client=record["client"],
        seq=record["seq"],
        payload_sha256=record["payload_sha256"],
        intended_s=record["intended_s"],
        pooled=record["pooled"],
    )


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("t"), str) else None
