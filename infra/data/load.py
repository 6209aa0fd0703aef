"""Fills the databases: one transaction each, so a crash leaves a database empty or whole.

Loading the same world again does nothing; another world is refused unless `replace` says so. Pictures are
written before the rows that name them are committed: a crash in between leaves pictures nobody names,
never rows that name nothing.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Protocol

import psycopg
from psycopg import sql

from infra.data.world import DATABASES, GENERATION, Row, Table, World
from infra.objectstore.contract import AlreadyThere
from zaibei.kernel.errors import Busy, Damage, Missing, Refused, Unreachable, ZaibeiError
from zaibei.kernel.progress import Progress, Silent

_LOCK = 0x7A_61_69_62_65_69  # advisory: one loader a database
_TELL_EVERY = 5000  # rows
_UPLOADS = 4  # at once
_UPLOAD_BATCH = 64  # pictures in memory


class Creates(Protocol):
    """As much of an object store as loading needs; `contract.ObjectStore` and mirrors have it."""

    def create(self, key: str, data: bytes) -> object: ...


class Step(StrEnum):
    NOTHING = "already there"
    PICTURES = "pictures written"  # the rows were there; they were loaded without a store
    FILL = "filled"
    REPLACE = "replaced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """The record in zaibei_catalogue.load: which world a database holds."""

    generation: int
    seed: int
    persons: int
    rows: int
    objects_written: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    database: str
    step: Step
    rows: int
    objects_written: bool | None  # None: this database has none


DsnFor = Callable[[str], str]


def decide(
    found: Loading | None, *, seed: int, persons: int, with_objects: bool, replace: bool
) -> Step:
    """What to do about one database. Raises Refused rather than mix two worlds."""
    if found is None:
        return Step.FILL
    if (found.generation, found.seed, found.persons) != (GENERATION, seed, persons):
        if replace:
            return Step.REPLACE
        raise Refused(
            f"another world is there: seed {found.seed}, {found.persons} people,"
            f" generation {found.generation}",
            hint="--replace drops it and loads this one",
        )
    if found.objects_written is False and with_objects:
        return Step.PICTURES
    return Step.NOTHING


def load(
    dsn_for: DsnFor,
    password: str | None,
    objects: Creates | None,
    *,
    seed: int,
    scale: float,
    progress: Progress | None = None,
    replace: bool = False,
) -> tuple[Done, ...]:
    """Make every database hold the world of (seed, scale), as zaibei_loader, its owner.

    Without `objects` the pictures are not written, which is recorded, and a later load writes them.
    Raises Refused, Busy, Unreachable.
    """
    world = World(seed=seed, scale=scale)
    progress = progress or Silent()

    def step(conn: psycopg.Connection, database: str) -> Step:
        return decide(
            _found(conn, database),
            seed=seed,
            persons=world.people.count,
            with_objects=objects is not None,
            replace=replace,
        )

    # All are asked before one is touched: a refusal by the last must not find four replaced.
    for database in DATABASES:
        with connected(dsn_for(database), password) as conn:
            step(conn, database)

    done = []
    for database in DATABASES:
        with connected(dsn_for(database), password) as conn:
            _alone(conn, database)
            done.append(_load_one(conn, database, step(conn, database), world, objects, progress))
    return tuple(done)


@contextmanager
def connected(
    dsn: str, password: str | None, *, snapshot: bool = False
) -> Iterator[psycopg.Connection]:
    """One transaction: committed at the end, rolled back by any error. `snapshot`: to read only."""
    try:
        with psycopg.connect(dsn, password=password, application_name="zaibei-data") as conn:
            if snapshot:
                conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                conn.read_only = True
            # Other settings of the server would change the text that checksums are made of.
            conn.execute(
                "SET LOCAL search_path = public; SET LOCAL datestyle = 'ISO, YMD';"
                " SET LOCAL timezone = 'UTC'; SET LOCAL bytea_output = 'hex';"
                " SET LOCAL extra_float_digits = 1; SET LOCAL intervalstyle = 'postgres';"
                " SET LOCAL lock_timeout = '10s'"
            )
            yield conn
    except psycopg.OperationalError as error:
        raise Unreachable(f"database did not answer or broke off: {_said(error)}") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise Refused(
            f"not allowed: {_said(error)}",
            hint="the databases and all in them must belong to zaibei_loader, who loads",
        ) from error
    except psycopg.errors.UndefinedTable as error:
        raise Missing(f"not loaded: {_said(error)}", hint="zaibei data load") from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise Unreachable(f"no writer behind this address: {_said(error)}") from error
    except psycopg.Error as error:
        raise ZaibeiError(f"PostgreSQL says: {_said(error)}") from error


def _said(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0]


def _alone(conn: psycopg.Connection, database: str) -> None:
    held = conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).fetchone()
    if held != (True,):
        raise Busy(f"{database} is being loaded by somebody else", hint="wait for that load")


def _found(conn: psycopg.Connection, database: str) -> Loading | None:
    there = conn.execute("SELECT to_regclass('zaibei_catalogue.load') IS NOT NULL").fetchone()
    if there == (True,):
        row = conn.execute(
            "SELECT generation, seed, persons, rows, objects_written FROM zaibei_catalogue.load"
        ).fetchone()
        if row is None:
            raise Refused(
                f"{database} has a catalogue without a record of a load: not made by this loader"
            )
        return Loading(
            generation=row[0], seed=row[1], persons=row[2], rows=row[3], objects_written=row[4]
        )
    strange = conn.execute(
        "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p')"
        " AND relnamespace = 'public'::regnamespace"
    ).fetchone()
    if strange != (0,):
        raise Refused(
            f"{database} has tables that this loader did not make",
            hint="load into an empty database",
        )
    return None


def _load_one(
    conn: psycopg.Connection,
    database: str,
    step: Step,
    world: World,
    objects: Creates | None,
    progress: Progress,
) -> Done:
    rows = 0
    written: bool | None = None
    if database == "geospatial":
        written = objects is not None
        if objects is not None and step is not Step.NOTHING:
            progress.step(f"{database}: pictures")
            _write_pictures(objects, world, progress)

    progress.step(f"{database}: rows")
    if step is Step.NOTHING or step is Step.PICTURES:
        found = _found(conn, database)
        assert found is not None
        rows = found.rows
        if step is Step.PICTURES:
            conn.execute("UPDATE zaibei_catalogue.load SET objects_written = true")
        else:
            written = found.objects_written
    else:
        if step is Step.REPLACE:
            _drop(conn)
        conn.execute("SET LOCAL maintenance_work_mem = '64MB'")
        _script(conn, "catalogue.sql")
        _script(conn, f"{database}.tables.sql")
        expected = world.rows_about(database)
        for table in world.tables(database):
            rows = _copy(conn, table, rows, expected, progress)
        # Keys after the rows: one sort a constraint instead of one look-up a row.
        progress.step(f"{database}: keys")
        _script(conn, f"{database}.constraints.sql")
        conn.execute(
            "INSERT INTO zaibei_catalogue.load (generation, seed, persons, rows, objects_written)"
            " VALUES (%s, %s, %s, %s, %s)",
            (GENERATION, world.seed, world.people.count, rows, written),
        )
        conn.execute("ANALYZE")
    return Done(database=database, step=step, rows=rows, objects_written=written)


def _copy(
    conn: psycopg.Connection, table: Table, before: int, expected: int, progress: Progress
) -> int:
    # FREEZE: the table was made by this transaction, so no later pass must mark the rows.
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FREEZE)").format(
        sql.Identifier(table.name), sql.SQL(", ").join(map(sql.Identifier, table.columns))
    )
    rows = before
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        row: Row
        for row in table.rows():
            copy.write_row(row)
            rows += 1
            if rows % _TELL_EVERY == 0:
                progress.done(rows, max(rows, expected), unit="rows")
    return rows


def _drop(conn: psycopg.Connection) -> None:
    """What this loader made: its catalogue and the tables of its own user."""
    mine = conn.execute(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')"
        " AND relnamespace = 'public'::regnamespace AND relowner = current_user::regrole"
    ).fetchall()
    for (name,) in mine:
        conn.execute(sql.SQL("DROP TABLE {} CASCADE").format(sql.Identifier(name)))
    conn.execute("DROP SCHEMA zaibei_catalogue CASCADE")


def _script(conn: psycopg.Connection, name: str) -> None:
    text = (files("infra.data") / "schemas" / name).read_text(encoding="utf-8")
    conn.execute(text.encode())


def _write_pictures(objects: Creates, world: World, progress: Progress) -> None:
    def write(n: int) -> None:
        key, data = world.image(n)
        try:
            objects.create(key, data)
        except AlreadyThere as there:
            # A load that broke off leaves the same bytes. A mirror has compared them already and says
            # this of other bytes alone; a store says it of both, and is asked.
            read = getattr(objects, "read", None)
            if read is None or read(key) != data:
                raise Damage(f"{key} is there with other bytes than its name says") from there

    with ThreadPoolExecutor(max_workers=_UPLOADS) as pool:
        done = 0
        for first in range(0, world.images, _UPLOAD_BATCH):
            some = range(first, min(first + _UPLOAD_BATCH, world.images))
            done += len(list(pool.map(write, some)))
            progress.done(done, world.images, unit="pictures")
