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
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import orjson

from failover.ledger.format import _LINE_MAX, BATCH_MAX, FORMAT, Intent, Op, _seal
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Invalid, Usage
from zaibei.kernel.state import write_atomic

QUEUE_MAX = 65_536  # records waiting for the disk; beyond it the measurement is over
_COST_OVER = 100_000  # the last so many syncs tell the cost
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
