"""Restores the drill's backup in a clean room and compares it with the ledger."""

from datetime import timedelta
from typing import TYPE_CHECKING

from backup.postgres import clean_room
from backup.repository.repository import Repository
from failover import readback
from failover.ledger.format import Kind, Outcome
from failover.ledger.reader import Reader
from failover.record import Restored
from infra.data.facts import Facts, facts
from zaibei.kernel.bilingual import Bilingual, joined, quoted
from zaibei.kernel.errors import ZaibeiError
from zaibei.kernel.progress import Silent
from zaibei.kernel.state import state_dir

if TYPE_CHECKING:
    from failover.record import Run


BASE_DATABASES = (
    "population",
    "legal_entity",
    "geospatial",
    "economy",
)  # nobody writes them in a drill
_RECOVERY = timedelta(minutes=5)


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
        with clean_room.restored(
            repo,
            snapshot,
            workdir=rooms,
            clock=run.clock,
            progress=Silent(),
            within=_RECOVERY,
            target=clean_room.Target(how="name", value=run.point.name),
        ) as clean:
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
            verified=False,
            detail=quoted(f"{type(bad).__name__}: {bad.message}"),
            vault=repo.name,
            snapshot=snapshot.sequence,
            target=run.point.name,
            took=timedelta(0),
            rows_compared=0,
            tables_compared=0,
        )
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
        vault=repo.name,
        snapshot=snapshot.sequence,
        target=run.point.name,
        took=took,
        rows_compared=rows,
        tables_compared=tables,
    )


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
