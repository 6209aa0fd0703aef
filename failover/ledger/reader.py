"""Reads a ledger back, and says where it is torn or was changed."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from failover.ledger.format import (
    _LINE_MAX,
    BATCH_MAX,
    FORMAT,
    NOTES_MAX,
    Header,
    Intent,
    Note,
    Op,
    Outcome,
    _intent,
    _parse,
    _seal,
)
from zaibei.kernel.errors import Damage

PENDING_MAX = 100_000  # intents without an answer a reader will hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a reader knows only when it has read everything."""

    closed: bool  # False: the writer died
    sha256: str
    torn_bytes: int  # behind the last seal: written, never counted
    unanswered: int  # intents that became INFO
    withdrawn: int  # intents that were never sent, on purpose
    notes: tuple[Note, ...]


class Reader:
    """A ledger as a stream of finished ops, in the order they were recorded.

    Memory: one batch, and the intents that have no answer yet. Raises Damage for a file that is not
    what was written; a tail that a crash tore off is not damage (`ending.torn_bytes`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            raw = _parse(file.readline(_LINE_MAX))
        if raw is None or raw.get("t") != "header" or raw.get("format") != FORMAT:
            raise Damage(f"{path}: not a ledger: no {FORMAT} header")
        try:
            self.header = Header(**{f.name: raw[f.name] for f in fields(Header)})
        except KeyError as missing:
            raise Damage(f"{path}: not a ledger: the header has no {missing}") from missing
        self._ending: Ending | None = None

    @property
    def ending(self) -> Ending:
        assert self._ending is not None, "known only after ops() was read to its end"
        return self._ending

    def read_through(self) -> Ending:
        for _ in self.ops():
            pass
        return self.ending

    def ops(self) -> Iterator[Op]:
        try:
            yield from self._ops()
        except (KeyError, TypeError, ValueError, AssertionError) as odd:
            # Sealed, and still no ledger record: somebody wrote it who is not this program.
            raise Damage(f"{self.path}: a record that no writer makes: {odd!r}") from odd

    def _ops(self) -> Iterator[Op]:
        pending: dict[str, Intent] = {}
        notes: list[Note] = []
        withdrawn = 0
        closed = False
        last_s = self.header.monotonic_s
        sealed = _Sealed(self.path)
        for record in sealed.records():
            match record["t"]:
                case "invoke":
                    intent = _intent(record)
                    if intent.op_id in pending:
                        raise Damage(f"{self.path}: {intent.op_id} was sent twice")
                    pending[intent.op_id] = intent
                    if len(pending) > PENDING_MAX:
                        raise Damage(f"{self.path}: more than {PENDING_MAX} writes without answer")
                case "done":
                    op = self._done(pending.pop(record["id"], None), record)
                    last_s = max(last_s, op.completed_s)
                    yield op
                case "withdrawn":
                    withdrawn += 1
                    if pending.pop(record["id"], None) is None:
                        raise Damage(f"{self.path}: {record['id']} was withdrawn, never intended")
                case "note":
                    if len(notes) >= NOTES_MAX:
                        raise Damage(f"{self.path}: more than {NOTES_MAX} notes")
                    notes.append(
                        Note(t_s=record["t_s"], what=record["what"], detail=record["detail"])
                    )
                case "close":
                    closed = True
                    last_s = max(last_s, record["monotonic_s"])
                case "header":
                    pass
                case other:
                    raise Damage(f"{self.path}: a record of unknown kind {other!r}")
        unanswered = len(pending)
        for intent in pending.values():
            # The writer died between the intent and the answer: the write may be anywhere.
            end_s = max(last_s, intent.intended_s)
            yield intent.done(
                sent_s=intent.intended_s,
                completed_s=end_s,
                outcome=Outcome.INFO,
                door="unknown",
                detail="the ledger ends before its answer",
            )
        self._ending = Ending(
            closed=closed,
            sha256=sealed.sha256,
            torn_bytes=sealed.torn_bytes,
            unanswered=unanswered,
            withdrawn=withdrawn,
            notes=tuple(notes),
        )

    def _done(self, intent: Intent | None, record: Mapping[str, Any]) -> Op:
        if intent is None:
            raise Damage(f"{self.path}: {record['id']} was answered, never sent")
        return intent.done(
            sent_s=record["sent_s"],
            completed_s=record["completed_s"],
            outcome=Outcome(record["outcome"]),
            door=record["door"],
            epoch=record["epoch"],
            copies=record["copies"],
            detail=record["detail"],
        )


class _Sealed:
    """Records that a seal covers, a batch at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn_bytes = 0
        self.sha256 = ""

    def records(self) -> Iterator[dict[str, Any]]:
        running = hashlib.sha256()
        size = 0  # up to and with the last good seal
        batch: list[dict[str, Any]] = []
        held = 0  # bytes of the batch
        with self.path.open("rb") as file:
            while line := file.readline(_LINE_MAX):
                record = _parse(line)
                if record is None or len(batch) > BATCH_MAX:
                    self._torn(file, size)
                    break
                if record["t"] != "seal":
                    running.update(line)
                    batch.append(record)
                    held += len(line)
                    continue
                if line != _seal(size + held, running.hexdigest()):
                    self._torn(file, size)
                    break
                running.update(line)
                size += held + len(line)
                yield from batch
                batch, held = [], 0
            else:
                self.torn_bytes = held
            file.seek(0)
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()

    def _torn(self, file: BinaryIO, good: int) -> None:
        """Torn by a crash, or changed afterwards?

        A batch is written only when the one before it is on disk. So a crash can spoil the last
        batch alone: a second seal behind the spoilt place proves a change.
        """
        file.seek(good)
        seals = 0
        last_is_seal = False
        while line := file.readline(_LINE_MAX):
            record = _parse(line)
            last_is_seal = record is not None and record["t"] == "seal"
            seals += last_is_seal
        if seals > 1 or (seals == 1 and not last_is_seal):
            raise Damage(
                f"{self.path}: changed after it was written, behind byte {good}",
                hint="take the copy whose SHA-256 is in the evidence",
            )
        self.torn_bytes = file.tell() - good
