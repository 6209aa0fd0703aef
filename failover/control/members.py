"""The two PostgreSQL servers of the negative control: made, started, stopped."""

import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg

from zaibei.kernel import process, tree
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Missing
from zaibei.kernel.process import run
from zaibei.kernel.wait import wait_until

_BIN = Path("/usr/lib/postgresql/15/bin")
_OWNER = "postgres"
_MEMORY = Path("/dev/shm")
_ROOM = "zaibei-control-"
_ROOM_BYTES = 512 << 20  # the members take about 100 MiB
_DEADLINE = timedelta(seconds=20)
_SOON = timedelta(milliseconds=20)
# No TCP: the directory of the socket is 0700 and the member's own, so trust is trust in its owner.
_SETTINGS = """
listen_addresses = ''
unix_socket_permissions = 0700
shared_buffers = 16MB
max_connections = 20
max_wal_senders = 4
max_worker_processes = 2
autovacuum = off
wal_level = replica
hot_standby = on
log_min_messages = warning
wal_receiver_status_interval = 1s
"""
_TABLE = """
CREATE TABLE sample_registration (
  idempotency_key text PRIMARY KEY, payload_sha256 text NOT NULL, epoch int NOT NULL)"""


@dataclass(frozen=True, slots=True)
class _Member:
    data: Path
    socket: Path  # its directory
    user: str | None

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(
            host=str(self.socket), user=_OWNER, dbname=_OWNER, autocommit=True, connect_timeout=5
        )

    def sql(self, statement: str) -> None:
        with self.connect() as at:
            at.execute(statement)

    def one(self, question: str) -> object:
        with self.connect() as at:
            row = at.execute(question).fetchone()
            return None if row is None else row[0]

    def start(self) -> "subprocess.Popen[bytes]":
        """Our own child, and not pg_ctl's, which would leave it to init."""
        with (self.data / "log").open("ab") as log:
            return process.start(
                [_BIN / "postgres", "-D", self.data, "-k", self.socket],
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self.user,
                cwd=self.data,
                dies_by=signal.SIGQUIT,
            )

    def why_not_up(self) -> str | None:
        try:
            self.connect().close()
        except psycopg.OperationalError as not_yet:
            return str(not_yet).strip()
        return None

    def stop(self) -> None:
        self.ctl("stop", "-m", "immediate")

    def promote(self) -> None:
        self.ctl("promote")

    def ctl(self, *what: str) -> None:
        run(
            [_BIN / "pg_ctl", *what, "-w", "-t", "20", "-s", "-D", self.data],
            user=self.user,
            deadline=_DEADLINE,
            cwd=self.data,
        )


class _Members:
    """Members under one directory, each ended when the control ends."""

    def __init__(self, root: Path, user: str | None, ending: ExitStack, clock: Clock) -> None:
        self._root, self._user, self._ending, self._clock = root, user, ending, clock
        self._n = 0

    def first(self) -> _Member:
        member = self._new()
        run(
            [
                *(_BIN / "initdb", "-D", member.data, "-U", _OWNER, "--auth=trust"),
                *("--no-sync", "--wal-segsize=1", "--no-instructions", "--locale=C", "-E", "UTF8"),
            ],
            user=self._user,
            deadline=_DEADLINE,
            cwd=self._root,
        )
        with (member.data / "postgresql.conf").open("a") as conf:
            conf.write(_SETTINGS)
        self._start(member)
        member.sql(_TABLE)
        return member

    def standby_of(self, primary: _Member) -> _Member:
        member = self._new()
        # Before the copy, not after it: the copy brings postgresql.auto.conf along, and a standby that
        # inherits the synchronous setting would wait for itself once it is promoted.
        primary.sql("ALTER SYSTEM RESET ALL")
        primary.sql("SELECT pg_reload_conf()")
        run(
            [
                *(_BIN / "pg_basebackup", "-D", member.data, "-h", primary.socket, "-U", _OWNER),
                *("-R", "-X", "stream", "-c", "fast", "--no-sync"),
            ],
            user=self._user,
            deadline=_DEADLINE,
            cwd=self._root,
        )
        self._start(member)
        return member

    def _new(self) -> _Member:
        self._n += 1
        name = f"m{self._n}"
        socket = self._root / f"{name}.s"
        socket.mkdir(mode=0o700)
        if self._user:
            shutil.chown(socket, self._user, self._user)
        return _Member(self._root / name, socket, self._user)

    def _start(self, member: _Member) -> None:
        self._ending.callback(process.end, member.start(), how=signal.SIGQUIT, within=_DEADLINE)
        wait_until(
            member.why_not_up,
            what="a member of the control to start",
            deadline=_DEADLINE,
            clock=self._clock,
            interval=_SOON,
            hint=f"see {member.data / 'log'}",
        )


def _place() -> Path:
    """In memory where there is room: the control shows replication and fencing, not power loss, and
    three clusters made and removed on the disk would slow the fsyncs of the ledger beside it.

    Both are short, because a socket's path has 107 bytes at the most, and the owner can reach both.
    """
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES:
        return _MEMORY
    return Path("/tmp")


def _sweep() -> None:
    """Rooms of a control that was killed: they take memory, and nothing else will ever remove them."""
    for place in (_MEMORY, Path("/tmp")):
        for room in place.glob(f"{_ROOM}*"):
            owner, _, rest = room.name.removeprefix(_ROOM).partition(".")
            if tree.started(owner) != rest.partition(".")[0]:
                shutil.rmtree(room, ignore_errors=True)


@contextmanager
def _members(rng: random.Random, clock: Clock) -> Iterator[_Members]:
    if not (_BIN / "initdb").exists():
        raise Missing(f"{_BIN / 'initdb'}: no such program", hint="apt-get install postgresql-15")
    _sweep()
    mine = f"{_ROOM}{os.getpid()}.{tree.started('self')}."
    root = Path(tempfile.mkdtemp(prefix=mine, dir=_place()))
    user = _OWNER if os.geteuid() == 0 else None
    try:
        if user:
            shutil.chown(root, user, user)
        with ExitStack() as ending:
            yield _Members(root, user, ending, clock)
    finally:
        shutil.rmtree(root, ignore_errors=True)
