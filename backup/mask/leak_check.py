"""Proves that no original number, telephone or name is left in any table, statistic or file of the
room.

Originals are kept as 8-byte keyed hashes, sorted. A hash that collides with another by chance
closes the room once in 10^10 looks; it never opens one.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from backup.mask.characters import is_han
from backup.mask.maskers import fold, mobile

_BATCH = 100_000
_NAME_MAX = 6
_EXAMPLES: Final = 5
_NUMBERS = re.compile(r"(?<![0-9])(?:[0-9]{17}[0-9Xx]|[0-9]{15}|1[3-9][0-9]{9})(?![0-9])")
_IDENTITY = 18
_WINDOW = 4 << 20
_OVERLAP = 64
_MOBILE = 11
_HAN = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]+(?:·[\u3400-\u9fff]+)*")

_RELATIONS: Final = """
SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'p') AND c.relispopulated
AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'
ORDER BY n.nspname, c.relname
"""
_STATISTICS: Final = (
    (
        "SELECT s.stavalues1::text, s.stavalues2::text, s.stavalues3::text, s.stavalues4::text, s.stavalues5::text"
        " FROM pg_statistic s LEFT JOIN pg_index i ON i.indexrelid = s.starelid"
        " WHERE coalesce(i.indrelid, s.starelid) = ANY({}{})"
    ),
    (
        "SELECT m.values::text FROM pg_statistic_ext e JOIN pg_statistic_ext_data d ON d.stxoid = e.oid,"
        " pg_mcv_list_items(d.stxdmcv) m WHERE e.stxrelid = ANY({}{})"
    ),
    (
        "SELECT d.stxdexpr::text FROM pg_statistic_ext e JOIN pg_statistic_ext_data d ON d.stxoid = e.oid"
        " WHERE e.stxrelid = ANY({}{})"
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivor:
    """Where something original still stands. Never what it is."""

    where: str
    kind: str  # number | name
    count: int


@dataclass(slots=True)
class Originals:
    """What was there before. `add` all, then `settle`, then ask."""

    key: bytes
    _fresh: list[int] = field(default_factory=list)
    _known: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    def __len__(self) -> int:
        return len(self._known)

    def number(self, value: str) -> None:
        """An identity number, or a telephone's eleven digits."""
        text = fold(value).strip().upper()
        self._add(mobile(text) or text)

    def name(self, value: str) -> None:
        if any(is_han(c) for c in value) and len(value) > 1:
            self._add(value.strip())

    def settle(self) -> None:
        self._known = np.unique(
            np.concatenate([self._known, np.array(self._fresh, dtype=np.uint64)])
        )
        self._fresh = []

    def has(self, value: str) -> bool:
        assert not self._fresh, "settle first"
        wanted = np.uint64(self._hash(value))
        at = int(np.searchsorted(self._known, wanted))
        return at < len(self._known) and bool(self._known[at] == wanted)

    def _add(self, value: str) -> None:
        self._fresh.append(self._hash(value))
        if len(self._fresh) >= _BATCH:
            self.settle()

    def _hash(self, value: str) -> int:
        digest = blake2b(value.encode(), key=self.key, digest_size=8).digest()
        return int.from_bytes(digest, "big")


def numbers_in(text: str) -> Iterator[str]:
    for found in _NUMBERS.finditer(fold(text)):
        yield found[0].upper()


def names_in(text: str) -> Iterator[str]:
    """Whole runs of Han as long as a name may be. A name inside a longer word is not looked for: every
    two characters of a company's name would be one."""
    for found in _HAN.finditer(text):
        if 1 < len(found[0]) <= _NAME_MAX or "·" in found[0]:
            yield found[0]


def survivors(texts: Iterable[str], originals: Originals, *, where: str) -> list[Survivor]:
    """Of one table's rows, or a file's lines."""
    numbers = names = 0
    for text in texts:
        numbers += any(originals.has(n) for n in numbers_in(text))
        names += any(originals.has(n) for n in names_in(text))
    return [
        Survivor(where=where, kind=kind, count=count)
        for kind, count in (("number", numbers), ("name", names))
        if count
    ]


def rows(connection: psycopg.Connection, schema: str, table: str) -> Iterator[str]:
    """Each row as PostgreSQL writes it whole, so that no type and no nesting is left out. Its own rows: those of
    its partitions are asked for by their own names, as leave is given."""
    query = sql.SQL("COPY (SELECT t::text FROM ONLY {} t) TO STDOUT").format(
        sql.Identifier(schema, table)
    )
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for (text,) in copy.rows():
            yield text or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """Of a database, what may hold rows or samples of them."""

    oid: int
    schema: str
    name: str


def relations(connection: psycopg.Connection) -> list[Relation]:
    """Tables, materialized views and partitioned parents: a view keeps rows and a parent keeps samples of its
    partitions' rows, though no rule names either."""
    return [
        Relation(oid=oid, schema=schema, name=name)
        for oid, schema, name in connection.execute(_RELATIONS).fetchall()
    ]


def statistics(connection: psycopg.Connection, oids: list[int]) -> Iterator[str]:
    """The planner keeps samples of what it saw: of columns, of what an index computes, of several columns together."""
    for query in _STATISTICS:
        copy_out = sql.SQL("COPY ({}) TO STDOUT").format(
            sql.SQL(query).format(sql.Literal(oids), sql.SQL("::oid[]"))
        )
        with connection.cursor() as cursor, cursor.copy(copy_out) as copy:
            for values in copy.rows():
                yield "\n".join(v for v in values if v)


def in_files(directory: Path, originals: Originals) -> list[Survivor]:
    """Numbers in the bytes of every file: dead rows, the log, what a tool left lying about."""
    out = []
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and not p.is_symlink()):
        with path.open("rb") as f:
            count = sum(any(originals.has(n) for n in _numbers_of(run)) for run in _runs(f))
        if count:
            where = str(path.relative_to(directory))
            out.append(Survivor(where=where, kind="number", count=count))
    return out


def _runs(f: BinaryIO) -> Iterator[str]:
    """Digits in a row, eleven or more, with an X after them. By numpy: a file of the room may be large."""
    kept = b""
    while part := f.read(_WINDOW):
        data = kept + part
        digit = (np.frombuffer(data, np.uint8) - np.uint8(48)) < 10
        edges = np.flatnonzero(np.diff(digit.view(np.int8), prepend=0, append=0))
        starts, ends = edges[::2], edges[1::2]
        for n in np.flatnonzero(ends - starts >= _MOBILE):
            end = int(ends[n])
            yield (
                data[int(starts[n]) : end + (data[end : end + 1] in (b"X", b"x"))].decode().upper()
            )
        # What a window cuts is seen whole in the next one; a run may be counted twice, never missed.
        kept = data[-_OVERLAP:]


def _numbers_of(run: str) -> Iterator[str]:
    """At every place of a run: between two columns of a page stands one byte, and it may be a digit's."""
    if len(run) == _MOBILE:
        yield run
    for at in range(len(run) - _IDENTITY + 1):
        yield run[at : at + _IDENTITY]
