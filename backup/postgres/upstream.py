"""Ask the server whose log it is, how far it has written, and what the slot makes it keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from psycopg.conninfo import make_conninfo

from backup.format import wal_segment
from backup.postgres.wal_shipper import Position
from infra.postgres.server import BIN
from zaibei.kernel import process
from zaibei.kernel.errors import ToolFailed

ASK_WITHIN: Final = timedelta(seconds=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """`restart`: from here on the slot keeps the log; None: there is no slot yet."""

    system: int
    position: Position
    restart: int | None

    @property
    def held_bytes(self) -> int | None:
        return None if self.restart is None else max(0, self.position[1] - self.restart)


def ask(conninfo: str, slot: str, env: Mapping[str, str]) -> Upstream:
    """As a receiver of the log would ask: the right to replicate is enough. Raises ToolFailed."""
    said = process.run(
        [
            *(BIN / "psql", "-X", "-A", "-t", "-q", "--no-password"),
            *("-c", "IDENTIFY_SYSTEM", "-c", f"READ_REPLICATION_SLOT {slot}"),
            *("-d", make_conninfo(conninfo, replication="true")),
        ],
        deadline=ASK_WITHIN,
        env=env,
    )
    lines = [line.split("|") for line in said.splitlines()]
    try:
        system, timeline, at, *_ = lines[0]
        restart = lines[1][1] if len(lines) > 1 else ""
        return Upstream(
            system=int(system),
            position=(int(timeline), wal_segment.lsn(at)),
            restart=wal_segment.lsn(restart) if restart else None,
        )
    except (ValueError, IndexError) as odd:
        raise ToolFailed(f"IDENTIFY_SYSTEM: not an answer: {said[:200]!r}") from odd
