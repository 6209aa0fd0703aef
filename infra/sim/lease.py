"""The lease service: who may write, who is proven to hold everything, who was heard of lately.

One linearizable register on a majority of the sites, as etcd is. A site speaks to it when its words reach
a majority, and hears from it when a majority's words reach the site; with a link cut in one direction
a request may be carried out and its answer lost.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from infra.sim.hosts import Hosts

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one answer says."""

    leader: str | None  # None: the lease ran out or was given back
    epoch: int  # of the last leader; strictly growing
    sync_version: int
    sync: tuple[str, ...]  # who may be promoted: the last leader and its proven standby
    members: frozenset[str]  # heard of within the time to live


@dataclass
class Register:
    """The state itself. Every method is one atomic step."""

    ttl_s: float
    holder: str | None = None
    until_s: float = 0.0
    epoch: int = 0
    sync_version: int = 0
    sync: tuple[str, ...] = ()
    heard_s: dict[str, float] = field(default_factory=dict)

    def look(self, name: str, now_s: float) -> View:
        """Tells that the member lives, renews its lease when it still has it, and reads."""
        self.heard_s[name] = now_s
        if self.holder == name and now_s < self.until_s:
            self.until_s = now_s + self.ttl_s
        return self.view(now_s)

    def acquire(self, name: str, now_s: float) -> int | None:
        """The new epoch, or None: somebody else has it."""
        if self.holder is not None and now_s < self.until_s:
            return None
        self.holder, self.until_s = name, now_s + self.ttl_s
        self.epoch += 1
        return self.epoch

    def release(self, name: str) -> None:
        if self.holder == name:
            self.holder = None

    def set_sync(self, sync: tuple[str, ...], *, version: int) -> int | None:
        """Compare and set. The new version, or None: somebody changed it since."""
        if version != self.sync_version:
            return None
        self.sync, self.sync_version = sync, version + 1
        return self.sync_version

    def view(self, now_s: float) -> View:
        return View(
            leader=self.holder if now_s < self.until_s else None,
            epoch=self.epoch,
            sync_version=self.sync_version,
            sync=self.sync,
            members=frozenset(m for m, s in self.heard_s.items() if now_s - s < self.ttl_s),
        )


class LeaseService:
    def __init__(self, hosts: Hosts, sites: tuple[str, ...], ttl_s: float) -> None:
        self.register = Register(ttl_s=ttl_s)
        self._hosts, self._sites = hosts, sites

    def call(
        self, site: str, step: Callable[[Register, float], T], then: Callable[[T], None]
    ) -> None:
        """`then` on the site, or never."""
        hosts = self._hosts

        def served() -> None:
            # The step is taken by the majority and not by the site: it may lose power meanwhile.
            if self._majority(lambda other: hosts.open(site, other), site):
                answer = step(self.register, hosts.now_s)
                hosts.after(self._hop_s(), "quorum", lambda: answered(answer))

        def answered(answer: T) -> None:
            if self._majority(lambda other: hosts.open(other, site), site):
                hosts.after(0.0, site, lambda: then(answer))

        then = hosts.in_this_life(site, then)
        hosts.after(self._hop_s(), "quorum", served)

    def _majority(self, reached: Callable[[str], bool], site: str) -> bool:
        hosts = self._hosts
        votes = sum(hosts.runs(s) and (s == site or reached(s)) for s in self._sites)
        return 2 * votes > len(self._sites)

    def _hop_s(self) -> float:
        return self._hosts.rng.uniform(0.0005, 0.004) + self._hosts.slow_s
