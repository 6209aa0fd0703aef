"""After masking: refreshes everything derived from rows, and removes what kept the originals on
disk.

A view over a view comes after it. One that hides what it reads inside a function's text cannot be
ordered; what it keeps is found by the leak check, and the room stays closed.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import psycopg
from psycopg import sql

from zaibei.kernel.errors import Damage, Refused

DsnFor = Callable[[str], str]
# A view reads more views than each of those that it reads: so their number is an order. Plain views and functions with
# a parsed body stand between two of them.
_VIEWS = """
WITH RECURSIVE reads (kind, above, below_kind, below) AS (
  SELECT 'pg_class'::regclass::oid, r.ev_class, d.refclassid, d.refobjid
  FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
  WHERE d.refobjid <> r.ev_class AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass)
  UNION
  SELECT d.classid, d.objid, d.refclassid, d.refobjid FROM pg_depend d
  WHERE d.classid = 'pg_proc'::regclass AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass)
), reached (view, kind, object) AS (
  SELECT c.oid, 'pg_class'::regclass::oid, c.oid FROM pg_class c WHERE c.relkind = 'm'
  UNION
  SELECT f.view, r.below_kind, r.below FROM reached f JOIN reads r ON r.kind = f.kind AND r.above = f.object
)
SELECT n.nspname, v.relname FROM pg_class v JOIN pg_namespace n ON n.oid = v.relnamespace
JOIN reached f ON f.view = v.oid AND f.kind = 'pg_class'::regclass
JOIN pg_class o ON o.oid = f.object AND o.relkind = 'm'
WHERE v.relkind = 'm' AND v.relispopulated
GROUP BY n.nspname, v.relname ORDER BY count(*), n.nspname, v.relname
"""
_FOREIGN_KEYS = """
SELECT conname, conrelid::regclass::text, confrelid::regclass::text,
  (SELECT array_agg(a.attname ORDER BY k.n) FROM unnest(conkey) WITH ORDINALITY k(num, n)
   JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = k.num),
  (SELECT array_agg(a.attname ORDER BY k.n) FROM unnest(confkey) WITH ORDINALITY k(num, n)
   JOIN pg_attribute a ON a.attrelid = confrelid AND a.attnum = k.num),
  (SELECT array_agg(relnamespace::regnamespace::text || '.' || relname) FROM pg_class
   WHERE oid IN (conrelid, confrelid))
FROM pg_constraint WHERE contype = 'f' AND convalidated
"""


def settle(dsn: DsnFor, database: str, released: Sequence[str]) -> None:
    """Views that keep rows are filled again; every foreign key holds, but between a table in plain and a
    masked one, where none can; old statistics are gone from disk."""
    with psycopg.connect(dsn(database), autocommit=True) as connection:
        for schema, view in connection.execute(_VIEWS).fetchall():
            try:
                connection.execute(
                    sql.SQL("REFRESH MATERIALIZED VIEW {}").format(sql.Identifier(schema, view))
                )
            except psycopg.Error as bad:
                raise Refused(
                    f"{database}.{schema}.{view} keeps rows and cannot be filled again:"
                    f" {str(bad).partition(chr(10))[0]}"
                ) from None
        _samples_anew(connection, database)
        for name, table, other, here, there, ends in connection.execute(_FOREIGN_KEYS).fetchall():
            plain = {any(fnmatchcase(f"{database}.{e}", r) for r in released) for e in ends}
            if len(plain) > 1:
                continue
            both = sql.SQL(" AND ").join(
                sql.SQL("o.{} = t.{}").format(sql.Identifier(b), sql.Identifier(a))
                for a, b in zip(here, there, strict=True)
            )
            filled = sql.SQL(" AND ").join(
                sql.SQL("t.{} IS NOT NULL").format(sql.Identifier(a)) for a in here
            )
            row = connection.execute(
                # Both names come from regclass, which quotes them.
                sql.SQL(
                    "SELECT EXISTS (SELECT FROM {} t WHERE {} AND NOT EXISTS (SELECT FROM {} o WHERE {}))"
                ).format(sql.SQL(table), filled, sql.SQL(other), both)
            ).fetchone()
            if row is None or row[0]:
                raise Damage(f"masking broke {name} of {database}.{table}")


def _samples_anew(connection: psycopg.Connection, database: str) -> None:
    """Removed before they are made again: ANALYZE leaves the samples of a table that has become empty, of a view
    without rows, and of a foreign table. Without a name it takes every table, view and partitioned parent."""
    try:
        connection.execute("DELETE FROM pg_catalog.pg_statistic")
        connection.execute("DELETE FROM pg_catalog.pg_statistic_ext_data")
        connection.execute("ANALYZE")
        for kept in ("pg_statistic", "pg_statistic_ext_data"):
            connection.execute(
                sql.SQL("VACUUM (FULL, ANALYZE) {}").format(sql.Identifier("pg_catalog", kept))
            )
    except psycopg.Error as bad:
        # An expression's own function may raise, with the value in its detail.
        raise Refused(
            f"{database}: statistics cannot be made again: {str(bad).partition(chr(10))[0]}"
        ) from None


def forget_the_log(dsn: DsnFor) -> None:
    """A log that nothing needs is removed at a checkpoint; the first one also lets go of old files."""
    with psycopg.connect(dsn("postgres"), autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        connection.execute("SELECT pg_switch_wal()")
        connection.execute("CHECKPOINT")
