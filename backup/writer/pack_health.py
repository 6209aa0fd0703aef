"""Remembers when each pack was last read whole and with what result, so that a small daily budget
reads everything.

A random share leaves one pack in forty unread after a year of one per cent a day; least recently
read first leaves none. This is a memory of this machine, beside the vault: lost, it is learnt
again, and until then the packs count as never read. A writer asks it which packs it must not
deduplicate against: known to be damaged, or missing from the vault.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, Self

from backup.format import layout
from backup.format.pack import key_of
from backup.hints import HEAL
from backup.repository.repository import Repository
from backup.repository.vault import retry
from infra.objectstore.contract import NotThere
from zaibei.kernel.state import state_dir

# Ten pages of a listing. A run into a larger vault finds out at its end, and the next one knows (`Ledger.miss`).
LOOKED_MAX: Final = 10_000
PACE_OVER: Final = timedelta(days=30)
_PAGE: Final = 1000
_BUSY_S: Final = 60.0
_DAY: Final = timedelta(days=1)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pack (
  name BLOB PRIMARY KEY, size INTEGER NOT NULL, verified_at TEXT, result TEXT, seen INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS run (at TEXT, level TEXT, packs INTEGER, bytes INTEGER, took_s REAL);
CREATE TABLE IF NOT EXISTS damage (
  object TEXT PRIMARY KEY, by_content INTEGER, found_at TEXT, why TEXT, lost TEXT, mend TEXT
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One verification that read packs."""

    at: datetime
    read_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A pack that was found damaged and not found sound since."""

    name: str
    why: str
    at: str


def file_of(repo: Repository) -> Path:
    # By place as well as by repository: what was read in one vault says nothing about its copy.
    place = hashlib.sha256(repo.name.encode()).hexdigest()[:12]
    name = f"{repo.config.repository.hex()}-{place}.sqlite"
    return state_dir() / "backup" / "ledger" / name


def known_damaged(repo: Repository) -> frozenset[str]:
    """Packs that this machine knows to be damaged. Only looks: no ledger is made, and one that cannot be read
    knows nothing, as one that is lost."""
    file = file_of(repo)
    if not file.exists():
        return frozenset()
    try:
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
        ) as db:
            return frozenset(one.name for one in _damaged_packs(db))
    except sqlite3.DatabaseError:
        return frozenset()


def _damaged_packs(db: sqlite3.Connection) -> list[Remembered]:
    rows = db.execute(
        "SELECT object, why, found_at FROM damage WHERE object LIKE 'packs/%' ORDER BY object"
    ).fetchall()
    return [
        Remembered(name=object_.rpartition("/")[2], why=why, at=at) for object_, why, at in rows
    ]


def _open(file: Path | None) -> sqlite3.Connection:
    try:
        return _connected(file)
    except sqlite3.DatabaseError:
        if file is None:
            raise
        # It is a memory, not a truth: begin anew, and keep the old one to be looked at.
        with suppress(FileNotFoundError):
            file.replace(file.with_suffix(".damaged"))
        return _connected(file)


def _connected(file: Path | None) -> sqlite3.Connection:
    db = sqlite3.connect("" if file is None else file, isolation_level=None, timeout=_BUSY_S)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA temp_store = FILE")
        db.executescript(_SCHEMA)
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db


def _text(at: datetime) -> str:
    # One form, so that text sorts as time does.
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def absent(repo: Repository, packs: Iterable[tuple[str, int]]) -> frozenset[str]:
    """Of these those that the vault does not have in their size; none, unasked, when they are too many."""
    wanted = dict(islice(packs, LOOKED_MAX + 1))
    return frozenset() if len(wanted) > LOOKED_MAX else lost(repo, wanted)


def lost(repo: Repository, packs: Mapping[str, int]) -> frozenset[str]:
    """The same of any number."""
    if not packs:
        return frozenset()

    def unlisted() -> dict[str, int]:
        left = dict(packs)
        for stat in layout.ours_in(repo.store.list("packs/")):
            name = stat.key.rpartition("/")[2]
            if left.get(name) == stat.size_bytes:
                del left[name]
        return left

    wanted = retry(repo.clock, unlisted)
    # A listing may lag behind: what it does not show is asked for by name before it is called lost.
    return frozenset(name for name, size in wanted.items() if not _there(repo, name, size))


def _there(repo: Repository, name: str, size_bytes: int) -> bool:
    try:
        return retry(repo.clock, lambda: repo.store.stat(key_of(name))).size_bytes == size_bytes
    except NotThere:
        return False


class DamagedObject(Protocol):
    """What is kept of a finding; `integrity.report.Finding` is one."""

    object: str
    by_content: bool
    why: str
    lost: str
    mend: str


class Level(StrEnum):
    STRUCTURE = "structure"
    SAMPLE = "sample"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How far the reading of packs has come. None: not known yet, there was no run to measure a pace by."""

    never_verified: int
    never_verified_bytes: int
    oldest_verified_at: datetime | None
    bytes_per_day: float | None
    days_to_full_coverage: float | None  # until every pack was read once; 0: it was
    days_a_round: float | None  # in which this pace reads everything once


class PackHealth:
    """Used by one thread. Two processes at once see each other's marks."""

    def __init__(self, file: Path | None) -> None:
        """`file` None: a ledger that forgets, for a caller who keeps none."""
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        self._db = _open(file)

    @classmethod
    def of(cls, repo: Repository) -> Self:
        return cls(file_of(repo))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *gone: object) -> None:
        self._db.close()

    def know(self, packs: Iterable[tuple[str, int]]) -> None:
        """These are there now, and no others."""
        (before,) = self._db.execute("SELECT coalesce(max(seen), 0) FROM pack").fetchone()
        now = before + 1
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT INTO pack VALUES (?, ?, NULL, NULL, ?) ON CONFLICT (name)"
            " DO UPDATE SET size = excluded.size, seen = excluded.seen",
            ((bytes.fromhex(name), size, now) for name, size in packs),
        )
        self._db.execute("DELETE FROM pack WHERE seen <> ?", (now,))
        self._db.execute("COMMIT")

    def due(self, start: str) -> Iterator[tuple[str, int]]:
        """Every pack once: what was found damaged, what was never read, what was read longest ago. Among
        equals from the name `start` on, so that a new ledger does not begin at the same place as the last."""
        self._db.executescript("DROP TABLE IF EXISTS temp.due")
        self._db.execute(
            "CREATE TEMP TABLE due AS SELECT name, size FROM pack ORDER BY"
            " result IS 'damaged' DESC, verified_at IS NOT NULL, verified_at, name < ?, name",
            (bytes.fromhex(start),),
        )
        last = 0
        while True:
            page = self._db.execute(
                "SELECT rowid, name, size FROM temp.due WHERE rowid > ? ORDER BY rowid LIMIT ?",
                (last, _PAGE),
            ).fetchall()
            if not page:
                return
            for last, name, size in page:  # noqa: B007 — where the next page begins
                yield name.hex(), size

    def record(self, name: str, *, at: datetime, sound: bool) -> None:
        self._db.execute(
            "UPDATE pack SET verified_at = ?, result = ? WHERE name = ?",
            (_text(at), "sound" if sound else "damaged", bytes.fromhex(name)),
        )

    def finish(
        self,
        findings: Iterable[DamagedObject],
        *,
        level: Level,
        packs_read: int,
        bytes_read: int,
        at: datetime,
        took: timedelta,
    ) -> None:
        """What this verification found takes the place of what it looked at again."""
        self._db.execute("BEGIN")
        if level is not Level.STRUCTURE:
            self._db.execute(
                "INSERT INTO run VALUES (?, ?, ?, ?, ?)",
                (
                    _text(at),
                    level.value,
                    packs_read,
                    bytes_read,
                    took.total_seconds(),
                ),
            )
        self._db.execute("DELETE FROM damage WHERE NOT by_content OR ?", (level is Level.FULL,))
        # A sample clears what it read whole, and no other.
        self._db.execute(
            "DELETE FROM damage WHERE object IN (SELECT 'packs/' || substr(lower(hex(name)), 1, 2)"
            " || '/' || lower(hex(name)) FROM pack WHERE result = 'sound')"
        )
        self._db.executemany(
            "INSERT INTO damage VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (object) DO UPDATE SET"
            " why = excluded.why, lost = excluded.lost, mend = excluded.mend",
            ((f.object, f.by_content, _text(at), f.why, f.lost, f.mend) for f in findings),
        )
        self._db.execute("COMMIT")

    def damaged(self) -> list[str]:
        """Every object that was found damaged and not found sound since."""
        rows = self._db.execute("SELECT object FROM damage ORDER BY object").fetchall()
        return [object_ for (object_,) in rows]

    def damaged_packs(self) -> list[Remembered]:
        return _damaged_packs(self._db)

    def miss(self, packs: Iterable[str], *, at: datetime) -> None:
        """A writer found that these are not there: the next one must know."""
        self._db.executemany(
            "INSERT OR IGNORE INTO damage VALUES (?, 0, ?, 'missing', 'unknown', ?)",
            ((key_of(name), _text(at), HEAL) for name in packs),
        )

    def total_bytes(self) -> int:
        (total,) = self._db.execute("SELECT coalesce(sum(size), 0) FROM pack").fetchone()
        return int(total)

    def coverage(self, now: datetime) -> Coverage:
        count, unread, total = self._db.execute(
            "SELECT coalesce(sum(verified_at IS NULL), 0),"
            " coalesce(sum(size) FILTER (WHERE verified_at IS NULL), 0), coalesce(sum(size), 0)"
            " FROM pack"
        ).fetchone()
        (oldest,) = self._db.execute("SELECT min(verified_at) FROM pack").fetchone()
        runs = self._db.execute(
            "SELECT at, bytes FROM run WHERE at >= ? ORDER BY at", (_text(now - PACE_OVER),)
        ).fetchall()
        return coverage(
            [Reading(at=_time(at), read_bytes=read) for at, read in runs],
            packs_unread=count,
            bytes_unread=unread,
            bytes_total=total,
            oldest=_time(oldest) if oldest else None,
        )


def coverage(
    runs: list[Reading],
    *,
    packs_unread: int,
    bytes_unread: int,
    bytes_total: int,
    oldest: datetime | None,
) -> Coverage:
    """Pure. A pace needs two runs: what the later ones read, over the time since the first. One run has no
    time to be divided by, and a guess would be shown as a promise."""
    pace: float | None = None
    if len(runs) > 1 and runs[-1].at > runs[0].at:
        pace = sum(r.read_bytes for r in runs[1:]) / ((runs[-1].at - runs[0].at) / _DAY)

    def days(size: int) -> float | None:
        return size / pace if pace else None

    return Coverage(
        never_verified=packs_unread,
        never_verified_bytes=bytes_unread,
        oldest_verified_at=oldest,
        bytes_per_day=pace,
        days_to_full_coverage=0.0 if packs_unread == 0 else days(bytes_unread),
        days_a_round=days(bytes_total),
    )
