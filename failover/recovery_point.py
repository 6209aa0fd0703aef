"""Names the drill's point of recovery, and waits until every vault holds the WAL up to it."""

from typing import TYPE_CHECKING

from backup.format.wal_segment import lsn as parse_lsn
from backup.postgres.wal_receiver import WalArchiver
from failover.record import Point
from infra.postgres import prepare

if TYPE_CHECKING:
    from failover.record import Run


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
