"""The clients' own record of what was acknowledged: the only source of RPO and RTO.

A record is on disk before the write counts as acknowledged (the rules
are told in docs/design/ledger.md). Times are CLOCK_MONOTONIC of the machine the clients run on, which
is outside every site.

JSON lines, appended only. After each batch comes a `seal`: the SHA-256 of every byte before it. What
is behind the last good seal was never counted by anybody, so a reader drops it; what does not match
and has a later seal behind it was changed afterwards, and a reader refuses it.
"""

import hashlib
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson

from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Invalid, Usage
from zaibei.kernel.state import write_atomic

FORMAT = "zaibei-ledger/1"
BATCH_MAX = 4096  # records a seal covers; also the reader's memory
QUEUE_MAX = 65_536  # records waiting for the disk; beyond it the measurement is over
PENDING_MAX = 100_000  # intents without an answer a reader will hold
NOTES_MAX = 10_000
_LINE_MAX = 65_536
_COST_OVER = 100_000  # the last so many syncs tell the cost
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the disk took for the promise."""

    records: int
    syncs: int
    sync_p50: timedelta
    sync_p99: timedelta
    sync_max: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    path: Path
    sha256: str  # of the whole file; also in `<path>.sha256`, as sha256sum -c reads it
    size_bytes: int
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a reader knows only when it has read everything."""

    closed: bool  # False: the writer died
    sha256: str
    torn_bytes: int  # behind the last seal: written, never counted
    unanswered: int  # intents that became INFO
    withdrawn: int  # intents that were never sent, on purpose
    notes: tuple[Note, ...]


class Ledger:
    """The writer. `intend` before a write is sent, `complete` when it is answered; any thread may call.

    Each call returns a future that is done when the record is on disk. A disk that failed once stays
    failed: pages that could not be written are forgotten by the kernel, and the next fsync lies.
    """

    def __init__(self, file: int, path: Path, drill: str, clock: Clock) -> None:
        self.path, self.drill = path, drill
        self._file, self._clock = file, clock
        self._queue: deque[tuple[bytes, Future[None]]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._broken: BaseException | None = None
        self._hash = hashlib.sha256()
        self._size = self._records = self._syncs = 0
        self._syncs_s: deque[float] = deque(maxlen=_COST_OVER)
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)

    @classmethod
    def create(
        cls, path: Path, *, drill: str, clock: Clock, facts: Mapping[str, Any] | None = None
    ) -> Self:
        """Raises Usage when the file is there: evidence is not written over."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except FileExistsError as there:
            raise Usage(f"{path}: a ledger is there already", hint="name a new drill") from there
        self = cls(file, path, drill, clock)
        header = {
            "t": "header",
            "format": FORMAT,
            "drill": drill,
            "host": socket.gethostname(),
            "boot_id": _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown",
            "pid": os.getpid(),
            "clock": "CLOCK_MONOTONIC",
            "clock_resolution_s": time.get_clock_info("monotonic").resolution,
            "monotonic_s": clock.monotonic(),
            "wall": clock.now().isoformat(),
            "facts": dict(facts or {}),
        }
        self._thread.start()
        self._append(header).result()
        _sync_directory(path.parent)  # the name, too, must survive a power loss of this machine
        return self

    def intend(self, intent: Intent) -> Future[None]:
        return self._append(
            {
                "t": "invoke",
                "id": intent.op_id,
                "kind": intent.kind,
                "client": intent.client,
                "seq": intent.seq,
                "payload_sha256": intent.payload_sha256,
                "intended_s": intent.intended_s,
                "pooled": intent.pooled,
            }
        )

    def complete(self, op: Op) -> Future[None]:
        return self._append(
            {
                "t": "done",
                "id": op.op_id,
                "sent_s": op.sent_s,
                "completed_s": op.completed_s,
                "outcome": op.outcome,
                "door": op.door,
                "epoch": op.epoch,
                "copies": op.copies,
                "detail": op.detail,
            }
        )

    def withdraw(self, op_id: str) -> Future[None]:
        """The intent was on disk ahead of its time, and its time did not come."""
        return self._append({"t": "withdrawn", "id": op_id})

    def note(self, what: str, *, at_s: float | None = None, detail: str = "") -> Future[None]:
        t_s = self._clock.monotonic() if at_s is None else at_s
        return self._append({"t": "note", "t_s": t_s, "what": what, "detail": detail})

    def cost(self) -> Cost:
        took = sorted(self._syncs_s) or [0.0]
        return Cost(
            records=self._records,
            syncs=self._syncs,
            sync_p50=timedelta(seconds=took[len(took) // 2]),
            sync_p99=timedelta(seconds=took[min(len(took) - 1, len(took) * 99 // 100)]),
            sync_max=timedelta(seconds=took[-1]),
        )

    def close(self) -> Closed:
        """Write the last records, then the file's own SHA-256 beside it. Raises Invalid if one was lost."""
        self._append(
            {
                "t": "close",
                "monotonic_s": self._clock.monotonic(),
                "wall": self._clock.now().isoformat(),
            }
        ).result()
        self._end()
        digest = self._hash.hexdigest()
        write_atomic(Path(f"{self.path}.sha256"), f"{digest}  {self.path.name}\n")
        return Closed(path=self.path, sha256=digest, size_bytes=self._size, cost=self.cost())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *gone: object) -> None:
        if not self._closing:
            # After an exception the file keeps what it has, without the mark of a clean end.
            if kind is None:
                self.close()
            else:
                self._end()

    def _end(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        os.close(self._file)

    def _append(self, record: Mapping[str, Any]) -> Future[None]:
        line = orjson.dumps(record) + b"\n"
        assert len(line) <= _LINE_MAX, "a record that no reader would take"
        kept: Future[None] = Future()
        with self._wake:
            if self._broken is not None:
                raise Invalid(f"{self.path}: the ledger cannot be written: {self._broken}")
            assert not self._closing, "a record after the end"
            if len(self._queue) >= QUEUE_MAX:
                raise Invalid(
                    f"{self.path}: {QUEUE_MAX} records wait for the disk",
                    hint="put the ledger on a disk that no drill touches",
                )
            self._queue.append((line, kept))
            self._wake.notify()
        return kept

    def _write(self) -> None:
        # Group commit without a timer: while one fsync runs, the next batch gathers.
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue:
                    return
                take = min(BATCH_MAX, len(self._queue))
                batch = [self._queue.popleft() for _ in range(take)]
            try:
                self._commit(b"".join(line for line, _ in batch))
            except OSError as error:
                self._fail(error, batch)
                return
            self._records += len(batch)
            for _, kept in batch:
                kept.set_result(None)

    def _commit(self, data: bytes) -> None:
        self._hash.update(data)
        seal = _seal(self._size + len(data), self._hash.hexdigest())
        self._hash.update(seal)
        rest = memoryview(data + seal)
        self._size += len(rest)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        began = self._clock.monotonic()
        os.fdatasync(self._file)
        self._syncs_s.append(self._clock.monotonic() - began)
        self._syncs += 1

    def _fail(self, error: OSError, batch: list[tuple[bytes, Future[None]]]) -> None:
        with self._wake:
            self._broken = error
            batch = [*batch, *self._queue]
            self._queue.clear()
        for _, kept in batch:
            kept.set_exception(
                Invalid(
                    f"{self.path}: the ledger cannot be written: {error}",
                    hint="the drill must be run again: nobody knows what was acknowledged",
                )
            )


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


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
