"""Open-loop writers in a thread of their own, usable from synchronous code.

The schedule is fixed before the first write: the n-th write of a client is due at its own time
whatever became of the others, so an outage cannot hide in writes that nobody sent. Because the
schedule is known, each intent is on disk ahead of its time and no fsync stands between the due time
and the socket. A write that could not be sent on time says so itself (`sent_s - intended_s`).
"""

import asyncio
import hashlib
import random
import ssl
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson

from failover.clients.endpoints import Door, Doors
from failover.clients.row_write import TimeOuts, session, tls, write
from failover.ledger.format import Intent, Kind, Op, Outcome
from failover.ledger.writer import Ledger
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Invalid, Usage

Put = Callable[[str, bytes], int]
"""Write an object under a new key and return how many sites hold it. Any exception is INFO: a create
that raised may have happened. It has its own time-outs; a thread cannot be taken back."""

_AHEAD_S = 0.5  # intents are on disk so long before their time
_LEAD_S = 0.3  # from start() to the first due time: the first intents must be on disk too
_STOP_GRACE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Who writes, and how often. Each client has its own fixed period; their phases are seeded."""

    rows_per_s: float = 20.0  # of all row clients together
    pooled: int = 2  # clients that keep their connections
    fresh: int = 2  # clients that open a connection for each write
    objects_per_s: float = 2.0
    object_bytes: int = 4096

    @property
    def row_period(self) -> timedelta:
        """Of one client: the resolution of a per-client RTO."""
        return timedelta(seconds=(self.pooled + self.fresh) / self.rows_per_s)

    def why_too_coarse(self, rto: timedelta) -> str | None:
        """The contract: a period of at most a twentieth of the objective."""
        period = timedelta(seconds=1 / self.rows_per_s)
        if period * 20 <= rto:
            return None
        return (
            f"a write every {period.total_seconds():g} s is too coarse for an RTO of"
            f" {rto.total_seconds():g} s: write at least {20 / rto.total_seconds():g} a second"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    time_outs: TimeOuts = field(default_factory=TimeOuts)
    shun_s: float = 10.0  # a silent door is left alone so long
    rows_in_flight: int = 256
    objects_in_flight: int = 16
    object_s: float = 5.0  # then an object write counts as INFO


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """So far, for people who watch. Only writes whose record is on disk are counted."""

    ok: int
    fail: int
    info: int
    in_flight: int
    overflow: int  # of `fail`: not sent, too many in flight
    lag_s_max: float
    last_ok_s: float | None  # monotonic
    last_detail: str  # of the last write that was not acknowledged


class Traffic:
    """Clients of a drill. `start()`, look at `snapshot()`, `stop()`; once."""

    def __init__(
        self,
        *,
        doors: Sequence[Door],
        ca_file: Path,
        ledger: Ledger,
        clock: Clock,
        seed: int,
        rates: Rates | None = None,
        limits: Limits | None = None,
        put: Put | None = None,
        session: str | None = None,
    ) -> None:
        for door in doors:
            if not door.url.startswith("https://"):
                raise Usage(f"{door.site}: {door.url} is not https", hint="give the public entry")
        self._rates = rates or Rates()
        self._limits = limits or Limits()
        self._ledger, self._clock, self._put = ledger, clock, put
        self._row_clients = _row_clients(self._rates, doors, self._limits, seed)
        self._object_rng = random.Random(f"{seed}-objects")
        self._tls: ssl.SSLContext = tls(ca_file)
        self._session = session
        self._count = dict.fromkeys(Outcome, 0)
        self._overflow = self._rows_open = self._objects_open = 0
        self._lag_s_max = 0.0
        self._last_ok_s: float | None = None
        self._last_detail = ""
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._threads: ThreadPoolExecutor | None = None
        self._ops: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def stop(self) -> Counts:
        """No new write; wait for those under way; then their records are on disk.

        Raises Invalid when the ledger failed or the clients died: then nobody knows what was
        acknowledged.
        """
        if self._thread.ident is None:
            return self.snapshot()  # never started: a drill that failed before its first write
        if self._loop is not None and self._thread.is_alive():
            try:
                self._loop.call_soon_threadsafe(self._stopping.set)
            except RuntimeError:  # the loop has just ended by itself
                assert not self._stopping.is_set()
        self._thread.join()
        if self._error is not None:
            raise Invalid(f"the clients stopped: {self._error}") from self._error
        return self.snapshot()

    def snapshot(self) -> Counts:
        return Counts(
            ok=self._count[Outcome.OK],
            fail=self._count[Outcome.FAIL],
            info=self._count[Outcome.INFO],
            in_flight=self._rows_open + self._objects_open,
            overflow=self._overflow,
            lag_s_max=self._lag_s_max,
            last_ok_s=self._last_ok_s,
            last_detail=self._last_detail,
        )

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - told by stop(), on the caller's thread
            self._error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        start_s = self._clock.monotonic() + _LEAD_S
        sessions = [session(self._tls, pooled=c.pooled) for c in self._row_clients]
        try:
            generators = [
                self._generate(
                    client.plan(self._ledger.drill, start_s), self._row_sender(client, http)
                )
                for client, http in zip(self._row_clients, sessions, strict=True)
            ]
            if self._put is not None and self._rates.objects_per_s > 0:
                self._threads = ThreadPoolExecutor(self._limits.objects_in_flight, "object-writer")
                generators.append(self._generate(self._object_plan(start_s), self._object))
            try:
                async with asyncio.TaskGroup() as group:
                    for generator in generators:
                        group.create_task(generator)
            finally:
                await self._drain()
        finally:
            for http in sessions:
                await http.close()
            if self._threads is not None:
                self._threads.shutdown(wait=False, cancel_futures=True)

    async def _generate(
        self, plan: "_Plan", send: Callable[["_Due"], Coroutine[Any, Any, None]]
    ) -> None:
        """Write intents ahead, start each op at its time, never wait for one."""
        planned: deque[_Due] = deque()
        seq = 0
        while True:
            while plan.due_s(seq) <= self._clock.monotonic() + _AHEAD_S:
                intent, data = plan.intent(seq)
                planned.append(_Due(intent, data, self._ledger.intend(intent)))
                seq += 1
            wake_s = min(
                plan.due_s(seq) - _AHEAD_S, planned[0].intent.intended_s if planned else 1e18
            )
            if await self._stopped_within(wake_s - self._clock.monotonic()):
                break
            while planned and planned[0].intent.intended_s <= self._clock.monotonic():
                task = asyncio.create_task(send(planned.popleft()))
                self._ops.add(task)
                task.add_done_callback(self._op_ended)
        for due in planned:
            self._ledger.withdraw(due.intent.op_id)

    def _op_ended(self, task: asyncio.Task[None]) -> None:
        self._ops.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A record that could not be kept ends the measurement: going on would only make it longer.
            self._error = self._error or error
            self._stopping.set()

    async def _stopped_within(self, wait_s: float) -> bool:
        if wait_s <= 0:
            await asyncio.sleep(0)
            return self._stopping.is_set()
        try:
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _drain(self) -> None:
        limits = self._limits
        longest_s = max(limits.time_outs.op_s, limits.object_s) + _STOP_GRACE_S
        if self._ops:
            await asyncio.wait(self._ops, timeout=longest_s)
        # Every op has its own deadline; one that outlived it has no record but its intent, which a
        # reader takes for INFO.
        for task in self._ops:
            task.cancel()

    def _row_sender(
        self, client: "_RowClient", http: Any
    ) -> Callable[["_Due"], Coroutine[Any, Any, None]]:
        async def send(due: _Due) -> None:
            if self._rows_open >= self._limits.rows_in_flight:
                await self._overflowed(due.intent, client.doors.preferred.site)
                return
            self._rows_open += 1
            try:
                await asyncio.wrap_future(due.kept)
                sent_s = self._sending(due.intent)
                answer = await write(
                    http,
                    client.doors,
                    op_id=due.intent.op_id,
                    body=due.data,
                    limits=self._limits.time_outs,
                    now=self._clock.monotonic,
                    session=self._session,
                )
                await self._keep(
                    due.intent.done(
                        sent_s=sent_s,
                        completed_s=self._clock.monotonic(),
                        outcome=answer.outcome,
                        door=answer.door,
                        epoch=answer.epoch,
                        copies=answer.copies,
                        detail=answer.detail,
                    )
                )
            finally:
                self._rows_open -= 1

        return send

    async def _object(self, due: "_Due") -> None:
        assert self._put is not None
        assert self._threads is not None
        if self._objects_open >= self._limits.objects_in_flight:
            await self._overflowed(due.intent, "stores")
            return
        self._objects_open += 1
        await asyncio.wrap_future(due.kept)
        sent_s = self._sending(due.intent)
        copies: int | None = None
        running = asyncio.get_running_loop().run_in_executor(
            self._threads, self._put, due.intent.op_id, due.data
        )
        # The place in flight is given back when the thread is, not when we stop waiting for it.
        running.add_done_callback(self._object_thread_free)
        try:
            async with asyncio.timeout(self._limits.object_s):
                copies = await asyncio.shield(running)
            outcome, detail = Outcome.OK, f"{copies} copies"
        except TimeoutError:
            outcome, detail = Outcome.INFO, f"no answer in {self._limits.object_s:g} s"
        except Exception as error:  # noqa: BLE001 - whatever the store said, nobody knows
            outcome, detail = Outcome.INFO, f"{type(error).__name__}: {error}"[:200]
        await self._keep(
            due.intent.done(
                sent_s=sent_s,
                completed_s=self._clock.monotonic(),
                outcome=outcome,
                door="stores",
                copies=copies,
                detail=detail,
            )
        )

    def _object_thread_free(self, running: "asyncio.Future[int]") -> None:
        self._objects_open -= 1
        if not running.cancelled():
            running.exception()  # looked at, so that a late error is not shouted on stderr

    def _object_plan(self, start_s: float) -> "_Plan":
        period_s = 1 / self._rates.objects_per_s
        rng, size = self._object_rng, self._rates.object_bytes

        def make(op_id: str) -> tuple[bytes, str]:
            data = rng.randbytes(size)
            return data, hashlib.sha256(data).hexdigest()

        return _Plan(
            drill=self._ledger.drill,
            client="obj0",
            kind=Kind.OBJECT,
            pooled=True,
            first_s=start_s + rng.random() * period_s,
            period_s=period_s,
            make=make,
        )

    def _sending(self, intent: Intent) -> float:
        sent_s = self._clock.monotonic()
        self._lag_s_max = max(self._lag_s_max, sent_s - intent.intended_s)
        return sent_s

    async def _overflowed(self, intent: Intent, door: str) -> None:
        now_s = self._clock.monotonic()
        self._overflow += 1
        await self._keep(
            intent.done(
                sent_s=now_s,
                completed_s=now_s,
                outcome=Outcome.FAIL,
                door=door,
                detail="overflow: not sent, too many in flight",
            )
        )

    async def _keep(self, op: Op) -> None:
        await asyncio.wrap_future(self._ledger.complete(op))
        # Only now does it count.
        self._count[op.outcome] += 1
        if op.outcome is Outcome.OK:
            self._last_ok_s = max(self._last_ok_s or op.completed_s, op.completed_s)
        else:
            self._last_detail = f"{op.door}: {op.detail}"


@dataclass(frozen=True, slots=True)
class _Due:
    intent: Intent
    data: bytes
    kept: Future[None]  # done when the intent is on disk


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One client's schedule."""

    drill: str
    client: str
    kind: Kind
    pooled: bool
    first_s: float
    period_s: float
    make: Callable[[str], tuple[bytes, str]]  # op id -> what is sent, SHA-256 of its payload

    def due_s(self, seq: int) -> float:
        return self.first_s + seq * self.period_s

    def intent(self, seq: int) -> tuple[Intent, bytes]:
        op_id = f"{self.drill}-{self.client}-{seq:07d}"
        data, digest = self.make(op_id)
        return Intent(
            op_id=op_id,
            kind=self.kind,
            client=self.client,
            seq=seq,
            payload_sha256=digest,
            intended_s=self.due_s(seq),
            pooled=self.pooled,
        ), data


@dataclass(frozen=True, slots=True, kw_only=True)
class _RowClient:
    name: str
    pooled: bool
    doors: Doors
    rng: random.Random
    period_s: float
    phase_s: float

    def plan(self, drill: str, start_s: float) -> _Plan:
        return _Plan(
            drill=drill,
            client=self.name,
            kind=Kind.ROW,
            pooled=self.pooled,
            first_s=start_s + self.phase_s,
            period_s=self.period_s,
            make=self._register,
        )

    def _register(self, op_id: str) -> tuple[bytes, str]:
        payload = self.rng.randbytes(32).hex()
        body = {
            "person_id": f"P{self.rng.randrange(10**8):08d}",
            "tube": f"T{self.rng.randrange(10**10):010d}",
            "station": f"S{self.rng.randrange(200):03d}",
            "payload": payload,
        }
        return orjson.dumps(body), hashlib.sha256(payload.encode()).hexdigest()


def _row_clients(
    rates: Rates, doors: Sequence[Door], limits: Limits, seed: int
) -> tuple[_RowClient, ...]:
    names = [*(f"pool{i}" for i in range(rates.pooled)), *(f"conn{i}" for i in range(rates.fresh))]
    if not names or rates.rows_per_s <= 0:
        raise Usage("no row client: nothing would be measured")
    period_s = rates.row_period.total_seconds()
    clients = []
    for i, name in enumerate(names):
        rng = random.Random(f"{seed}-{name}")
        # Spread over the period, so that all clients together are the finer clock; the seed moves
        # each within its share, so that no run is in step with a heartbeat.
        phase_s = period_s * (i + rng.random() * 0.5) / len(names)
        clients.append(
            _RowClient(
                name=name,
                pooled=name.startswith("pool"),
                doors=Doors(doors, shun_s=limits.shun_s),
                rng=rng,
                period_s=period_s,
                phase_s=phase_s,
            )
        )
    return tuple(clients)
