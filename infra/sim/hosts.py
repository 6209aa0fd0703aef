"""Simulated time and the hosts that live in it: an agenda of what happens next, and who is there to do it.

Everything a host does is an entry of the agenda. A frozen host does what it missed when it thaws, late
and in order, as a real one does; a host that lost power never does it, and neither does its next life.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from zaibei.kernel.clock import SimClock

T = TypeVar("T")
Act = Callable[[], None]

EVENTS_MAX = 2_000_000  # of one world: a loop that feeds itself must end
TRACE_MAX = 400  # lines; the trace is for people


@dataclass
class Host:
    name: str
    up: bool = True
    frozen: bool = False
    life: int = 0  # grows with every loss of power
    missed: deque[tuple[int, Act]] = field(default_factory=deque)


class Hosts:
    """The agenda, the hosts, and the network between them."""

    def __init__(self, names: Iterable[str], clock: SimClock, rng: random.Random) -> None:
        self.clock, self.rng = clock, rng
        self.hosts = {name: Host(name) for name in names}
        self.trace: deque[str] = deque(maxlen=TRACE_MAX)
        self._agenda: list[tuple[float, int, str, int, Act]] = []
        self._entries = 0
        self._cut: set[tuple[str, str]] = set()
        self._arrives_s: dict[tuple[str, str], float] = {}
        self.slow_s = 0.0  # added to every hop between sites

    @property
    def now_s(self) -> float:
        return self.clock.elapsed_s

    def say(self, who: str, what: str) -> None:
        self.trace.append(f"{self.now_s:9.4f}  {who:<8} {what}")

    def after(self, delay_s: float, host: str, act: Act) -> None:
        self.at(self.now_s + delay_s, host, act)

    def at(self, at_s: float, host: str, act: Act) -> None:
        """`act` on `host`, unless it loses power before. What is due at one moment keeps its order."""
        assert at_s >= self.now_s, "time does not go back"
        self._entries += 1
        assert self._entries <= EVENTS_MAX, "a world that does not end"
        entry = (at_s, self._entries, host, self.hosts[host].life, act)
        heapq.heappush(self._agenda, entry)

    def run_until(self, end_s: float) -> None:
        while self._agenda and self._agenda[0][0] <= end_s:
            at_s, _, name, life, act = heapq.heappop(self._agenda)
            assert at_s >= self.now_s, "time does not go back"
            self.clock.elapsed_s = at_s
            host = self.hosts[name]
            if not host.up or host.life != life:
                continue
            if host.frozen:
                host.missed.append((life, act))
            else:
                act()
        self.clock.elapsed_s = max(self.now_s, end_s)

    def in_this_life(self, host: str, act: Callable[[T], None]) -> Callable[[T], None]:
        """An answer to a question that a host asked before it lost power is an answer to nobody."""
        life = self.hosts[host].life

        def still(answer: T) -> None:
            if self.hosts[host].life == life:
                act(answer)

        return still

    # -- the network ------------------------------------------------------------------------------

    def send(self, source: str, dest: str, act: Act) -> None:
        """One message. In order on each link; silently gone when the link is cut at either end of its way.

        It is put on the wire by a host that runs, and waits in the socket of one that is frozen.
        """
        if not self.open(source, dest):
            return
        hop_s = self.rng.uniform(0.0002, 0.002)
        if source != dest:
            hop_s += self.slow_s
        link = (source, dest)
        arrives_s = max(self.now_s + hop_s, self._arrives_s.get(link, 0.0))
        self._arrives_s[link] = arrives_s

        def arrive() -> None:
            if self.open(source, dest):
                act()

        self.at(arrives_s, dest, arrive)

    def open(self, source: str, dest: str) -> bool:
        return (source, dest) not in self._cut

    def cut(self, links: Iterable[tuple[str, str]]) -> None:
        self._cut |= set(links)

    def mend(self) -> None:
        self._cut.clear()

    def runs(self, name: str) -> bool:
        host = self.hosts[name]
        return host.up and not host.frozen

    # -- what happens to a host -------------------------------------------------------------------

    def power_off(self, name: str) -> None:
        host = self.hosts[name]
        host.up, host.life, host.frozen = False, host.life + 1, False
        host.missed.clear()

    def power_on(self, name: str) -> None:
        self.hosts[name].up = True

    def freeze(self, name: str) -> None:
        self.hosts[name].frozen = True

    def thaw(self, name: str) -> None:
        host = self.hosts[name]
        host.frozen = False
        missed = list(host.missed)
        host.missed.clear()
        for _, act in missed:
            self.after(0.0, name, act)
