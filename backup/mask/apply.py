"""Masks a running clean room in place, then searches it for leaks. Until this returns nobody else
may connect.

Each table is rewritten afterwards: an UPDATE leaves the old row in its page, and statistics keep
samples. Any error is raised, and then the room is never opened.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from backup.mask import leak_check as proof
from backup.mask.authorisation import Authorisation
from backup.mask.maskers import Forms, Found, fold
from backup.mask.policy import CATALOGUE, RULES, Column, Decision, Rule, Treatment, decide
from backup.mask.rebuild import DsnFor, forget_the_log, settle
from infra.postgres.server import databases
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.progress import Progress

KEY_BYTES: Final = 32
_TOLD = 10
_SETTINGS = (
    b"SET session_replication_role = replica",  # foreign keys and triggers: the whole is checked at the end
    b"SET DateStyle = 'ISO, YMD'",
    b"SET bytea_output = 'hex'",
    b"SET search_path = pg_catalog",
    b"SET statement_timeout = 0",
)
_COLUMNS = """
SELECT n.nspname, c.relname, a.attname, t.typcategory::text, format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'
ORDER BY n.nspname, c.relname, a.attnum
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """`authorisation`: leave for some tables, already checked. Biometrics are masked in them too."""

    key: bytes = field(repr=False)
    rules: Sequence[Rule] = RULES
    authorisation: Authorisation | None = None

    @property
    def released(self) -> tuple[str, ...]:
        return self.authorisation.tables if self.authorisation else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """What was done and what was looked through. `files_read` None: not looked through, some tables are in plain."""

    rows: Mapping[str, int]  # by database.schema.table
    columns: int
    originals: int  # different numbers and names that were there before
    searched: int  # tables
    files_read: bool | None
    released: tuple[str, ...]

    def __str__(self) -> str:
        files = (
            "and every file" if self.files_read else "files not searched: some tables are in plain"
        )
        plain = f"; in plain by authorisation: {', '.join(self.released)}" if self.released else ""
        return (
            f"{self.columns} columns of {len(self.rows)} tables, {sum(self.rows.values())} rows; none of"
            f" {self.originals} originals is left in {self.searched} tables, their statistics {files}{plain}"
        )


def mask_room(dsn: DsnFor, masking: Masking, *, directory: Path, progress: Progress) -> Masked:
    """Raises Refused for what cannot be masked safely, Damage when something original is left."""
    progress.step("classifying columns")
    names = databases(dsn("postgres"))
    columns = [c for name in names for c in _columns(dsn, name)]
    decision = decide(columns, masking.rules, released=masking.released)
    if decision.unclassified:
        raise Refused(_unclassified(decision.unclassified), hint="classify them: --mask-rules FILE")
    for name in names:
        _nothing_hidden(dsn, name)
    originals = proof.Originals(masking.key)
    found = _found(dsn, decide(columns, masking.rules), originals, progress)
    forms = Forms(masking.key, found)
    rows: dict[str, int] = {}
    tables = decision.tables()
    for n, (where, rules) in enumerate(sorted(tables.items()), 1):
        progress.step(f"masking {where}")
        rows[where] = _table(dsn, where, rules, forms)
        progress.done(n, len(tables), unit="tables")
    for name in names:
        settle(dsn, name, masking.released)
    forget_the_log(dsn)
    left, searched = _search(dsn, names, masking.released, originals, progress)
    if not masking.released:
        progress.step("searching every file")
        left += proof.in_files(directory, originals)
    if left:
        told = "; ".join(f"{s.count} × {s.kind} in {s.where}" for s in left[:_TOLD])
        raise Damage(
            f"masking left originals: {told}: the room is closed",
            hint="classify the columns that hold them: --mask-rules FILE; a view or a parent of a table in plain"
            " needs leave of its own",
        )
    return Masked(
        rows=rows,
        columns=sum(len(r) for r in tables.values()),
        originals=len(originals),
        searched=searched,
        files_read=None if masking.released else True,
        released=masking.released,
    )


def _columns(dsn: DsnFor, database: str) -> list[Column]:
    with psycopg.connect(dsn(database)) as connection:
        there = connection.execute("SELECT to_regclass(%s)", (f"{CATALOGUE}.asset",)).fetchone()
        personal: dict[str, bool] = {}
        if there is not None and there[0] is not None:
            asked = sql.SQL("SELECT name, contains_pi FROM {}").format(
                sql.Identifier(CATALOGUE, "asset")
            )
            personal = dict(connection.execute(asked).fetchall())
        return [
            Column(
                database=database,
                schema=schema,
                table=table,
                name=name,
                category=category,
                type=type_,
                personal=personal.get(f"{schema}.{table}"),
            )
            for schema, table, name, category, type_ in connection.execute(_COLUMNS).fetchall()
        ]


def _nothing_hidden(dsn: DsnFor, database: str) -> None:
    """What no column names, and what keeps old rows alive."""
    with psycopg.connect(dsn(database)) as connection:
        for what, query in (
            ("large objects", b"SELECT count(*) FROM pg_largeobject_metadata"),
            (
                "prepared transactions",
                b"SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()",
            ),
        ):
            row = connection.execute(query).fetchone()
            if row is not None and row[0]:
                raise Refused(
                    f"{database} has {row[0]} {what}, which nobody can classify",
                    hint="restore to a moment without them, or remove them at the source",
                )


def _found(
    dsn: DsnFor, decision: Decision, originals: proof.Originals, progress: Progress
) -> Found:
    """What is there, before anything changes: areas and surnames to keep away from, and what must not survive."""
    areas: set[str] = set()
    surnames: set[str] = set()
    for column, rule in decision.treated.items():
        if rule.treat not in _REMEMBERED:
            continue
        progress.step(f"reading {column.path}")
        for value in _distinct(dsn, column):
            text = fold(value).strip()
            match rule.treat:
                case Treatment.IDENTITY:
                    areas.add(text[:6])
                    originals.number(text)
                case Treatment.CREDIT:
                    areas.add(text[2:8])
                case Treatment.NAME:
                    surnames.update(text[:1])
                    originals.name(value)
                case _:
                    originals.number(text)
    originals.settle()
    whole = {a for a in areas if len(a) == 6 and a.isascii() and a.isdigit()}
    return Found(areas=frozenset(whole), surnames=frozenset(surnames))


_REMEMBERED = frozenset({Treatment.IDENTITY, Treatment.CREDIT, Treatment.NAME, Treatment.PHONE})


def _distinct(dsn: DsnFor, column: Column) -> Iterator[str]:
    query = sql.SQL(
        "COPY (SELECT DISTINCT {c}::text FROM ONLY {t} WHERE {c} IS NOT NULL) TO STDOUT"
    ).format(c=sql.Identifier(column.name), t=sql.Identifier(column.schema, column.table))
    with (
        psycopg.connect(dsn(column.database)) as connection,
        connection.cursor().copy(query) as copy,
    ):
        for (value,) in copy.rows():
            yield value


def _table(dsn: DsnFor, where: str, rules: Mapping[str, Rule], forms: Forms) -> int:
    """Its rows read, masked and put in place by their place in the table; then the table written anew."""
    database, schema, table = where.split(".", 2)
    name = sql.Identifier(schema, table)
    changed = list(rules)
    read = list(dict.fromkeys([*changed, *(r.by for r in rules.values() if r.by)]))
    listed = sql.SQL(", ").join(map(sql.Identifier, changed))
    out = sql.SQL("COPY (SELECT ctid::text, {} FROM ONLY {}) TO STDOUT").format(
        sql.SQL(", ").join(map(sql.Identifier, read)), name
    )
    count = 0
    try:
        with psycopg.connect(dsn(database)) as source, psycopg.connect(dsn(database)) as target:
            for connection in (source, target):
                for setting in _SETTINGS:
                    connection.execute(setting)
            target.execute(
                sql.SQL(
                    "CREATE TEMP TABLE zaibei_masked ON COMMIT DROP AS"
                    " SELECT ctid AS zaibei_at, {} FROM ONLY {} WITH NO DATA"
                ).format(listed, name)
            )
            with (
                source.cursor().copy(out) as rows,
                target.cursor().copy("COPY pg_temp.zaibei_masked FROM STDIN") as into,
            ):
                for at, *values in rows.rows():
                    row = dict(zip(read, values, strict=True))
                    into.write_row([at, *(_masked(forms, rules[c], row[c], row) for c in changed)])
                    count += 1
            source.commit()
            sets = sql.SQL(", ").join(
                sql.SQL("{c} = m.{c}").format(c=sql.Identifier(c)) for c in changed
            )
            done = target.execute(
                sql.SQL(
                    "UPDATE ONLY {} t SET {} FROM pg_temp.zaibei_masked m WHERE t.ctid = m.zaibei_at"
                ).format(name, sets)
            )
            if done.rowcount != count:
                raise Damage(f"masking {where}: {done.rowcount} rows of {count}")
        with psycopg.connect(dsn(database), autocommit=True) as connection:
            connection.execute(sql.SQL("VACUUM (FULL) {}").format(name))
    except psycopg.Error as bad:
        # The server's detail line quotes the row: only its first line may leave the room.
        raise Refused(
            f"masking {where}: {str(bad).partition(chr(10))[0]}",
            hint="does a constraint forbid the masked form, or do two values meet under a unique one?",
        ) from None
    return count


def _masked(
    forms: Forms, rule: Rule, value: str | None, row: Mapping[str, str | None]
) -> str | None:
    if value is None or value == "":
        return value
    match rule.treat:
        case Treatment.IDENTITY:
            return forms.identity(fold(value).strip())
        case Treatment.BORN:
            number = row[rule.by]
            return None if number is None else forms.born(fold(number).strip())
        case Treatment.CREDIT:
            return forms.credit(fold(value).strip())
        case Treatment.NAME:
            return forms.name(value)
        case Treatment.PHONE:
            return forms.phone(fold(value))
        case Treatment.ADDRESS:
            return forms.address(value)
        case Treatment.BANK_CARD:
            return forms.bank_card(fold(value))
        case Treatment.PLATE:
            return forms.plate(fold(value))
        case Treatment.EMAIL:
            return forms.email(value)
        case Treatment.BIOMETRIC if value.startswith("\\x"):
            return "\\x" + forms.biometric(bytes.fromhex(value[2:])).hex()
        case Treatment.BIOMETRIC:
            return forms.biometric(value.encode()).hex()[: len(value)]
        case Treatment.SHAPE:
            return forms.shape(fold(value))
        case Treatment.PLAIN:
            raise AssertionError("what stays as it is is not written")


def _search(
    dsn: DsnFor,
    names: Sequence[str],
    released: Sequence[str],
    originals: proof.Originals,
    progress: Progress,
) -> tuple[list[proof.Survivor], int]:
    """Everything that has rows but what was released, and what the planner remembers of it. Not only what was
    treated: what no rule names is where something is left."""
    left: list[proof.Survivor] = []
    searched = 0
    for database in names:
        with psycopg.connect(dsn(database)) as connection:
            oids = []
            for relation in proof.relations(connection):
                where = f"{database}.{relation.schema}.{relation.name}"
                if any(fnmatchcase(where, r) for r in released):
                    continue
                progress.step(f"searching {where}")
                rows = proof.rows(connection, relation.schema, relation.name)
                left += proof.survivors(rows, originals, where=where)
                oids.append(relation.oid)
                searched += 1
            left += proof.survivors(
                proof.statistics(connection, oids), originals, where=f"statistics of {database}"
            )
    return left, searched


def _unclassified(columns: Sequence[Column]) -> str:
    told = ", ".join(f"{c.path} ({c.type})" for c in columns[:_TOLD])
    rest = f" and {len(columns) - _TOLD} more" if len(columns) > _TOLD else ""
    return f"{len(columns)} columns may hold personal data and have no rule: {told}{rest}"
