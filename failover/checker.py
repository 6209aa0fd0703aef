"""What became of every write: the ledger against what is there after recovery. Set-full semantics.

An acknowledged write that is absent is lost; one with other bytes is corrupted; a write that was
certainly refused and is there has risen again; what is there and was never attempted is a phantom.
A write that nobody knows about (INFO) may be there or not and is never counted as lost.

The work is a join of two big sets, so a database does it: SQLite, in a file of its own that spills to
disk and goes away by itself. Memory does not grow with the drill; time is O(n log n).
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from failover.ledger.format import Kind, Op, Outcome
from zaibei.kernel.errors import Damage

NAMED_MAX = 20  # ids a finding names; all are counted
_MANY = 1_000  # records in memory at a time
_CACHE_KIB = 32 * 1024

Row = tuple[str, str, int | None]  # op id, SHA-256 of the payload as hex, epoch that wrote it
Object = tuple[str, str]  # key, SHA-256 of the bytes that were read back (never a HEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Of one kind. `read` False: nobody looked, so the absent are not known to be absent."""

    read: bool
    attempted: int = 0
    ok: int = 0
    fail: int = 0
    info: int = 0
    present: int = 0
    info_present: int = 0
    lost: int = 0
    corrupted: int = 0
    resurrected: int = 0
    phantoms: int = 0
    duplicates: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochSpan:
    """When one epoch certainly acknowledged."""

    epoch: int
    writes: int
    first_sent_s: float
    first_completed_s: float
    last_sent_s: float
    last_completed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Facts, not a verdict. `verdict.judge` makes one."""

    rows: Tally
    objects: Tally
    epochs: tuple[EpochSpan, ...]
    overlap: int  # acknowledged writes of an old epoch, sent after a newer one had acknowledged
    overlap_s: float  # from the newer epoch's acknowledgement to the last such write's
    other_epoch: int  # acknowledged by one epoch, present as written by another
    newest_safe_s: float | None  # completion of the newest OK such that every earlier OK survived
    first_ok_s: float | None
    newest_lost_s: float | None
    examples: dict[str, tuple[str, ...]]  # finding -> some ids

    @property
    def lost(self) -> int:
        return self.rows.lost + self.objects.lost

    @property
    def corrupted(self) -> int:
        return self.rows.corrupted + self.objects.corrupted

    @property
    def resurrected(self) -> int:
        return self.rows.resurrected + self.objects.resurrected

    @property
    def phantoms(self) -> int:
        return self.rows.phantoms + self.objects.phantoms

    @property
    def duplicates(self) -> int:
        return self.rows.duplicates + self.objects.duplicates

    @property
    def acknowledged(self) -> int:
        return self.rows.ok + self.objects.ok

    @property
    def unread(self) -> tuple[Kind, ...]:
        """Kinds that were written and not read back."""
        return tuple(
            kind
            for kind, tally in ((Kind.ROW, self.rows), (Kind.OBJECT, self.objects))
            if tally.attempted and not tally.read
        )


def check(
    ops: Iterable[Op],
    present_rows: Iterable[Row] | None,
    present_objects: Iterable[Object] | None,
    *,
    prefix: str,
) -> Findings:
    """Compare. Any order will do; both sides are read once.

    `prefix` is the drill's own (`<drill>-`): what other drills left behind is not looked at. None
    for a side that was not read: its tally says so, and nothing is counted as lost.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as db:
        db.executescript(_SCHEMA.format(cache=_CACHE_KIB))
        db.execute("BEGIN")
        _load_ops(db, ops)
        _load_present(db, Kind.ROW, present_rows, prefix)
        _load_present(
            db,
            Kind.OBJECT,
            None if present_objects is None else ((key, sha, None) for key, sha in present_objects),
            prefix,
        )
        read = {Kind.ROW: present_rows is not None, Kind.OBJECT: present_objects is not None}
        _mark(db, [kind for kind, was in read.items() if was])
        epochs = tuple(_epochs(db))
        overlap, overlap_s = _overlap(db, epochs)
        times = db.execute(_TIMES).fetchone()
        findings = Findings(
            rows=_tally(db, Kind.ROW, read=read[Kind.ROW]),
            objects=_tally(db, Kind.OBJECT, read=read[Kind.OBJECT]),
            epochs=epochs,
            overlap=overlap,
            overlap_s=overlap_s,
            other_epoch=_one(db, _OTHER_EPOCH),
            newest_safe_s=times[0],
            first_ok_s=times[1],
            newest_lost_s=times[2],
            examples=_examples(db, epochs),
        )
    _assert_sound(findings)
    return findings


def _assert_sound(findings: Findings) -> None:
    for tally in (findings.rows, findings.objects):
        assert tally.attempted == tally.ok + tally.fail + tally.info
        assert tally.lost <= tally.ok, "only an acknowledged write can be lost"
        assert tally.resurrected <= tally.fail
        assert tally.read or not tally.lost, "nobody looked, so nothing is known to be absent"


_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA cache_size = -{cache};
CREATE TABLE op (
  kind TEXT, id TEXT, outcome TEXT, sha TEXT, epoch INT, sent REAL, completed REAL,
  finding TEXT,
  PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE TABLE present (kind TEXT, id TEXT, sha TEXT, epoch INT, copies INT,
  PRIMARY KEY (kind, id)) WITHOUT ROWID;
"""
# The second appearance of an id is what an index on the other side should have refused. Two
# appearances with different bytes keep the wrong ones, so that the harm is seen.
_ADD_PRESENT = """
INSERT INTO present VALUES (?1, ?2, ?3, ?4, 1)
ON CONFLICT DO UPDATE SET copies = copies + 1, sha = CASE
  WHEN sha = (SELECT op.sha FROM op WHERE op.kind = ?1 AND op.id = ?2) THEN ?3 ELSE sha END
"""
# The whole truth table of set-full, in one place. Absent INFO and absent FAIL are as they should be.
_MARK = """
UPDATE op SET finding = (
  SELECT CASE
    WHEN op.outcome = 'ok'   AND p.id IS NULL     THEN 'lost'
    WHEN op.outcome = 'fail' AND p.id IS NOT NULL THEN 'resurrected'
    WHEN p.id IS NOT NULL AND p.sha IS NOT op.sha THEN 'corrupted'
    WHEN op.outcome = 'info' AND p.id IS NOT NULL THEN 'info_present'
  END
  FROM (SELECT 1) LEFT JOIN present AS p ON p.kind = op.kind AND p.id = op.id)
WHERE kind = ?
"""
_PHANTOMS = "FROM present LEFT JOIN op USING (kind, id) WHERE op.id IS NULL"
_OTHER_EPOCH = """
SELECT count(*) FROM op JOIN present USING (kind, id)
WHERE op.outcome = 'ok' AND op.epoch <> present.epoch"""
_GONE = "finding IN ('lost', 'corrupted')"
_TIMES = f"""
SELECT
  (SELECT max(completed) FROM op WHERE outcome = 'ok' AND finding IS NULL AND completed <
     (SELECT ifnull(min(completed), 9e999) FROM op WHERE outcome = 'ok' AND {_GONE})),
  (SELECT min(completed) FROM op WHERE outcome = 'ok'),
  (SELECT max(completed) FROM op WHERE outcome = 'ok' AND {_GONE})"""  # noqa: S608
_OVERLAPPING = "outcome = 'ok' AND epoch = ? AND sent > ?"


def _load_ops(db: sqlite3.Connection, ops: Iterable[Op]) -> None:
    rows = (
        (o.kind, o.op_id, o.outcome, o.payload_sha256, o.epoch, o.sent_s, o.completed_s)
        for o in ops
    )
    try:
        for some in _batches(rows):
            db.executemany("INSERT INTO op VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", some)
    except sqlite3.IntegrityError as twice:
        raise Damage("the ledger names one write twice: an id was used again") from twice


def _load_present(
    db: sqlite3.Connection, kind: Kind, present: Iterable[Row] | None, prefix: str
) -> None:
    mine = ((kind, i, sha, epoch) for i, sha, epoch in present or () if i.startswith(prefix))
    for some in _batches(mine):
        db.executemany(_ADD_PRESENT, some)


def _mark(db: sqlite3.Connection, kinds: Sequence[Kind]) -> None:
    for kind in kinds:
        db.execute(_MARK, (kind,))


def _tally(db: sqlite3.Connection, kind: Kind, *, read: bool) -> Tally:
    outcomes = dict(
        db.execute("SELECT outcome, count(*) FROM op WHERE kind = ? GROUP BY 1", (kind,))
    )
    found = dict(db.execute("SELECT finding, count(*) FROM op WHERE kind = ? GROUP BY 1", (kind,)))
    # A corrupted write of an INFO op is counted too: those bytes were never sent by anybody.
    return Tally(
        read=read,
        attempted=sum(outcomes.values()),
        ok=outcomes.get(Outcome.OK, 0),
        fail=outcomes.get(Outcome.FAIL, 0),
        info=outcomes.get(Outcome.INFO, 0),
        present=_one(db, "SELECT ifnull(sum(copies), 0) FROM present WHERE kind = ?", kind),
        info_present=found.get("info_present", 0),
        lost=found.get("lost", 0),
        corrupted=found.get("corrupted", 0),
        resurrected=found.get("resurrected", 0),
        phantoms=_one(db, f"SELECT count(*) {_PHANTOMS} AND present.kind = ?", kind),
        duplicates=_one(db, "SELECT ifnull(sum(copies - 1), 0) FROM present WHERE kind = ?", kind),
    )


def _epochs(db: sqlite3.Connection) -> Iterator[EpochSpan]:
    for epoch, n, *times in db.execute(
        "SELECT epoch, count(*), min(sent), min(completed), max(sent), max(completed) FROM op"
        " WHERE outcome = 'ok' AND epoch IS NOT NULL GROUP BY epoch ORDER BY epoch"
    ):
        yield EpochSpan(
            epoch=epoch,
            writes=n,
            first_sent_s=times[0],
            first_completed_s=times[1],
            last_sent_s=times[2],
            last_completed_s=times[3],
        )


def _newer_from(epochs: Sequence[EpochSpan]) -> Iterator[tuple[int, float]]:
    """Each epoch with the moment from which a newer one had certainly acknowledged."""
    newer_s = float("inf")
    for span in reversed(epochs):
        yield span.epoch, newer_s
        newer_s = min(newer_s, span.first_completed_s)


def _overlap(db: sqlite3.Connection, epochs: Sequence[EpochSpan]) -> tuple[int, float]:
    """Split brain, soundly: an old epoch acknowledged a write that did not exist yet when a newer
    epoch had already acknowledged one. Clocks of sites play no part, and a slow answer of the old
    epoch to a write sent before the change is no split brain.
    """
    count, longest_s = 0, 0.0
    for epoch, newer_s in _newer_from(epochs):
        n, last_s = db.execute(
            f"SELECT count(*), max(completed) FROM op WHERE {_OVERLAPPING}",  # noqa: S608
            (epoch, newer_s),
        ).fetchone()
        if n:
            count += n
            longest_s = max(longest_s, last_s - newer_s)
    return count, longest_s


def _examples(db: sqlite3.Connection, epochs: Sequence[EpochSpan]) -> dict[str, tuple[str, ...]]:
    named: dict[str, tuple[str, ...]] = {}
    for finding in ("lost", "corrupted", "resurrected"):
        named[finding] = _ids(
            db, "SELECT id FROM op WHERE finding = ? ORDER BY completed, id", finding
        )
    named["phantoms"] = _ids(db, f"SELECT present.id {_PHANTOMS} ORDER BY 1")
    named["duplicates"] = _ids(db, "SELECT id FROM present WHERE copies > 1 ORDER BY 1")
    named["overlap"] = tuple(
        i
        for epoch, newer_s in _newer_from(epochs)
        for i in _ids(
            db,
            f"SELECT id FROM op WHERE {_OVERLAPPING} ORDER BY sent, id",  # noqa: S608
            epoch,
            newer_s,
        )
    )[:NAMED_MAX]
    return {finding: ids for finding, ids in named.items() if ids}


def _ids(db: sqlite3.Connection, query: str, *arguments: object) -> tuple[str, ...]:
    return tuple(i for (i,) in db.execute(f"{query} LIMIT {NAMED_MAX}", arguments))


def _one(db: sqlite3.Connection, query: str, *arguments: object) -> int:
    return int(db.execute(query, arguments).fetchone()[0])


def _batches(items: Iterable[tuple[object, ...]]) -> Iterator[list[tuple[object, ...]]]:
    source = iter(items)
    while some := list(islice(source, _MANY)):
        yield some
