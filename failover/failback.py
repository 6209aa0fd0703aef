"""Around the fault: the point in time that the backup must restore, who writes, the way home, and whether
every copy holds what the clients were told.
"""

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg

from failover import readback, stack_access, steady_state
from failover.checker import Row
from failover.observer import writer_now
from failover.record import Returned
from infra.objectstore import converge
from infra.objectstore.contract import ObjectStore
from infra.postgres import patroni
from zaibei.kernel.bilingual import Bilingual, joined, quoted
from zaibei.kernel.errors import Refused, Unreachable, ZaibeiError
from zaibei.kernel.wait import wait_until

if TYPE_CHECKING:
    from failover.record import Run


_REJOIN = timedelta(seconds=120)
_CATCH_UP = timedelta(seconds=30)
_STEADY = timedelta(seconds=90)
_NOT_COMPARED = Bilingual("not compared", "没有比对")


def fail_back(run: "Run") -> Returned:
    """The lost site follows again, every copy is compared, then it takes the writing back as planned work."""
    begun = run.clock.monotonic()
    wrote = run.epochs["after"][0] or run.survivor
    old = run.writer if wrote != run.writer else run.survivor
    try:
        wait_until(
            lambda: patroni.why_not_healthy(
                run.access, writer=wrote, standby=old, remote=run.remote
            ),
            what=f"{old} to follow {wrote} again",
            deadline=_REJOIN,
            clock=run.clock,
        )
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
                lambda: steady_state.why_not_steady(run.asked.stack, run.access),
                what="the steady state",
                deadline=_STEADY,
                clock=run.clock,
            )
        except (Refused, Unreachable) as no:
            return not_returned(run, no.message, begun)
    writer, _ = writer_now(run.access, remote=run.remote)
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
        took=timedelta(seconds=run.clock.monotonic() - begun),
        switchover=took_over,
        writer=writer or None,
        healed=healed,
        divergent=divergent,
        object_detail=object_detail,
        disagreeing=disagreeing,
        replica_detail=replica_detail,
    )


def not_returned(run: "Run", why: str, begun: float) -> Returned:
    return Returned(
        done=False,
        detail=quoted(why),
        took=timedelta(seconds=run.clock.monotonic() - begun),
        switchover=None,
        healed=0,
        divergent=-1,
        writer=(
            run.late("writer-now", lambda: writer_now(run.access, remote=run.remote)) or ("", None)
        )[0]
        or None,
        object_detail=_NOT_COMPARED,
        disagreeing=(_NOT_COMPARED,),
        replica_detail=_NOT_COMPARED,
    )


def _converge(run: "Run") -> tuple[int, int, str]:
    """Every bucket that both same-city sites hold: copy what one lacks, audit all of it, publish."""
    healed = left = conflicts = 0
    named: list[str] = []
    for bucket in run.asked.stack.buckets:
        if not {run.writer, run.survivor} <= set(bucket.sites):
            continue
        a, b = (
            stack_access.business_store(run.access, s, bucket.name)
            for s in (run.writer, run.survivor)
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
            wait_until(
                why_not,
                what=f"{site} to hold what the writer holds",
                deadline=_CATCH_UP,
                clock=run.clock,
            )
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
