"""What a database holds, in a form that can be compared: rows and a checksum a table.

The checksum adds the first 64 bits of SHA-256 of every row's text, modulo 2**64. Order does not matter,
a row that is there twice counts twice, and the server does the work. It finds accidents, not forgers:
who can choose rows can make sums meet.
"""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from infra.data.load import connected

_TABLES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND (n.nspname, c.relname) <> ('zaibei_catalogue', 'load')
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
"""
_SUM = """
SELECT count(*), mod(coalesce(sum(
    ('x' || encode(substr(sha256(convert_to(t::text, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint::numeric
), 0), 18446744073709551616) FROM {} AS t
"""
# A standby answers as well: that is how a copy is compared with its original.
_PLACE = """
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
       current_database()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    name: str  # schema.table
    rows: int
    checksum: str  # 16 hexadecimal digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    database: str
    lsn: str | None  # about when: the snapshot is this or a little later
    tables: tuple[TableFacts, ...]


def facts(dsn: str, password: str | None = None) -> Facts:
    """All tables in one snapshot. Raises Unreachable."""
    with connected(dsn, password, snapshot=True) as conn:
        place = conn.execute(_PLACE).fetchone()
        assert place is not None
        names = conn.execute(_TABLES).fetchall()
        return Facts(
            database=place[1],
            lsn=place[0],
            tables=tuple(_table(conn, schema, table) for schema, table in names),
        )


def _table(conn: psycopg.Connection, schema: str, table: str) -> TableFacts:
    found = conn.execute(sql.SQL(_SUM).format(sql.Identifier(schema, table))).fetchone()
    assert found is not None
    return TableFacts(
        name=f"{schema}.{table}", rows=found[0], checksum=f"{int(found[1]) % (1 << 64):016x}"
    )
