"""A PostgreSQL of one's own on loopback, with the databases and roles of a stack: for tests and trials.

It listens on 127.0.0.1 at a free port, keeps everything in a directory that is removed at the end, and is
ended by pg_ctl with its own data directory.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from infra.data.world import DATABASES
from zaibei.kernel.errors import Missing
from zaibei.kernel.process import run

_BIN = Path("/usr/lib/postgresql/15/bin")
_DEADLINE = timedelta(seconds=60)
ROLES = ("zaibei_loader", "zaibei_app", "zaibei_probe", "zaibei_backup")
PASSWORD = "loopback"  # of every role; the server is reachable from this machine alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Loopback:
    port: int
    data: Path

    def dsn(self, database: str, user: str = "zaibei_loader") -> str:
        return f"host=127.0.0.1 port={self.port} dbname={database} user={user} connect_timeout=5"

    def start(self) -> None:
        self._pg_ctl("start", "-w", "-l", str(self.data / "log"))

    def stop(self, mode: str = "fast") -> None:
        self._pg_ctl("stop", "-w", "-m", mode)

    def _pg_ctl(self, *arguments: str) -> None:
        run([_BIN / "pg_ctl", "-D", self.data, *arguments], deadline=_DEADLINE, user=_user())


@contextmanager
def postgres(settings: Mapping[str, str] | None = None) -> Iterator[Loopback]:
    """A running server; `settings` go into postgresql.conf."""
    if not (_BIN / "initdb").exists():
        raise Missing("PostgreSQL 15 is not installed", hint="apt-get install postgresql-15")
    home = Path(tempfile.mkdtemp(prefix="zaibei-pg-"))
    try:
        if (user := _user()) is not None:
            shutil.chown(home, user, user)
        data = home / "data"
        options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        run([_BIN / "initdb", "-D", data, *options], deadline=_DEADLINE, user=user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        lines = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(home),
            "fsync": "off",
            "max_wal_size": "2GB",
        } | dict(settings or {})
        with (data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{k} = '{v}'\n" for k, v in lines.items())
        server = Loopback(port=port, data=data)
        server.start()
        try:
            _furnish(home, port)
            yield server
        finally:
            # Not running any more is what a test that crashed it wanted.
            if (data / "postmaster.pid").exists():
                server.stop("immediate")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _furnish(home: Path, port: int) -> None:
    script = "".join(f"CREATE ROLE {r} LOGIN PASSWORD '{PASSWORD}';\n" for r in ROLES)
    script += "GRANT pg_read_all_data TO zaibei_probe, zaibei_backup;\n"
    script += "".join(f"CREATE DATABASE {d} OWNER zaibei_loader;\n" for d in DATABASES)
    psql: list[str | Path] = [
        _BIN / "psql",
        "-X",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-h",
        home,
        "-p",
        str(port),
    ]
    run([*psql, "-U", "postgres", "postgres"], stdin=script.encode(), deadline=_DEADLINE)


def _user() -> str | None:
    """PostgreSQL refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else None
