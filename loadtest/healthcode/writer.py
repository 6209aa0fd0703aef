"""Connections to whoever is the writer, that notice when it is another one.

A connection enters the pool only after its server has accepted the service's own INSERT (of no row):
a standby, a read-only server or one without the tables is refused there, before any citizen's write is
tried on it. When one connection turns out bad, all of its age are replaced: after a failover they lead
to the same dead place.
"""

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Any

import asyncpg
import structlog

from loadtest.healthcode.settings import Settings
from zaibei.kernel.errors import Unreachable

# What a database call may raise. InternalClientError is not only for bugs: a FATAL that arrives on an
# idle connection leaves asyncpg in a state that it reports so at the next call.
FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
_log = structlog.get_logger()
_MS = 1000


class Link(asyncpg.Connection):  # type: ignore[misc]
    """A connection that knows its age."""

    age = 0


class Writer:
    """A pool. `warm` are statements with how many arguments each; they must do nothing for NULLs."""

    def __init__(self, settings: Settings, warm: tuple[tuple[str, int], ...]) -> None:
        self._settings = settings
        self._warm = warm
        self._age = 0
        self._pool: Any = None
        self._returning: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connects nothing yet: the service starts also while the database is away."""
        s = self._settings
        hosts, ports = s.hosts()
        self._pool = await asyncpg.create_pool(
            host=hosts,
            port=ports,
            user=s.db_user,
            database=s.db_name,
            password=lambda: s.db_password_file.read_text().strip(),  # read again: it may rotate
            ssl=_tls(s) if s.db_ca_file else False,
            min_size=0,
            max_size=s.pool_size,
            timeout=s.connect.total_seconds(),
            command_timeout=s.command.total_seconds(),
            max_inactive_connection_lifetime=s.idle.total_seconds(),
            max_cached_statement_lifetime=0,  # else the INSERT would be parsed again in its own turn
            connection_class=Link,
            init=self._admit,
            reset=_nothing,  # no session state is ever changed; a RESET ALL would double the round trips
            server_settings={
                "application_name": f"zaibei-health-code/{s.site}",
                # What was acknowledged is on both copies: said here, so that no default of a role or a
                # database can say otherwise.
                "synchronous_commit": "on",
                "client_min_messages": "warning",
                "statement_timeout": str(int(s.statement.total_seconds() * _MS)),
                "lock_timeout": str(int(s.statement.total_seconds() * _MS)),
                "tcp_user_timeout": str(int(s.silent_peer.total_seconds() * _MS)),
                "tcp_keepalives_idle": "5",
                "tcp_keepalives_interval": "2",
                "tcp_keepalives_count": "3",
                "jit": "off",
            },
        )

    async def close(self) -> None:
        if self._pool is not None:
            try:
                async with asyncio.timeout(self._settings.command.total_seconds()):
                    await self._pool.close()
            except TimeoutError:
                self._pool.terminate()

    async def acquire(self) -> Any:
        """An admitted connection. Raises Unreachable: nothing was sent."""
        try:
            return await self._pool.acquire(timeout=self._settings.acquire.total_seconds())
        except FAILURES as error:
            raise Unreachable(f"no writer: {type(error).__name__}: {error}") from error

    def give_back(self, link: Any) -> None:
        """In the background: a connection whose statement timed out first waits for its cancellation,
        and the citizen should not."""
        task = asyncio.get_running_loop().create_task(self._release(link))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def suspect(self, age: int, why: str) -> None:
        """A connection of that age was bad: every one as old is replaced when it is next asked for."""
        if age == self._age:
            self._age += 1
            _log.warning("writer.expired", why=why, age=self._age)
            await self._pool.expire_connections()

    async def _release(self, link: Any) -> None:
        # A connection that broke is out of the pool already; there is nobody to tell.
        with suppress(*FAILURES):
            await self._pool.release(link, timeout=self._settings.command.total_seconds())

    async def _admit(self, link: Link) -> None:
        link.age = self._age
        # asyncpg has no setting for these. Without them a silent partition holds a connection, and the
        # citizen on it, for the kernel's fifteen minutes.
        tcp = link._transport.get_extra_info("socket")
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        silent_ms = int(self._settings.silent_peer.total_seconds() * _MS)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, silent_ms)
        for statement, arguments in self._warm:
            await link.fetch(statement, *[None] * arguments)


async def _nothing(link: Any) -> None: ...


def _tls(settings: Settings) -> ssl.SSLContext:
    """Chain and address: a router's address is among the names of every member that may be behind it."""
    return ssl.create_default_context(cafile=str(settings.db_ca_file))
