"""What must hold before anything is broken on purpose. Each answer is a reason, not a boolean; with
`prepare` what can be made good is made good, and the rest is refused with what to do.
"""

from datetime import datetime, timedelta

import psycopg

from backup import status
from failover.stack_access import mirror_of, site_of
from infra import sites
from infra.data.load import load as load_data
from infra.faults import journal
from infra.lab import lab
from infra.lab.plan import LabPlan, plan
from infra.objectstore.mirror import Mirror
from infra.postgres import patroni, prepare
from zaibei.config.model import Role, Stack
from zaibei.kernel.clock import Clock
from zaibei.kernel.progress import Progress
from zaibei.kernel.state import state_dir

DATA_SEED = 1


def make_ready(
    stack: Stack, *, prepare_all: bool, scale: float, clock: Clock, progress: Progress
) -> tuple[LabPlan, sites.StackAccess]:
    """With `prepare_all`: no fault in force, sites up, data loaded. Whether that is enough asks the preflight."""
    on_paper = plan(stack, state_dir())
    if prepare_all:
        journal.undo_all(on_paper, clock)
        lab.up(stack, clock=clock, progress=progress)
    access = sites.load()
    if prepare_all:
        progress.step("loading the four base databases")
        with mirror_of(stack, access, "geo-images", clock) as pictures:
            load_data(
                lambda d: access.primary_dsn(user="zaibei_loader", database=d),
                access.password("zaibei_loader"),
                _Creates(pictures),
                seed=DATA_SEED,
                scale=scale,
                progress=progress,
            )
    return on_paper, access


class _Creates:
    """The mirror as the loader wants a store: `create` answers with a version, and two have two."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def create(self, key: str, data: bytes) -> str | None:
        self._mirror.create(key, data)
        return None


def why_not_steady(stack: Stack, access: sites.StackAccess) -> str | None:
    remote = next((s.name for s in stack.sites if s.role is Role.REMOTE), None)
    return patroni.why_not_healthy(
        access,
        writer=site_of(stack, Role.PRODUCTION),
        standby=site_of(stack, Role.SAME_CITY),
        remote=remote,
    )


def people(access: sites.StackAccess) -> int | None:
    """How many persons the population database holds; None: the table is not there or is empty."""
    try:
        with prepare.connect(access, "population", user="zaibei_probe") as db:
            row = db.execute("SELECT count(*) FROM person").fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    assert row is not None
    count = row[0]
    assert isinstance(count, int)
    return count or None


def why_no_recent_backup(stack: Stack, *, now: datetime) -> str | None:
    """Of each vault that a database's policy names: its last complete backup, against `max_age`."""
    held = status.read()["vaults"]
    if not held:
        return "no backup was ever taken"
    limit = min((d.backup.max_age for d in stack.databases), default=timedelta(hours=1))
    for site in sorted({v for d in stack.databases for v in d.backup.vaults}):
        entries = [e for name, e in held.items() if name.partition("/")[0] == site]
        told = [e["postgres"]["last_success"] for e in entries if e.get("postgres")]
        last = max(filter(None, told), default=None)  # all in one form, so text sorts as time
        if last is None:
            return f"the vault of {site} has none"
        age = now - datetime.fromisoformat(last)
        if age > limit:
            return (
                f"the newest in the vault of {site} is {age.total_seconds() / 60:.0f} minutes old"
            )
    return None
