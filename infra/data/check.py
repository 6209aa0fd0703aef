"""Do references across databases hold? No foreign key can cross a database, so they are merged here.

Both sides come sorted from the server and are walked once, side by side: memory is a few hundred keys,
whatever the size. Inside a database the foreign keys have already answered.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256

import psycopg

from infra.data.load import DsnFor, connected
from infra.data.numbers import why_not_credit, why_not_identity
from infra.objectstore.contract import NotThere, ObjectStore
from zaibei.kernel.progress import Progress, Silent

_BATCH = 2000  # rows a round trip
_EXAMPLES = 5  # dangling keys named a link
_TELL_EVERY = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """`column` of `table` must be a `target` of the other database."""

    database: str
    table: str
    column: str
    target: str  # key of _TARGETS

    @property
    def name(self) -> str:
        return f"{self.database}.{self.table}.{self.column} -> {self.target}"


_TARGETS = {
    "population.person": ("population", "person", "identity_number"),
    "legal_entity.entity": ("legal_entity", "entity", "credit_code"),
}
LINKS = tuple(
    Link(database=d, table=t, column=c, target=target)
    for d, t, c, target in (
        ("legal_entity", "entity", "representative_number", "population.person"),
        ("legal_entity", "officer", "identity_number", "population.person"),
        ("geospatial", "parcel", "owner_person", "population.person"),
        ("geospatial", "parcel", "owner_entity", "legal_entity.entity"),
        ("economy", "tax_payment", "credit_code", "legal_entity.entity"),
        ("economy", "insurance_payment", "credit_code", "legal_entity.entity"),
        ("economy", "insurance_payment", "identity_number", "population.person"),
        ("health_code", "person_code", "identity_number", "population.person"),
    )
)


@dataclass(kw_only=True)
class Tally:
    """One walk. `dangling` counts; `examples` names a few, with the birth date of a person hidden."""

    name: str
    personal: bool  # its keys are numbers of persons
    references: int = 0
    dangling: int = 0
    examples: list[str] = field(default_factory=list)

    def missing(self, key: str) -> None:
        self.dangling += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(_hidden(key) if self.personal else key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    links: tuple[Tally, ...]
    malformed: tuple[Tally, ...]  # numbers and codes whose check character is wrong
    pictures: tuple[Tally, ...]  # a store each; empty: none was given, so nobody looked

    @property
    def sound(self) -> bool:
        """Nothing dangles among what was looked at."""
        looked = (*self.links, *self.malformed, *self.pictures)
        return not any(t.dangling for t in looked)


def dangling(references: Iterator[str], keys: Iterator[str]) -> Iterator[str]:
    """References that are not keys. Both ascending by code point; references may repeat."""
    key: str | None = next(keys, None)
    last = ""
    for reference in references:
        # Sorted otherwise (another collation), the walk would call good references missing.
        assert last <= reference, "references are not in order"
        last = reference
        while key is not None and key < reference:
            key = next(keys, None)
        if key != reference:
            yield reference


def check(
    dsn_for: DsnFor,
    password: str | None,
    objects: Sequence[ObjectStore] = (),
    *,
    deep: bool = False,
    progress: Progress | None = None,
) -> Check:
    """Walk every link; with `objects` also every picture (`deep`: read back and hashed).

    Each database is read in one snapshot, taken together but not at one instant: writers should rest.
    Raises Unreachable.
    """
    progress = progress or Silent()
    with ExitStack() as stack:
        conns = {
            d: stack.enter_context(connected(dsn_for(d), password, snapshot=True))
            for d in sorted({x.database for x in LINKS} | {t[0] for t in _TARGETS.values()})
        }
        malformed = tuple(
            _malformed(conns[d], f"{d}.{t}.{c}", t, c, progress) for d, t, c in _TARGETS.values()
        )
        links = tuple(_walk(conns, link, progress) for link in LINKS)
        pictures = tuple(_pictures(conns["geospatial"], o, deep, progress) for o in objects)
    return Check(links=links, malformed=malformed, pictures=pictures)


def _walk(conns: dict[str, psycopg.Connection], link: Link, progress: Progress) -> Tally:
    progress.step(link.name)
    database, table, column = _TARGETS[link.target]
    tally = Tally(name=link.name, personal=column == "identity_number")

    def counted(keys: Iterator[str]) -> Iterator[str]:
        for key in keys:
            tally.references += 1
            if tally.references % _TELL_EVERY == 0:
                progress.done(tally.references, unit="references")
            yield key

    references = counted(_sorted(conns[link.database], link.table, link.column, "referring"))
    for key in dangling(references, _sorted(conns[database], table, column, "referred")):
        tally.missing(key)
    return tally


def _malformed(
    conn: psycopg.Connection, name: str, table: str, column: str, progress: Progress
) -> Tally:
    progress.step(f"check characters of {name}")
    why_not = why_not_credit if column == "credit_code" else why_not_identity
    tally = Tally(name=name, personal=column == "identity_number")
    for key in _sorted(conn, table, column, "numbers"):
        tally.references += 1
        if why_not(key) is not None:
            tally.missing(key)
    return tally


def _pictures(
    conn: psycopg.Connection, objects: ObjectStore, deep: bool, progress: Progress
) -> Tally:
    progress.step(f"pictures at {objects.name}")
    tally = Tally(name=f"geospatial.image.key -> {objects.name}", personal=False)
    with conn.cursor(name="pictures") as cursor:
        cursor.itersize = _BATCH
        cursor.execute('SELECT key, sha256, size_bytes FROM image ORDER BY key COLLATE "C"')
        listed = ((s.key, s.size_bytes) for s in objects.list("images/"))
        here = next(listed, None)
        for key, digest, size in cursor:
            tally.references += 1
            progress.done(tally.references, unit="pictures")
            while here is not None and here[0] < key:
                here = next(listed, None)
            if here != (key, size) or (deep and not _same(objects, key, digest)):
                tally.missing(key)
    return tally


def _same(objects: ObjectStore, key: str, digest: str) -> bool:
    try:
        return sha256(objects.read(key)).hexdigest() == digest
    except NotThere:
        return False


def _sorted(conn: psycopg.Connection, table: str, column: str, name: str) -> Iterator[str]:
    with conn.cursor(name=name) as cursor:
        cursor.itersize = _BATCH
        # Table and column are constants of this module, never text from outside.
        cursor.execute(
            f'SELECT {column} FROM {table} WHERE {column} IS NOT NULL ORDER BY {column} COLLATE "C"'.encode()  # noqa: S608
        )
        for (key,) in cursor:
            yield key


def _hidden(number: str) -> str:
    """`990001********0013`: enough to find the row with LIKE, without a birth date in a log."""
    return f"{number[:6]}********{number[14:]}"
