"""Ships WAL from the writer into the vaults, seconds behind: pg_receivewal fills a spool, we seal
what it writes.

Per round and vault: finished segments and histories that the vault lacks, then the new bytes of the
growing segment. A vault that does not answer holds up its own shipper only; the spool holds what it
lacks. pg_receivewal reports a byte as flushed when it is in the spool, and the slot lets go of it
then: the spool is on a durable disk, and what is only there is the lag that `status` reports.

The server is asked who it is before anything else, and each cluster has its own folder of the
spool: what an earlier cluster left there is never shipped. Another cluster behind the same address
ends the archiver.
"""

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Final, Self

from backup.format.wal_segment import SEGMENT_BYTES, gaps, is_segment, parse_segment, say_lsn
from backup.postgres import spool
from backup.postgres.upstream import Upstream, ask
from backup.postgres.wal_age import Age
from backup.postgres.wal_shipper import PARTIAL, WalShipper, grown
from backup.repository.repository import Repository
from backup.status import VaultLag, WalStatus
from backup.wal.archive import Archive
from infra.postgres.server import BIN, system_identifier
from zaibei.kernel import environment, process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Refused, ZaibeiError, in_a_line

SLOT: Final = "zaibei_wal"
INTERVAL: Final = timedelta(
    milliseconds=500
)  # a busy database costs two objects a second and vault
BACKOFF_MIN: Final = timedelta(milliseconds=500)
BACKOFF_MAX: Final = timedelta(seconds=5)
SPOOL_BYTES_MAX: Final = 8 << 30
_ASK_EVERY = 2.0  # seconds: a connection to the server each
_SETTLED = 0.5  # seconds: a receiver that is refused ends before
_NOTES_MAX = 20
_STOP_WITHIN = timedelta(seconds=10)
_BREATH = 0.05  # seconds between two rounds, however long the first one took


class WalArchiver:
    """Use as a context manager; call `run` in a thread, or `poll` yourself. `status` from any thread."""

    def __init__(
        self,
        *,
        conninfo: str,
        password: str | None,
        repositories: Sequence[Repository],
        spool: Path,
        clock: Clock,
        slot: str = SLOT,
        epoch_of: Callable[[int], int] = lambda timeline: timeline,
        retain: timedelta | None = None,
        spool_bytes_max: int = SPOOL_BYTES_MAX,
        system: int | None = None,
        behind: timedelta = timedelta(0),
    ) -> None:
        """`behind`: how old what is not archived was when an archiver last said so, until now. `system`: the only cluster to take WAL from; its spool is shipped before a server answers. None:
        the first one that answers."""
        self._password = password
        self._conninfo, self._slot, self._clock = conninfo, slot, clock
        self._env = environment.postgres(password)
        self._spools, self._epoch_of, self._retain = spool, epoch_of, retain
        self._spool_max = spool_bytes_max
        self._repositories = tuple(repositories)
        self._lanes: list[WalShipper] = []  # none before it is known whose log it is
        self._pool = ThreadPoolExecutor(len(self._repositories), thread_name_prefix="wal")
        self._child: subprocess.Popen[bytes] | None = None
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="upstream")
        self._answer: Future[tuple[float, object, Upstream]] | None = None
        self._asked_at = -_ASK_EVERY
        self._upstream: Upstream | None = None
        self._not_before = 0.0
        self._backoff = BACKOFF_MIN
        self._started_at = 0.0
        self._starts = 0
        # The receiver's words; in memory: the spool's disk may be full.
        self._said: IO[bytes] | None = None
        self._error: str | None = None
        self._notes: list[str] = []
        # Until the first start a look at the spool is all there is; from then on the server's word counts.
        self._streaming = True
        self._age = Age(known=clock.monotonic() - behind.total_seconds())
        self._filled = "", 0  # the growing file, and how far it was seen written
        self._system = system
        self._refused: Refused | None = None
        self._following = True

    def __enter__(self) -> Self:
        if self._system is not None:
            self._belong(self._system)
        return self

    def __exit__(self, *gone: object) -> None:
        self.stop()
        self._pool.shutdown(cancel_futures=True)
        self._asking.shutdown(cancel_futures=True)

    def run(
        self, stop: threading.Event, *, told: Callable[[WalStatus], None] = lambda _: None
    ) -> None:
        """Until `stop` is set, then one last round. `told` hears the status after each. Raises Refused, after
        that round too, when another cluster answers than the one whose log this is."""
        while not stop.is_set() and self._refused is None:
            begun = self._clock.monotonic()
            self.poll()
            told(self.status())
            # Counted from the round's beginning: a vault that hangs uses the wait up, and a second one
            # after it would double the lag of every other vault.
            rest = INTERVAL.total_seconds() - (self._clock.monotonic() - begun)
            stop.wait(max(_BREATH, rest))
        self.stop()
        # Two: a shipper may be busy with what it saw before the last bytes came.
        for _ in range(2):
            self.poll(receive=False, wait_for=_STOP_WITHIN)
        # What a vault lacks now goes on ageing, and so does the log of a cluster that is no longer there.
        self._following = self._refused is not None or not self._level()
        told(self.status())
        if self._refused is not None:
            raise self._refused

    def poll(self, *, receive: bool = True, wait_for: timedelta = INTERVAL) -> None:
        """One round: mind the receiver, hand every idle lane its work, wait a little for them."""
        if receive and self._refused is None:
            self._mind()
            self._hear()
        if self._system is None:
            # Nobody has said whose log this is: nothing may be shipped.
            return
        self._look()
        for lane in self._lanes:
            if lane.running is None or lane.running.done():
                lane.running = self._pool.submit(lane.ship, self._until())
        running = [lane.running for lane in self._lanes if lane.running is not None]
        wait(running, timeout=wait_for.total_seconds())
        self._sweep()

    def stop(self) -> None:
        """End pg_receivewal; it closes its file cleanly."""
        child, self._child = self._child, None
        if child is None:
            return
        process.end(child, within=_STOP_WITHIN)
        self._streaming = False

    def _level(self) -> bool:
        """Whether every vault holds all that was received."""
        return all(lane.position == self._age.newest for lane in self._lanes)

    def lag(self) -> timedelta | None:
        """How old the oldest byte may be that was received and is not in every vault; while nothing is
        received, at least as old as that."""
        self._look()
        return self._worst()

    def _worst(self) -> timedelta | None:
        lags = [self._lag(lane) for lane in self._lanes]
        return None if None in lags or not lags else max(v for v in lags if v is not None)

    def status(self) -> WalStatus:
        self._look()
        newest, up = self._age.newest, self._upstream
        missing = [g for lane in self._lanes for g in gaps(lane.items())]
        return WalStatus(
            receiving=self._child is not None and self._streaming,
            restarts=max(0, self._starts - 1),
            received_lsn=say_lsn(newest[1]) if newest else None,
            timeline=newest[0] if newest else None,
            spool_bytes=sum(_size(p) for p in self._spool.iterdir()) if self._system else 0,
            lag=self._worst(),
            vaults=tuple(self._told(r) for r in self._repositories),
            error=self._error,
            gaps=tuple(dict.fromkeys(missing)),
            system=self._system,
            held_bytes=up.held_bytes if up else None,
            spool_free_bytes=spool.free_bytes(self._spool) if self._system else None,
            notes=tuple(self._notes[-_NOTES_MAX:]),
            following=self._following,
        )

    def _told(self, repo: Repository) -> VaultLag:
        """Every vault is told of, also while nothing is known: none at all would read as none behind."""
        for lane in self._lanes:
            if lane.archive.repository is repo:
                return VaultLag(
                    vault=repo.name,
                    archived_lsn=say_lsn(lane.position[1]) if lane.position else None,
                    lag=self._lag(lane),
                    error=lane.error,
                )
        return VaultLag(vault=repo.name, archived_lsn=None, lag=None, error=None)

    @property
    def _spool(self) -> Path:
        assert self._system is not None, "whose spool?"
        return self._spools / str(self._system)

    # the receiver

    def _belong(self, system: int) -> None:
        spool = self._spools / str(system)
        spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lanes = [
            WalShipper(archive=Archive(r, system), spool=spool, epoch_of=self._epoch_of)
            for r in self._repositories
        ]
        # Last: another thread may ask for the status meanwhile, and then the folder has to be there.
        self._system = system

    def _who(self) -> None:
        """Raises Refused when it is not whose log this is."""
        found = system_identifier(self._conninfo, self._password)
        if self._system is None:
            self._belong(found)
        elif found != self._system:
            raise Refused(
                f"the server is of system {found}, this archive is of system {self._system}:"
                " another cluster is behind the same doors",
                hint="if that is meant, start the archiver again: the new cluster gets an archive of its own",
            )

    def _mind(self) -> None:
        now = self._clock.monotonic()
        if self._child is not None:
            code = self._child.poll()
            if code is None:
                return
            self._child, self._streaming = None, False
            said = spool.last_words(self._said, self._spool)
            self._error = f"pg_receivewal: exit {code}: {said}"
            if spool.forked(said):
                spool.set_aside(self._spool, now=self._clock.now())
            self._later(now)
        if now >= self._not_before:
            self._begin(now)

    def _begin(self, now: float) -> None:
        common = ["--no-password", "-d", self._conninfo, "-S", self._slot]
        tool = str(BIN / "pg_receivewal")
        self._streaming = False
        try:
            # Every time: whoever answers now need not be who answered before.
            self._who()
            # Every time: after a failover the new writer may not have the slot yet.
            process.run(
                [tool, "--create-slot", "--if-not-exists", *common],
                deadline=timedelta(seconds=15),
                env=self._env,
            )
            self._notes += spool.set_right(self._spool, now=self._clock.now())
            self._said = os.fdopen(os.memfd_create("pg_receivewal"), "w+b")
            # --no-loop: its own loop sleeps 5 s and cannot be seen from here; ours is bounded and told.
            self._child = process.start(
                [tool, "--no-loop", "--synchronous", "-D", self._spool, *common],
                stdout=self._said,
                stderr=subprocess.STDOUT,
                env=self._env,
            )
        except (ZaibeiError, OSError) as bad:
            self._error = in_a_line(bad)
            self._refused = bad if isinstance(bad, Refused) else None
            self._later(now)
            return
        self._starts += 1
        self._started_at = now
        # It writes the growing segment again from its start; after a failover maybe with other bytes.
        for lane in self._lanes:
            lane.shipped = {}

    def _later(self, now: float) -> None:
        self._not_before = now + self._backoff.total_seconds()
        self._backoff = min(self._backoff * 2, BACKOFF_MAX)

    def _hear(self) -> None:
        """What the server answered, and the next question. Beside the rounds: a server that hangs holds up no vault."""
        now = self._clock.monotonic()
        if self._answer is not None and self._answer.done():
            answer, self._answer = self._answer, None
            try:
                at, child, up = answer.result()
            except ZaibeiError as bad:
                self._streaming = False
                self._error = self._error or in_a_line(bad)
            else:
                self._heard(at, child, up)
        if self._answer is None and now - self._asked_at >= _ASK_EVERY and self._system is not None:
            self._asked_at = now
            child = self._child
            self._answer = self._asking.submit(
                lambda: (now, child, ask(self._conninfo, self._slot, self._env))
            )

    def _heard(self, at: float, child: object, up: Upstream) -> None:
        if up.system != self._system:
            return  # the next start of the receiver refuses it
        self._upstream = up
        # The same receiver lived before and after the question, and long enough to have been refused: it streams,
        # and the slot's place is how far it got. Else another program may hold the slot.
        same = self._child is not None and child is self._child and self._child.poll() is None
        ours = same and at - self._started_at >= _SETTLED
        self._streaming = ours and up.restart is not None
        if self._streaming:
            self._backoff, self._error = BACKOFF_MIN, None
        self._age.sample(at, up.position, restart=up.restart, ours=ours, spool=self._age.newest)

    # the vaults

    def _look(self) -> None:
        """How far has the receiver got? What is new may have come right after the look before: that is the
        age it is given, so that no lag is told as less than it is."""
        if self._system is None:
            return
        now = self._clock.monotonic()
        names = [p.name for p in self._spool.iterdir()]
        newest = max((n for n in names if is_segment(n.removesuffix(PARTIAL))), default=None)
        if newest is None:
            return
        timeline, segment = parse_segment(newest.removesuffix(PARTIAL))
        filled = SEGMENT_BYTES
        if newest.endswith(PARTIAL):
            # Only what is new is read: nobody writes below what was there.
            name, known = self._filled
            start = known if name == newest else 0
            filled = start + len(grown(self._spool / newest, start) or b"")
            self._filled = newest, filled
        position = (timeline, segment * SEGMENT_BYTES + filled)
        alive = self._child is None or self._child.poll() is None
        self._age.look(now, position, streaming=self._streaming and alive)

    def _lag(self, lane: WalShipper) -> timedelta | None:
        age = self._age.of(lane.position, self._clock.monotonic())
        return None if age is None else timedelta(seconds=age)

    def _sweep(self) -> None:
        """Let go of what every vault holds; the newest stays, pg_receivewal finds its place by it."""
        positions = [lane.position for lane in self._lanes]
        held = [p for p in positions if p is not None]
        if len(held) == len(positions):
            self._age.forget(min(held))
        spool.sweep(self._spool, lambda name: all(name in lane.done for lane in self._lanes))
        files = sorted(p for p in self._spool.iterdir() if is_segment(p.name))
        # Beyond the bound one vault's copy is enough: the other is healed from it later. A full disk
        # here would stop the receiver, and then the primary's disk fills behind the slot.
        full = len(files) * SEGMENT_BYTES > self._spool_max
        enough = any if full else all
        for path in files[:-1]:
            if enough(path.name in lane.done for lane in self._lanes):
                path.unlink(missing_ok=True)

    def _until(self) -> datetime | None:
        return None if self._retain is None else self._clock.now() + self._retain


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
