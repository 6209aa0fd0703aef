"""The public entry of a site: routes a write to the writer, and says in the service's words what came of it.

Answers are the bytes of the health code service (`POST /sample/register`), so that whoever reads them in
the simulation is the code that reads them in a drill. Each request keeps what really happened to it: that
is the ground truth.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from infra.sim.hosts import Hosts
from infra.sim.member import Committed, Member, NotWriter, Sabotage, Said

CHECK_S = 0.2  # between looks at who writes
FRESH_S = 0.6  # a look that old is no longer believed
COMMAND_S = 0.9  # the service waits so long for the database, then nobody knows
CLIENTS = "clients"  # their host: outside every site

OnAnswer = Callable[[int, bytes], None]


@dataclass
class Call:
    """One request of a client, as the world saw it."""

    op_id: str
    sha256: str
    door: str
    began_s: float
    left_s: float | None = None  # the first byte
    closed_s: float | None = None  # the client turned away; what comes later reaches nobody
    reached_s: float | None = None  # the member that was asked had it
    acknowledged_by: str | None = None  # a member, whether or not the client heard of it
    told_s: float | None = None  # the client heard
    told_applied: bool | None = None  # what it heard; None with told_s: "nobody knows"
    told_epoch: int | None = None


@dataclass
class Entry:
    site: str
    hosts: Hosts
    members: dict[str, Member]
    calls: list[Call]
    sabotage: Sabotage | None = None
    _writers: dict[str, float] = field(default_factory=dict)  # said "I write", and when

    def restart(self) -> None:
        self._writers.clear()
        self.watch()

    def watch(self) -> None:
        self.hosts.after(CHECK_S, self.site, self.watch)
        for member in self.members.values():
            self._ask(member)

    def _ask(self, member: Member) -> None:
        def here() -> None:
            says = member.writer
            self.hosts.send(member.name, self.site, lambda: heard(says))

        def heard(says: bool) -> None:
            if says:
                self._writers[member.name] = self.hosts.now_s
            else:
                self._writers.pop(member.name, None)

        self.hosts.send(self.site, member.name, here)

    def _writer(self) -> Member | None:
        fresh = [m for m, s in self._writers.items() if self.hosts.now_s - s < FRESH_S]
        # Its own site's first: with two writers each entry would go on with the one it knows.
        fresh.sort(key=lambda name: (name != self.site, name))
        return self.members[fresh[0]] if fresh else None

    # -- from the clients' side -------------------------------------------------------------------

    def dial(self, connected: Callable[[], None]) -> None:
        def here() -> None:
            self.hosts.send(self.site, CLIENTS, connected)

        self.hosts.send(CLIENTS, self.site, here)

    def ask(self, call: Call, answer: OnAnswer) -> None:
        call.left_s = self.hosts.now_s
        self.calls.append(call)
        self.hosts.send(CLIENTS, self.site, lambda: self._serve(call, answer))

    def _serve(self, call: Call, answer: OnAnswer) -> None:
        writer = self._writer()
        said: list[Said | None] = []

        def finish(what: Said | None) -> None:
            if not said:
                said.append(what)
                status, body = self._say(call, what)
                self.hosts.send(self.site, CLIENTS, lambda: told(status, body))

        def told(status: int, body: bytes) -> None:
            if call.closed_s is None:
                call.told_s = self.hosts.now_s
                fact = json.loads(body)
                call.told_applied = True if status in (200, 201) else fact["applied"]
                call.told_epoch = fact.get("epoch")
                answer(status, body)

        if writer is None:
            finish(NotWriter())
            return
        heard = self.hosts.in_this_life(self.site, finish)

        def there() -> None:
            call.reached_s = self.hosts.now_s
            writer.insert(call.op_id, call.sha256, back)

        def back(what: Said) -> None:
            if isinstance(what, Committed):
                call.acknowledged_by = writer.name
            self.hosts.send(writer.name, self.site, lambda: heard(what))

        self.hosts.send(self.site, writer.name, there)
        self.hosts.after(COMMAND_S, self.site, lambda: finish(None))

    def _say(self, call: Call, what: Said | None) -> tuple[int, bytes]:
        match what:
            case Committed():
                body = {"key": call.op_id, "epoch": what.epoch, "copies": what.copies}
                return 200 if what.replay else 201, json.dumps(body).encode()
            case NotWriter():
                return 503, b'{"applied":false}'
            case _ if self.sabotage is Sabotage.DENY:
                return 503, b'{"applied":false}'
            case _:
                return 504, b'{"applied":null}'
