"""Two members of one city, a remote one, a lease service, their entries and a fault: all from one seed.

The world makes facts and keeps the truth of them. It knows no ledger and no verdict: who plays the clients
brings their own code (failover.simulated plays the real one).
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from infra.sim.controller import Controller
from infra.sim.entry import CLIENTS, Call, Entry
from infra.sim.faults import SITES, Fault, Planned
from infra.sim.hosts import Hosts
from infra.sim.lease import LeaseService
from infra.sim.member import Member, Record, Sabotage
from infra.sim.truth import Truth, truth
from zaibei.kernel.clock import SimClock

TTL_S = 2.0
PREFIX = "sim-"  # of every write's id


class Traffic(StrEnum):
    FULL = "full"
    THIN = "thin"  # a write now and then
    ENDS_EARLY = "ends-early"  # before the fault
    ENDS_AT_ONCE = "ends-at-once"  # before anything could have recovered


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is to happen, drawn beforehand: the same plan is the same run."""

    seed: int
    fault: Planned
    rows_per_s: float
    end_s: float
    then: Planned | None = None  # a second one, when the first is over
    sabotage: Sabotage | None = None
    traffic: Traffic = Traffic.FULL
    fsync_s: tuple[float, float] = (0.0005, 0.003)
    replication_s: tuple[float, float] = (0.0005, 0.01)  # from A and B
    remote_s: tuple[float, float] = (0.02, 0.2)  # and towards C

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.sabotage or 'honest'}, {self.fault}, traffic {self.traffic}"
        )


class World:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.clock = SimClock()
        self.rng = random.Random(plan.seed)
        self.hosts = Hosts((*SITES, "quorum", CLIENTS), self.clock, self.rng)
        self.leases = LeaseService(self.hosts, SITES, TTL_S)
        self.calls: list[Call] = []
        self.asked: list[tuple[str, str, float]] = []  # every write a client began
        self.members = {
            name: Member(
                name=name,
                hosts=self.hosts,
                fsync_s=plan.fsync_s,
                sabotage=plan.sabotage,
                replication_s=plan.replication_s,
            )
            for name in SITES
        }
        for member in self.members.values():
            member.peers = self.members
            member.far = {"c": plan.remote_s}
        self.controllers = {
            name: Controller(
                member=member,
                partner={"a": "b", "b": "a"}.get(name),
                hosts=self.hosts,
                leases=self.leases,
                sabotage=plan.sabotage,
            )
            for name, member in self.members.items()
        }
        self.entries = {
            name: Entry(
                site=name,
                hosts=self.hosts,
                members=self.members,
                calls=self.calls,
                sabotage=plan.sabotage,
            )
            for name in ("a", "b")
        }

    def run(self, traffic: Callable[["World"], None]) -> None:
        """`traffic` puts its first entries on the agenda; then everything happens."""
        # One after the other, so that A is the first writer of every world.
        for begins_s, name in enumerate(SITES):
            self._at(begins_s * 0.1, self.controllers[name].restart, host=name)
        for entry in self.entries.values():
            self._at(0.0, entry.watch, host=entry.site)
        first, then = self.plan.fault, self.plan.then
        for fault in (first, then) if then else (first,):
            self._at(fault.at_s, partial(self._begin_fault, fault))
            self._at(fault.at_s + fault.lasts_s, partial(self._end_fault, fault))
        if self.plan.sabotage is Sabotage.PHANTOM:
            self._at(self.rng.uniform(3.0, self.plan.end_s - 4.0), self._write_unasked)
        traffic(self)
        self.hosts.run_until(self.plan.end_s)

    def fresh_sha256(self) -> str:
        return hashlib.sha256(self.rng.randbytes(16)).hexdigest()

    def rows(self) -> tuple[Record, ...] | None:
        """Of the one writer, as a drill reads them; None when the lease service names nobody who writes."""
        leader = self.leases.register.view(self.clock.elapsed_s).leader
        if leader is None or not self.members[leader].writer or not self.hosts.runs(leader):
            return None
        return self.members[leader].rows()

    def truth(self) -> Truth | None:
        rows = self.rows()
        return None if rows is None else truth(self.asked, self.calls, rows)

    def trace(self) -> str:
        return "\n".join([str(self.plan), *self.hosts.trace])

    def _at(self, at_s: float, act: Callable[[], None], *, host: str = "quorum") -> None:
        self.hosts.at(at_s, host, act)

    def _begin_fault(self, plan: Planned) -> None:
        hosts = self.hosts
        hosts.say("fault", str(plan))
        member = self.members[plan.site]
        match plan.fault:
            case Fault.POWER_LOSS:
                member.lose_power()
                hosts.power_off(plan.site)
            case Fault.CRASH:
                member.crash()
            case Fault.FREEZE:
                hosts.freeze(plan.site)
            case Fault.SLOW:
                hosts.slow_s = plan.slow_s
            case _:
                hosts.cut(plan.links())

    def _end_fault(self, plan: Planned) -> None:
        hosts = self.hosts
        hosts.say("fault", "over")
        match plan.fault:
            case Fault.POWER_LOSS:
                hosts.power_on(plan.site)
                self._at(
                    self.clock.elapsed_s + 0.2, self.controllers[plan.site].restart, host=plan.site
                )
                if plan.site in self.entries:
                    self._at(
                        self.clock.elapsed_s + 0.2, self.entries[plan.site].restart, host=plan.site
                    )
            case Fault.FREEZE:
                hosts.thaw(plan.site)
            case Fault.SLOW:
                hosts.slow_s = 0.0
            case _:
                hosts.mend()

    def _write_unasked(self) -> None:
        """Under the drill's own name, past every entry."""
        for member in self.members.values():
            member.insert(f"{PREFIX}nobody-{member.name}", self.fresh_sha256(), lambda _: None)
