"""Around the fault: the point in time that the backup must restore, who writes, the way home, and whether
every copy holds what the clients were told.
"""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg

from backup import room
from backup.receiver import WalArchiver
from backup.repository import Repository
from backup.wal import lsn as parse_lsn
from failover import ground, readback
from failover.check import Row
from failover.ledger import Kind, Outcome, Reader
from infra.data.facts import Facts, facts
from infra.objectstore import converge
from infra.objectstore.contract import ObjectStore
from infra.postgres import patroni, prepare
from zaibei.kernel.bilingual import Bilingual, joined, quoted
from zaibei.kernel.errors import Refused, Unreachable, ZaibeiError
from zaibei.kernel.progress import Silent
from zaibei.kernel.state import state_dir
from zaibei.kernel.wait import wait_until

if TYPE_CHECKING:
    from failover.drill import Run

BASE_DATABASES = (
    "population",
    "legal_entity",
    "geospatial",
    "economy",
)  # nobody writes them in a drill
_REJOIN = timedelta(seconds=120)
_CATCH_UP = timedelta(seconds=30)
_STEADY = timedelta(seconds=90)
_RECOVERY = timedelta(minutes=5)
_NOT_COMPARED = Bilingual("not compared", "没有比对")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A named restore point, and the monotonic moments it certainly lies between."""

    name: str
    lsn: str
    before_s: float
    after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    verified: bool
    detail: str
    vault: str
    snapshot: int
    target: str
    took: timedelta
    rows_compared: int
    tables_compared: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    done: bool
    detail: str
    took: timedelta
    switchover: timedelta | None
    writer: str | None
    healed: int
    divergent: int
    object_detail: str
    disagreeing: tuple[str, ...]
    replica_detail: str

    @property
    def compared(self) -> bool:
        return self.divergent >= 0


def mark_point(run: "Run") -> Point:
    """Name this moment in the WAL and close its segment, so that the archive can hold it whole."""
    run.progress.step("naming the point in time that the backup must restore")
    name = f"zaibei-{run.drill_id}"
    with prepare.connect(run.access, "postgres", user="zaibei_backup") as db:
        before = run.clock.monotonic()
        row = db.execute("SELECT pg_create_restore_point(%s)::text", (name,)).fetchone()
        after = run.clock.monotonic()
        assert row is not None
        db.execute("SELECT pg_switch_wal()")
    return Point(name=name, lsn=str(row[0]), before_s=before, after_s=after)


def why_not_archived(run: "Run", archiver: WalArchiver) -> str | None:
    """Whether every vault holds the WAL up to the point."""
    assert run.point is not None
    wanted = parse_lsn(run.point.lsn)
    status = archiver.status()
    for vault in status.vaults:
        if vault.archived_lsn is None or parse_lsn(vault.archived_lsn) < wanted:
            return (
                f"{vault.vault} holds WAL up to {vault.archived_lsn or 'nothing'}, {run.point.lsn} is wanted"
                f"{': ' + (vault.error or status.error or '') if vault.error or status.error else ''}"
            )
    return None


def writer_now(run: "Run") -> tuple[str, int | None]:
    """Who takes writes, and its timeline; ("", None) when nobody does."""
    try:
        with prepare.connect(run.access, "health_code", user="zaibei_probe") as db:
            row = db.execute(
                "SELECT host(inet_server_addr()),"
                " ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int"
            ).fetchone()
    except psycopg.Error:
        return "", None
    assert row is not None
    # HAProxy's door at the same machine may be what answered; the member's own address is Patroni's.
    epoch = row[1]
    assert isinstance(epoch, int)
    for site in run.access.sites:
        try:
            if patroni.is_writer(run.access, site.name) and site.name != run.remote:
                return site.name, epoch
        except Unreachable:
            continue
    return "", epoch


def restore_and_compare(run: "Run", repos: list[Repository]) -> Restored:
    """From the vault that is farthest away, in a clean room, to the named point; then every acknowledged
    write before the point must be there, none from after it, and the base data row for row.
    """
    assert run.point is not None
    repo = repos[-1]
    wanted, later = _promised(run)
    source = {d: _facts_of(run, d) for d in BASE_DATABASES}
    rooms = state_dir() / "rooms"
    rooms.mkdir(parents=True, exist_ok=True)
    snapshot = repo.find("latest", kind="postgres")
    try:
        with room.restored(
            repo, snapshot, workdir=rooms, clock=run.clock, progress=Silent(), within=_RECOVERY,
            target=room.Target(how="name", value=run.point.name),
        ) as clean:  # fmt: skip
            there = {
                key: sha
                for key, sha, _ in readback.rows(clean.dsn("health_code"), None, prefix=run.prefix)
            }
            missing = [i for i, sha in wanted.items() if there.get(i) != sha]
            too_new = [i for i in later if i in there]
            differing = [
                f"{d}.{t.name}"
                for d, facts_ in source.items()
                for t, got in zip(facts_.tables, facts(clean.dsn(d)).tables, strict=True)
                if t != got
            ]
            failed = [f"{c.name}: {c.detail}" for c in clean.checks if c.passed is not True]
            took = clean.took
    except ZaibeiError as bad:
        return Restored(
            verified=False, detail=quoted(f"{type(bad).__name__}: {bad.message}"), vault=repo.name,
            snapshot=snapshot.sequence, target=run.point.name, took=timedelta(0),
            rows_compared=0, tables_compared=0,
        )  # fmt: skip
    rows = len(wanted) + sum(t.rows for f in source.values() for t in f.tables)
    tables = sum(len(f.tables) for f in source.values())
    faults: list[str] = [
        *(
            Bilingual(
                f"{len(missing)} acknowledged writes are missing",
                f"缺少 {len(missing)} 笔已确认的写入",
            )
            for _ in missing[:1]
        ),
        *(
            Bilingual(
                f"{len(too_new)} writes are from after the point",
                f"有 {len(too_new)} 笔写入晚于恢复点",
            )
            for _ in too_new[:1]
        ),
        *(
            Bilingual(
                f"tables differ: {', '.join(differing[:5])}",
                f"表内容不一致：{'、'.join(differing[:5])}",
            )
            for _ in differing[:1]
        ),
        *failed,
    ]
    if not wanted:
        faults.append(
            Bilingual(
                "no write was acknowledged before the point: nothing was proven",
                "恢复点之前没有一笔已确认的写入，证明不了任何事情",
            )
        )
    return Restored(
        verified=not faults,
        detail=joined(faults)
        or Bilingual(
            f"{len(wanted)} acknowledged writes and {rows - len(wanted)} rows of {tables} tables are there",
            f"{len(wanted)} 笔已确认的写入和 {tables} 张表的 {rows - len(wanted)} 行均在",
        ),
        vault=repo.name, snapshot=snapshot.sequence, target=run.point.name, took=took,
        rows_compared=rows, tables_compared=tables,
    )  # fmt: skip


def fail_back(run: "Run") -> Returned:
    """The lost site follows again, every copy is compared, then it takes the writing back as planned work."""
    begun = run.clock.monotonic()
    wrote = run.epochs["after"][0] or run.survivor
    old = run.writer if wrote != run.writer else run.survivor
    try:
        wait_until(
            lambda: patroni.why_not_healthy(run.access, writer=wrote, standby=old, remote=run.remote),
            what=f"{old} to follow {wrote} again", deadline=_REJOIN, clock=run.clock,
        )  # fmt: skip
    except Unreachable as never:
        return not_returned(run, never.message, begun)
    healed, divergent, object_detail = _converge(run)
    disagreeing, replica_detail = _compare_replicas(run)
    took_over: timedelta | None = None
    if wrote != run.writer:
        asked = run.clock.monotonic()
        try:
            patroni.switchover(run.access, leader=wrote, candidate=run.writer)
            took_over = timedelta(seconds=run.clock.monotonic() - asked)
            wait_until(
                lambda: ground.why_not_steady(run.asked.stack, run.access),
                what="the steady state", deadline=_STEADY, clock=run.clock,
            )  # fmt: skip
        except (Refused, Unreachable) as no:
            return not_returned(run, no.message, begun)
    writer, _ = writer_now(run)
    return Returned(
        done=writer == run.writer,
        detail=Bilingual(
            f"{writer or 'nobody'} writes again, {wrote} follows",
            f"{writer or '无站点'} 恢复写入，{wrote} 跟随",
        )
        if took_over
        else Bilingual(
            f"{writer} never stopped being the writer", f"{writer} 始终是写入站点，无需回切"
        ),
        took=timedelta(seconds=run.clock.monotonic() - begun), switchover=took_over,
        writer=writer or None, healed=healed, divergent=divergent, object_detail=object_detail,
        disagreeing=disagreeing, replica_detail=replica_detail,
    )  # fmt: skip


def not_returned(run: "Run", why: str, begun: float) -> Returned:
    return Returned(
        done=False, detail=quoted(why), took=timedelta(seconds=run.clock.monotonic() - begun),
        switchover=None, healed=0, divergent=-1,
        writer=(run.late("writer-now", lambda: writer_now(run)) or ("", None))[0] or None,
        object_detail=_NOT_COMPARED, disagreeing=(_NOT_COMPARED,), replica_detail=_NOT_COMPARED,
    )  # fmt: skip


def _promised(run: "Run") -> tuple[dict[str, str], list[str]]:
    """Rows acknowledged before the point (id → hash), and rows sent after it."""
    assert run.point is not None
    wanted, later = {}, []
    for op in Reader(run.ledger_file).ops():
        if op.kind is not Kind.ROW:
            continue
        if op.outcome is Outcome.OK and op.completed_s < run.point.before_s:
            wanted[op.op_id] = op.payload_sha256
        elif op.sent_s > run.point.after_s:
            later.append(op.op_id)
    return wanted, later


def _facts_of(run: "Run", database: str) -> Facts:
    dsn = run.access.primary_dsn(user="zaibei_probe", database=database)
    return facts(dsn, run.access.password("zaibei_probe"))


def _converge(run: "Run") -> tuple[int, int, str]:
    """Every bucket that both same-city sites hold: copy what one lacks, audit all of it, publish."""
    healed = left = conflicts = 0
    named: list[str] = []
    for bucket in run.asked.stack.buckets:
        if not {run.writer, run.survivor} <= set(bucket.sites):
            continue
        a, b = (
            ground.business_store(run.access, s, bucket.name) for s in (run.writer, run.survivor)
        )

        def why_not(store: ObjectStore = a) -> str | None:
            try:
                next(iter(store.list("no-such-prefix/")), None)
            except ZaibeiError as gone:
                return gone.message
            return None

        wait_until(why_not, what=f"{a.name} to answer", deadline=_STEADY, clock=run.clock)
        done = converge.heal(a, b)
        after = converge.diff(a, b)
        converge.publish(after, bucket=bucket.name, clock=run.clock)
        healed += sum(map(len, done.copied.values()))
        conflicts += len(done.conflicts)
        left += after.total
        named += [f"{d.key}: {d.kind.value}: {d.a} / {d.b}" for d in after.first[:3]]
    detail = Bilingual(
        f"{healed} objects copied to the store that lacked them, {left} still differ",
        f"向缺失的存储补齐 {healed} 个对象，仍有 {left} 个不一致",
    )
    return healed, max(left, conflicts), joined([detail, *named[:3]])


def _compare_replicas(run: "Run") -> tuple[tuple[str, ...], str]:
    """Every member against the writer, after replay has come as far. Never mixed: each whole, by itself."""
    reference = _digest(list(readback.writer_rows(run.access, prefix=run.prefix)))
    disagreeing = []
    members = (run.writer, run.survivor, run.remote)
    for site in members:
        dsn = run.access.member_dsn(site, user="zaibei_probe", database="health_code")
        password = run.access.password("zaibei_probe")

        def why_not(dsn: str = dsn, password: str = password) -> str | None:
            try:
                got = _digest(list(readback.rows(dsn, password, prefix=run.prefix)))
            except psycopg.Error as gone:
                return str(gone)
            return (
                None if got == reference else f"{got[0]} rows where the writer has {reference[0]}"
            )

        try:
            wait_until(why_not, what=f"{site} to hold what the writer holds", deadline=_CATCH_UP,
                       clock=run.clock)  # fmt: skip
        except Unreachable as different:
            disagreeing.append(different.message)
    detail = joined(disagreeing) or Bilingual(
        f"{', '.join(members)} hold the same {reference[0]} rows",
        f"{'、'.join(members)} 的 {reference[0]} 行内容一致",
    )
    return tuple(disagreeing), detail


def _digest(rows: list[Row]) -> tuple[int, str]:
    told = hashlib.sha256()
    for key, sha, epoch in sorted(rows):
        told.update(f"{key} {sha} {epoch}\n".encode())
    return len(rows), told.hexdigest()
