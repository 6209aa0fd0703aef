"""Asks a running PostgreSQL server who it is, and where its programs lie."""

from datetime import timedelta
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import make_conninfo

from zaibei.kernel import environment, process
from zaibei.kernel.errors import ToolFailed

BIN: Final = Path("/usr/lib/postgresql/15/bin")
ASK_WITHIN: Final = timedelta(seconds=15)


def databases(dsn: str) -> list[str]:
    """Those that people made or may have written to: all that accept connections, without templates."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1"
        ).fetchall()
    return [str(row[0]) for row in found]


def system_identifier(
    conninfo: str, password: str | None, *, deadline: timedelta = ASK_WITHIN
) -> int:
    """Which cluster answers behind `conninfo`, asked as a receiver of WAL would ask. Raises ToolFailed."""
    said = process.run(
        [
            *(BIN / "psql", "-c", "IDENTIFY_SYSTEM", "-X", "-A", "-t", "-q", "--no-password"),
            *("-d", make_conninfo(conninfo, replication="true")),
        ],
        deadline=deadline,
        env=environment.postgres(password),
    )
    found = said.partition("|")[0].strip()
    if not found.isdecimal():
        raise ToolFailed(f"IDENTIFY_SYSTEM: not an answer: {found!r}")
    return int(found)
