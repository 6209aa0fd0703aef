"""A database member: a log, what of it is on disk, and who must have it before a commit is acknowledged.

PostgreSQL's order: a record is written, flushed, then shipped (never before the flush), flushed by the
standby, and then acknowledged. What was not flushed is gone with the power. A standby that follows a new
timeline throws away what that timeline does not have.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from infra.sim.hosts import Hosts

KEEPALIVE_S = 0.2
SILENT_S = 1.0  # a sender or receiver that heard nothing so long is alone


class Sabotage(StrEnum):
    """One way to break a promise. The first five are what goes wrong in real clusters."""

    ASYNCHRONOUS = "asynchronous"  # acknowledged by one copy, promoted without a proof
    NO_FENCE = "no-fence"  # the old leader goes on after its lease, and lets its standby go
    PROMOTE_LAGGING = "promote-lagging"  # anybody may take the lease, the remote member too
    ACK_EARLY = "ack-early"  # acknowledged before the proven standby has it
    NAME_EARLY = "name-early"  # a standby is called proven before it has what came before
    FORGET = "forget"  # a member that is promoted or restarted has lost records that were on disk
    DENY = "deny"  # the service says "not applied" where it does not know
    CORRUPT = "corrupt"  # other bytes are kept than were sent
    PHANTOM = "phantom"  # rows appear that no client asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    op_id: str
    sha256: str
    epoch: int
    replay: bool = (
        False  # a commit that carries nothing, waited for before an old row is told again
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    epoch: int  # of the row: a replay tells the epoch that wrote it
    copies: int
    replay: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NotWriter:
    """Certainly not applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminated:
    """The connection died: applied or not."""


Said = Committed | NotWriter | Terminated
Reply = Callable[[Said], None]


@dataclass
class Feed:
    """The sender's side of one standby."""

    session: int
    sent: int
    acked: int = 0
    heard_s: float | None = None  # since this session began
    leaves_s: float = 0.0  # the last of what was shipped


@dataclass(frozen=True, slots=True)
class _Waiter:
    position: int
    reply: Reply
    epoch: int
    replay: bool


@dataclass
class Member:
    name: str
    hosts: Hosts
    fsync_s: tuple[float, float]
    replication_s: tuple[float, float]
    sabotage: Sabotage | None = None
    forget: int = 3  # records, where the sabotage is FORGET
    peers: dict[str, "Member"] = field(default_factory=dict)
    far: dict[str, tuple[float, float]] = field(default_factory=dict)  # slower to these
    log: list[Record] = field(default_factory=list)
    flushed: int = 0
    epoch: int = 0  # timeline
    writer: bool = False
    sync_with: str | None = None  # a commit waits for its flush; None: acknowledged alone
    feeds: dict[str, Feed] = field(default_factory=dict)
    upstream: str | None = None
    session: int = 0  # of the receiver
    heard_s: float = 0.0
    _rows: dict[str, Record] = field(default_factory=dict)
    _waiting: list[_Waiter] = field(default_factory=list)
    _flushing: bool = False

    # -- as a writer ------------------------------------------------------------------------------

    def insert(self, op_id: str, sha256: str, reply: Reply) -> None:
        if not self.writer:
            reply(NotWriter())
            return
        there = self._rows.get(op_id)
        if self.sabotage is Sabotage.CORRUPT and self.hosts.rng.random() < 0.02:
            sha256 = sha256[::-1]
        row = there or Record(op_id=op_id, sha256=sha256, epoch=self.epoch)
        # A row that is visible here may not be on the standby yet: a replay commits something of its
        # own, later in the log, and waits for that.
        self._append(replace(row, replay=True) if there else row)
        self._waiting.append(_Waiter(len(self.log), reply, row.epoch, there is not None))

    def _append(self, record: Record) -> None:
        self.log.append(record)
        if not record.replay:
            self._rows[record.op_id] = record
        self._flush()

    def _flush(self) -> None:
        # One flush at a time; while it runs the next records gather.
        if self._flushing or self.flushed == len(self.log):
            return
        self._flushing = True
        upto, epoch = len(self.log), self.epoch

        def done() -> None:
            self._flushing = False
            if epoch == self.epoch:  # else the log was cut and grew again meanwhile
                self.flushed = max(self.flushed, min(upto, len(self.log)))
            self._flushed()
            self._flush()

        self.hosts.after(self.hosts.rng.uniform(*self.fsync_s), self.name, done)

    def _flushed(self) -> None:
        if self.writer:
            for standby in list(self.feeds):
                self._ship(standby)
            self.release()
        elif self.upstream is not None:
            self._tell_upstream()

    def release(self) -> None:
        """Answer every commit that has what it must wait for."""
        upto = self.flushed
        if self.sync_with is not None and self.sabotage is not Sabotage.ACK_EARLY:
            feed = self.feeds.get(self.sync_with)
            upto = min(upto, feed.acked if feed else 0)
        ready = [w for w in self._waiting if w.position <= upto]
        self._waiting = [w for w in self._waiting if w.position > upto]
        copies = 2 if self.sync_with else 1
        for w in ready:
            w.reply(Committed(epoch=w.epoch, copies=copies, replay=w.replay))

    def streaming(self, standby: str) -> bool:
        feed = self.feeds.get(standby)
        return (
            feed is not None
            and feed.heard_s is not None
            and self.hosts.now_s - feed.heard_s < SILENT_S
        )

    def acked(self, standby: str) -> int:
        feed = self.feeds.get(standby)
        return feed.acked if feed and feed.heard_s is not None else 0

    def promote(self, epoch: int) -> None:
        # The same one only where its holder crashed and still has the lease: a restart, no new timeline.
        assert epoch >= self.epoch, "an epoch is never used again"
        self.hosts.say(self.name, f"promoted: epoch {epoch}, {len(self.log)} records")
        if self.sabotage is Sabotage.FORGET:
            self._cut_log(max(0, len(self.log) - self.forget))
        self.writer, self.epoch, self.upstream = True, epoch, None
        self.sync_with = None
        self.feeds.clear()
        self._flushing = False
        self._flush()

    def demote(self) -> None:
        if self.writer:
            self.hosts.say(self.name, f"demoted: epoch {self.epoch}, {len(self._waiting)} waiting")
        self.writer, self.sync_with = False, None
        self.feeds.clear()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.reply(Terminated())

    # -- from one to another ----------------------------------------------------------------------

    def _ship(self, standby: str) -> None:
        feed = self.feeds[standby]
        records, begin = tuple(self.log[feed.sent : self.flushed]), feed.sent
        feed.sent = max(feed.sent, self.flushed)
        peer, session, now_s = self.peers[standby], feed.session, self.hosts.now_s
        if records:
            behind_s = self.hosts.rng.uniform(*self.far.get(standby, self.replication_s))
            feed.leaves_s = max(feed.leaves_s, now_s + behind_s)

        def leave() -> None:
            self.hosts.send(self.name, standby, lambda: peer.receive(session, begin, records))

        # It waits here and not on the wire: what a sender was behind with is gone when it is.
        self.hosts.at(max(feed.leaves_s, now_s), self.name, leave)

    def receive(self, session: int, begin: int, records: tuple[Record, ...]) -> None:
        if session != self.session or self.writer:
            return
        self.heard_s = self.hosts.now_s
        if begin != len(self.log):
            self.heard_s = 0.0  # a hole: something was lost on the way; connect again
            return
        for record in records:
            self._append(record)
        self._tell_upstream()

    def _tell_upstream(self) -> None:
        if self.upstream is None:
            return
        peer, session, flushed = self.peers[self.upstream], self.session, self.flushed
        self.hosts.send(self.name, peer.name, lambda: peer.told(self.name, session, flushed))

    def told(self, standby: str, session: int, flushed: int) -> None:
        feed = self.feeds.get(standby)
        if not self.writer or feed is None or feed.session != session:
            return
        feed.heard_s, feed.acked = self.hosts.now_s, max(feed.acked, flushed)
        self.release()

    def follow(self, leader: str) -> None:
        """Connect to the leader, unless it was heard of lately."""
        if self.writer or leader == self.name:
            return
        if self.upstream == leader and self.hosts.now_s - self.heard_s < SILENT_S:
            return
        self.upstream, self.session = leader, self.session + 1
        mine, peer = tuple(self.log), self.peers[leader]
        name, session, epoch = self.name, self.session, self.epoch
        self.heard_s = self.hosts.now_s
        self.hosts.send(name, leader, lambda: peer.connect(name, session, epoch, mine))

    def connect(
        self, standby: str, session: int, their_epoch: int, theirs: tuple[Record, ...]
    ) -> None:
        if not self.writer or their_epoch > self.epoch:
            return
        common = _common(theirs, self.log[: self.flushed])
        self.feeds[standby] = Feed(session=session, sent=common)
        peer, epoch = self.peers[standby], self.epoch
        self.hosts.send(
            self.name, standby, lambda: peer.rewind(session, common, epoch, len(theirs))
        )
        self._ship(standby)

    def rewind(self, session: int, common: int, epoch: int, seen: int) -> None:
        if session != self.session or self.writer:
            return
        assert len(self.log) == seen, "a standby's log grows by its session alone"
        if common < len(self.log):
            self.hosts.say(self.name, f"rewinds {len(self.log) - common} records to epoch {epoch}")
            self._cut_log(common)
        self.epoch, self._flushing = epoch, False
        self.heard_s = self.hosts.now_s
        self._flush()
        self._tell_upstream()

    def keepalive(self) -> None:
        if self.writer:
            for standby in list(self.feeds):
                self._ship(standby)
        self.hosts.after(KEEPALIVE_S, self.name, self.keepalive)

    # -- what happens to it -----------------------------------------------------------------------

    def lose_power(self) -> None:
        """Before the host goes: nobody is told anything."""
        gone = len(self.log) - self.flushed
        self.hosts.say(self.name, f"power lost: {gone} records were not on disk")
        self._crash(self.flushed)

    def crash(self) -> None:
        """The process only: what was written is in the operating system's memory and stays."""
        self.hosts.say(self.name, "the database crashed")
        waiting = self._waiting
        self._crash(len(self.log))
        for waiter in waiting:
            waiter.reply(Terminated())

    def _crash(self, kept: int) -> None:
        if self.sabotage is Sabotage.FORGET:
            kept = max(0, kept - self.forget)
        self._cut_log(kept)
        self.flushed = kept
        self.writer, self.sync_with, self.upstream = False, None, None
        self._waiting, self._flushing = [], False
        self.feeds.clear()
        self.session += 1

    def _cut_log(self, kept: int) -> None:
        del self.log[kept:]
        self.flushed = min(self.flushed, kept)
        self._rows = {r.op_id: r for r in self.log if not r.replay}

    def rows(self) -> tuple[Record, ...]:
        return tuple(self._rows.values())


def _common(theirs: tuple[Record, ...], mine: list[Record]) -> int:
    """How much of two logs is the same history."""
    low, high = 0, min(len(theirs), len(mine))
    # Logs of one history agree up to a place and differ behind it, so the place can be searched for.
    while low < high:
        middle = (low + high + 1) // 2
        if theirs[middle - 1] is mine[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
