"""Finds rows and objects of one point that do not belong together, by a sorted merge in bounded
memory.

A row that names an object which the version set lacks, or which differs from what the row says,
dangles. An object that no row names is reported too; it does no harm, and an upload before its row
looks the same.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final

import psycopg

from backup.format.facts import BUCKET
from backup.format.point import Bound, Point
from backup.format.snapshot import Snapshot
from backup.format.tree import Node, Type
from backup.postgres.point_checks import bound_snapshot
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from infra.postgres.server import databases
from zaibei.kernel.errors import Damage, Missing, Usage

LISTED_MAX: Final = 10_000  # of each kind, in JSON; the counts are always exact
_BATCH = 2000
_TOLD = 20
_FIELDS = {"database", "sql", "source", "prefix"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Rows of `database` that name objects of the bucket `source`, under `prefix`. `sql` gives `key`, and may give
    `size_bytes` and `sha256`; `source` ends with the bucket's name."""

    database: str
    sql: str
    source: str
    prefix: str = ""

    def of(self, bound: Bound) -> bool:
        return bound.source == self.source or bound.source.endswith(f"/{self.source}")


# The base data's own: pictures of parcels.
BASE_DATA: Final = (
    Reference(
        database="geospatial",
        sql="SELECT key, size_bytes, sha256 FROM public.image",
        source="geo-images",
        prefix="images/",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One side's word about a key. None: it does not say."""

    key: str
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(slots=True, kw_only=True)
class Dangling:
    reference: Reference
    rows: int = 0
    objects: int = 0
    lacking: int = 0  # rows whose object is not in the version set
    differing: int = 0  # rows whose object is another
    unnamed: int = 0  # objects that no row names
    unread: int = 0  # rows that give no sha256: deep or not, their objects' contents say nothing
    contents_read: bool = False  # of every row
    lacking_keys: list[str] = field(default_factory=list)
    differing_keys: list[str] = field(default_factory=list)
    unnamed_keys: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return self.lacking == 0 and self.differing == 0


def compare(
    reference: Reference,
    rows: Iterable[Named],
    objects: Iterable[tuple[Named, Callable[[], str]]],
    *,
    deep: bool,
) -> Dangling:
    """Both in order of their keys' UTF-8 bytes. `deep` reads an object's contents where the row gives a sha256.
    Several rows may name one object. Raises Damage for a side that is not in order."""
    out = Dangling(reference=reference)
    there = iter(objects)
    here = next(there, None)
    before = b""
    named = False

    def after() -> None:
        nonlocal here, named
        assert here is not None
        if not named:
            out.unnamed += 1
            _note(out.unnamed_keys, here[0].key)
        last, named = _bytes(here[0].key), False
        here = next(there, None)
        if here is not None and _bytes(here[0].key) <= last:
            raise Damage("the listing of the bucket is not in order")
        out.objects += 1

    for row in rows:
        key = _bytes(row.key)
        if key < before:
            raise Damage(f"rows of {reference.database} are not in order")
        before = key
        out.rows += 1
        while here is not None and _bytes(here[0].key) < key:
            after()
        if here is None or here[0].key != row.key:
            out.lacking += 1
            _note(out.lacking_keys, row.key)
            continue
        named = True
        out.unread += row.sha256 is None
        size = row.size_bytes not in (None, here[0].size_bytes)
        if size or (deep and row.sha256 is not None and here[1]() != row.sha256):
            out.differing += 1
            _note(out.differing_keys, row.key)
    while here is not None:
        after()
    assert out.lacking + out.differing <= out.rows
    out.contents_read = deep and out.unread == 0
    return out


def of_point(
    repo: Repository,
    point: Point,
    dsn: Callable[[str], str],
    references: Sequence[Reference],
    *,
    deep: bool,
) -> list[Dangling]:
    """Every reference whose bucket the point binds, in the restored databases. Raises Usage for a reference
    that the point cannot answer: not looking is not the same as nothing found."""
    there = set(databases(dsn("postgres")))
    out = []
    with Reader(repo) as reader:
        for reference in references:
            bound = next((b for b in point.bound if reference.of(b)), None)
            if bound is None or reference.database not in there:
                raise Usage(
                    f"the point has no {'bucket ' + reference.source if bound is None else 'database ' + reference.database}",
                    hint="bind it when the point is made: --bucket",
                )
            bucket = bound_snapshot(repo, point, bound)
            out.append(check(reference, dsn(reference.database), reader, bucket, deep=deep))
    return out


def unasked(point: Point, asked: Sequence[Reference]) -> tuple[str, ...]:
    """Buckets that the point binds and no reference looks into: nobody knows whether rows have their objects there."""
    buckets = [b for b in point.bound if b.kind == BUCKET]
    return tuple(b.source for b in buckets if not any(r.of(b) for r in asked))


def answerable(point: Point) -> tuple[Reference, ...]:
    """Of the base data's references those that this point can answer: what is asked when nobody says."""
    return tuple(r for r in BASE_DATA if any(r.of(b) for b in point.bound))


def check(
    reference: Reference, dsn: str, reader: Reader, bucket: Snapshot, *, deep: bool
) -> Dangling:
    """`dsn` is of the restored database."""
    with psycopg.connect(dsn) as connection, connection.cursor(name="references") as cursor:
        cursor.itersize = _BATCH
        try:
            # What is asked is the operator's own; it runs in a room that nobody else is in.
            query = f'SELECT r.* FROM ({reference.sql}) r WHERE key IS NOT NULL ORDER BY key COLLATE "C"'  # noqa: S608
            cursor.execute(query.encode())
        except psycopg.Error as bad:
            raise Usage(
                f"references of {reference.database}: {str(bad).partition(chr(10))[0]}",
                hint="the query gives key, and may give size_bytes and sha256",
            ) from bad
        columns = [c.name for c in cursor.description or ()]
        rows = (_row(dict(zip(columns, values, strict=True))) for values in cursor)
        return compare(reference, rows, _objects(reader, bucket, reference.prefix), deep=deep)


def parse(path: Path) -> tuple[Reference, ...]:
    """`[{"database": …, "sql": …, "source": …, "prefix": …}]`."""
    try:
        said = json.loads(path.read_bytes())
    except FileNotFoundError as gone:
        raise Missing(f"{path}: no such file") from gone
    except ValueError as bad:
        raise Usage(f"{path}: not JSON: {bad}") from bad
    wrong = Usage(
        f"{path}: not a list of references",
        hint='[{"database": "geospatial", "sql": "SELECT key FROM image", "source": "geo-images"}]',
    )
    if not isinstance(said, list) or not said:
        raise wrong
    out = []
    for one in said:
        if not isinstance(one, dict) or not {"database", "sql", "source"} <= set(one) <= _FIELDS:
            raise wrong
        out.append(Reference(**{k: str(v) for k, v in one.items()}))
    return tuple(out)


def told(one: Dangling) -> list[str]:
    """For people: the counts, and a few of each kind."""
    what = f"{one.reference.database} -> {one.reference.source}"
    head = f"{what}: {one.rows} rows name objects, {one.objects} objects: "
    head += "every row has its object" if one.holds else "DANGLING"
    if not one.contents_read:
        head += " (by name and size; contents were not read"
        head += f"; {one.unread} rows give no sha256)" if one.unread else ")"
    out = [head]
    for why, count, keys in (
        ("NOT THERE", one.lacking, one.lacking_keys),
        ("ANOTHER OBJECT", one.differing, one.differing_keys),
        ("named by no row", one.unnamed, one.unnamed_keys),
    ):
        out += [f"  {why}: {key}" for key in keys[:_TOLD]]
        if count > _TOLD:
            out.append(f"  {why}: {count - _TOLD} more")
    return out


def _row(values: dict[str, object]) -> Named:
    size, sha = values.get("size_bytes"), values.get("sha256")
    if size is not None and (not isinstance(size, int | Decimal) or size != int(size)):
        # Passed over, every object would be of the right size.
        raise Usage(f"size_bytes of {values['key']!r} is {size!r}, no whole number of bytes")
    return Named(
        key=str(values["key"]),
        size_bytes=None if size is None else int(size),
        sha256=str(sha).lower() if sha is not None else None,
    )


def _objects(
    reader: Reader, bucket: Snapshot, prefix: str
) -> Iterator[tuple[Named, Callable[[], str]]]:
    """What a reader of the bucket saw at the point: current versions, no markers."""
    for node in reader.nodes(bucket):
        if node.type is Type.OBJECT and node.object is not None and node.object.latest:
            key = node.path.decode(errors="surrogateescape")
            if key.startswith(prefix):
                yield (
                    Named(key=key, size_bytes=node.size_bytes),
                    lambda node=node: _sha256(reader, node),  # type: ignore[misc]
                )


def _sha256(reader: Reader, node: Node) -> str:
    digest = hashlib.sha256()
    for data in reader.read_all(node.blobs):
        digest.update(data)
    return digest.hexdigest()


def _bytes(key: str) -> bytes:
    return key.encode(errors="surrogateescape")


def _note(keys: list[str], key: str) -> None:
    if len(keys) < LISTED_MAX:
        keys.append(key)
