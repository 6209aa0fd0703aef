"""A drill in a simulated world: the clients' own code, the checker and the judge, sixteen seconds in some milliseconds.

Only the socket is simulated. What is sent again and where, and what an answer means, is decided by
`failover.clients.row_write.write`, `Doors` and `answer`, as in a drill; it is a coroutine, and here the
world resumes it instead of asyncio.
"""

import random
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, Self, cast

import aiohttp
import orjson

from failover.checker import Findings, check
from failover.clients.endpoints import Door, Doors
from failover.clients.row_write import Answer, TimeOuts, write
from failover.ledger.format import Intent, Kind, Op
from failover.measure import Measures, Stable, measure
from failover.verdict import CheckResult, Ruling, Verdict, judge
from infra.sim.entry import CLIENTS, Call
from infra.sim.faults import Fault, draw
from infra.sim.member import Sabotage
from infra.sim.truth import Truth
from infra.sim.world import PREFIX, TTL_S, Plan, Traffic, World
from zaibei.config.model import Hazard, Objective

OBJECTIVE = Objective(hazard=Hazard.H1, rto=timedelta(seconds=7), rpo=timedelta(0))
LIMITS = TimeOuts()
CLIENTS_N = 6  # half keep their connections; half know the other door first
_STABLE = Stable(window=timedelta(seconds=1))
_QUIET_S = LIMITS.op_s + 0.5  # before the end of the world: every write is answered or given up
_FAULT_FROM_S = 4.0
_ROWS_PER_S = 30.0
_END_S = 16.0
_LOST = (Fault.POWER_LOSS, Fault.CUT_OFF, Fault.FREEZE)
_PROVOKED = 0.75  # of the sabotaged worlds
_PROVOKES = {
    Sabotage.ASYNCHRONOUS: _LOST,
    Sabotage.NO_FENCE: (Fault.CUT_FROM_SITES,),
    Sabotage.PROMOTE_LAGGING: _LOST,
    Sabotage.ACK_EARLY: _LOST,
    Sabotage.NAME_EARLY: (Fault.POWER_LOSS,),  # of B; and of A while B is catching up
    Sabotage.FORGET: (*_LOST, Fault.CRASH),
    Sabotage.DENY: (Fault.LINK_CUT, Fault.LINK_ONE_WAY),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    plan: Plan
    ops: tuple[Op, ...]
    findings: Findings
    measures: Measures
    verdict: Verdict
    truth: Truth | None  # None: nobody writes at the end, so nothing can be read back
    trace: str

    def told(self) -> str:
        """For whom a property fails: the seed, the verdict, and what happened."""
        said = "; ".join(self.verdict.reasons) or "no reasons"
        return f"{self.trace}\n{self.verdict.ruling}: {said}\ntruth: {self.truth or 'unknown'}"


def plan_of(
    seed: int,
    *,
    sabotage: Sabotage | None = None,
    traffic: Traffic = Traffic.FULL,
    relapse: bool = False,
) -> Plan:
    """One world of a seed: which fault, where, when, and how slow everything is.

    `relapse`: another fault while the first is being recovered from.
    """
    rng = random.Random(f"{seed}/{sabotage}/{traffic}/{relapse}")
    # A broken promise shows only under the fault it was made for; sometimes it must not show at all.
    provoke = sabotage is not None and rng.random() < _PROVOKED
    among = _PROVOKES.get(sabotage, tuple(Fault)) if provoke and sabotage else tuple(Fault)
    # Where the harm is that B has what it should not, or C has not what B has, B must be quick.
    slow = provoke and sabotage not in (Sabotage.PROMOTE_LAGGING, Sabotage.DENY)
    replication_s = rng.choice((0.1, 0.4) if slow or relapse else (0.002, 0.02))
    remote_s = rng.choice((0.05, 0.8))
    early = sabotage is Sabotage.NAME_EARLY
    first = draw(rng, ttl_s=TTL_S, at_s=_FAULT_FROM_S, among=among, at="b" if early else "a")
    over_s = first.at_s + first.lasts_s
    then = draw(rng, ttl_s=TTL_S, at_s=over_s + 0.3, among=among) if relapse or early else None
    return Plan(
        seed=rng.randrange(2**48),
        fault=first,
        then=then,
        end_s=_END_S + (then.at_s + then.lasts_s - over_s if then else 0.0),
        sabotage=sabotage,
        traffic=traffic,
        rows_per_s=1.0 if traffic is Traffic.THIN else _ROWS_PER_S,
        replication_s=(0.8, 0.9) if early and provoke else (0.0005, replication_s),
        remote_s=(0.02, remote_s),
    )


def simulate(plan: Plan) -> Simulated:
    world = World(plan)
    ops: list[Op] = []
    world.run(lambda w: _citizens(w, ops))
    rows = world.rows()
    findings = check(
        ops,
        None if rows is None else ((r.op_id, r.sha256, r.epoch) for r in rows),
        None,
        prefix=PREFIX,
    )
    measures = measure(ops, fault_s=plan.fault.at_s, stable=_STABLE)
    read = CheckResult(
        name="read-back", ran=rows is not None, passed=True, detail="nobody writes at the end"
    )
    return Simulated(
        plan=plan,
        ops=tuple(ops),
        findings=findings,
        measures=measures,
        verdict=judge(
            findings, measures, OBJECTIVE, [read], required=["read-back"], host_cpu_some_pct=0.0
        ),
        truth=world.truth(),
        trace=world.trace(),
    )


def harmed(result: Simulated) -> bool:
    return result.truth is not None and bool(result.truth.harm)


def passed(result: Simulated) -> bool:
    return result.verdict.ruling is Ruling.PASS


# -- the clients ----------------------------------------------------------------------------------


def _citizens(world: World, ops: list[Op]) -> None:
    """Open-loop: each write has its time beforehand, whatever became of the one before it."""
    plan = world.plan
    end_s = {
        Traffic.ENDS_EARLY: plan.fault.at_s - 1.5,
        Traffic.ENDS_AT_ONCE: plan.fault.at_s + 0.5,
    }.get(plan.traffic, plan.end_s - _QUIET_S)
    doors = [Door(site=name, url=name) for name in world.entries]
    clients = [
        _Client(
            name=f"c{i}",
            world=world,
            ops=ops,
            pooled=i % 2 == 0,
            doors=Doors(doors if i < CLIENTS_N // 2 else doors[::-1], shun_s=3.0),
        )
        for i in range(CLIENTS_N)
    ]
    period_s = 1.0 / plan.rows_per_s
    at_s, seq = 1.0, 0
    while at_s < end_s:
        client = clients[seq % CLIENTS_N]
        world.hosts.after(at_s, CLIENTS, lambda c=client, n=seq: c.begin(n))  # type: ignore[misc]
        at_s, seq = at_s + period_s, seq + 1


@dataclass
class _Client:
    name: str
    world: World
    ops: list[Op]
    pooled: bool
    doors: Doors
    kept: set[str] = field(default_factory=set)  # doors with an open connection

    def begin(self, seq: int) -> None:
        now_s = self.world.hosts.now_s
        intent = Intent(
            op_id=f"{PREFIX}{self.name}-{seq:05d}",
            kind=Kind.ROW,
            client=self.name,
            seq=seq,
            payload_sha256=self.world.fresh_sha256(),
            intended_s=now_s,
            pooled=self.pooled,
        )
        self.world.asked.append((intent.op_id, intent.payload_sha256, now_s))
        session = cast("aiohttp.ClientSession", _Session(self))
        running = write(
            session,
            self.doors,
            op_id=intent.op_id,
            limits=LIMITS,
            body=orjson.dumps({"sha256": intent.payload_sha256}),
            now=lambda: self.world.hosts.now_s,
        )

        def done(answer: Answer) -> None:
            self.ops.append(
                intent.done(
                    sent_s=now_s,
                    completed_s=self.world.hosts.now_s,
                    outcome=answer.outcome,
                    door=answer.door,
                    epoch=answer.epoch,
                    copies=answer.copies,
                    detail=answer.detail,
                )
            )

        _resume(running, None, done)


# -- a coroutine without asyncio ------------------------------------------------------------------


class _Wait:
    """Something the world will say once: `begin` is given whom to tell."""

    def __init__(self, begin: Callable[[Callable[[object], None]], None]) -> None:
        self.begin = begin

    def __await__(self) -> Generator["_Wait", object, object]:
        return (yield self)


def _resume(
    running: Coroutine[Any, Any, Answer], value: object, done: Callable[[Answer], None]
) -> None:
    try:
        wait = running.send(value)
    except StopIteration as end:
        done(end.value)
        return
    told: list[object] = []

    def tell(what: object) -> None:
        if not told:  # the answer or the time-out, whichever is first
            told.append(what)
            _resume(running, what, done)

    wait.begin(tell)


class _Session:
    """As much of aiohttp's session as the clients use."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def post(
        self,
        url: str,
        *,
        data: bytes,
        headers: dict[str, str],
        timeout: aiohttp.ClientTimeout,
        allow_redirects: bool,
        trace_request_ctx: SimpleNamespace,
    ) -> "_Exchange":
        assert timeout.total is not None
        assert timeout.sock_connect is not None
        world = self._client.world
        door = url.removesuffix("/sample/register")
        call = Call(
            op_id=headers["Idempotency-Key"],
            sha256=orjson.loads(data)["sha256"],
            door=door,
            began_s=world.hosts.now_s,
        )
        return _Exchange(
            self._client,
            call,
            total_s=timeout.total,
            connect_s=timeout.sock_connect,
            wire=trace_request_ctx,
        )


@dataclass
class _Exchange:
    """One request: connect, send, wait, and no longer than the client said."""

    client: _Client
    call: Call
    total_s: float
    connect_s: float
    wire: SimpleNamespace
    status: int = 0
    _body: bytes = b""

    @property
    def content(self) -> Self:
        return self

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield self._body

    async def __aenter__(self) -> Self:
        world, call, client = self.client.world, self.call, self.client
        entry = world.entries[call.door]
        deadline_s = call.began_s + self.total_s
        if not (client.pooled and call.door in client.kept):
            limit_s = min(self.connect_s, self.total_s)
            if not await _Wait(lambda tell: self._or_time_out(limit_s, entry.dial, tell)):
                raise TimeoutError("connect")
            client.kept.add(call.door)
        self.wire.may_have_left = True

        def ask(tell: Callable[[object], None]) -> None:
            entry.ask(call, lambda status, body: tell((status, body)))
            world.hosts.after(deadline_s - world.hosts.now_s, CLIENTS, lambda: tell(None))

        said = await _Wait(ask)
        if said is None:
            call.closed_s = world.hosts.now_s
            client.kept.discard(call.door)
            raise TimeoutError("no answer")
        self.status, self._body = cast("tuple[int, bytes]", said)
        return self

    async def __aexit__(self, *gone: object) -> None:
        return None

    def _or_time_out(
        self,
        limit_s: float,
        begin: Callable[[Callable[[], None]], None],
        tell: Callable[[object], None],
    ) -> None:
        begin(lambda: tell(True))
        self.client.world.hosts.after(limit_s, CLIENTS, lambda: tell(False))
