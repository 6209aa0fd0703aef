"""Counts rows and computes checksums of tables in SQL, so that memory is bounded; checks
acknowledged ids one by one.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

import psycopg
from psycopg import sql

from backup.format.point import TableFacts
from zaibei.kernel.errors import Usage

BATCH: Final = 5000
# A row's text must not depend on who asks.
_SETTINGS = (
    "SET DateStyle = 'ISO, YMD'; SET TimeZone = 'UTC'; SET IntervalStyle = 'postgres';"
    " SET extra_float_digits = 3; SET bytea_output = 'hex'; SET search_path = pg_catalog"
)
_TABLES = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
AND n.nspname NOT LIKE 'pg_toast%' ORDER BY 1, 2
"""


def table_facts(dsn: str) -> dict[str, TableFacts]:
    """Every ordinary table of one database, as of one moment, by `schema.table`.

    Equal facts of two databases mean equal contents only when nobody wrote between: compare with a
    stopped source, or compare what the ledger acknowledged (`missing_ids`).
    """
    out: dict[str, TableFacts] = {}
    with psycopg.connect(dsn) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for line in _SETTINGS.split(";"):
            connection.execute(line.encode())
        for schema, table in connection.execute(_TABLES).fetchall():
            row = connection.execute(
                sql.SQL(
                    "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text"
                    " FROM {} t"
                ).format(sql.Identifier(schema, table))
            ).fetchone()
            assert row is not None, "an aggregate has a row"
            out[f"{schema}.{table}"] = TableFacts(rows=row[0], checksum=row[1])
    return out


def missing_ids(dsn: str, table: str, column: str, ids: Iterable[str]) -> Iterator[str]:
    """Those of `ids` that have no row, in order, in batches. `table` is `schema.table` or `table`.

    Raises Usage when there is no such table or column: an id is not missing because we looked elsewhere.
    """
    name = sql.Identifier(*table.split("."))
    with psycopg.connect(dsn) as connection:
        type_ = connection.execute(
            "SELECT format_type(atttypid, NULL) FROM pg_attribute"
            " WHERE attrelid = to_regclass(%s) AND attname = %s AND NOT attisdropped",
            (name.as_string(connection), column),
        ).fetchone()
        if type_ is None:
            raise Usage(f"no column {column} in a table {table}")
        query = sql.SQL("SELECT {c}::text FROM {t} WHERE {c} = ANY(%s::text[]::{y}[])").format(
            c=sql.Identifier(column), t=name, y=sql.SQL(type_[0])
        )
        rest = iter(ids)
        while batch := list(itertools.islice(rest, BATCH)):
            found = {r[0] for r in connection.execute(query, (batch,))}
            yield from (i for i in batch if i not in found)
