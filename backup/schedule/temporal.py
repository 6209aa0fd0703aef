"""The same jobs on many machines: schedules in Temporal, workers beside the data.

Temporal starts each slot, gives a dead worker's slot to another, and shows both. That a slot gets
one snapshot is still guaranteed by the vault (`backup.schedule.slot.fence`): a worker that was
thought dead and comes back late is refused at its commit. asyncio only here: it is how the SDK's
client works.
"""

import asyncio
import contextvars
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from temporalio import activity
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, TLSConfig
from temporalio.worker import Worker

from backup.locations.conninfo import without_secrets
from backup.schedule import model
from backup.schedule.execute import Opened, Outcome, Standby, perform
from backup.schedule.model import Job
from backup.schedule.slot import Slot
from backup.schedule.workflow import ACTIVITY, NAME, BackupSlot
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Unreachable, Usage, ZaibeiError

TASK_QUEUE: Final = "zaibei-backup"
HEARTBEAT: Final = timedelta(seconds=60)  # without one for so long, a worker counts as dead
AT_ONCE: Final = 2  # backups a worker
GRACE: Final = timedelta(seconds=30)  # for running backups when the worker is asked to end
_CONNECT_S: Final = 20.0
_PREFIX: Final = "zaibei-backup-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the Temporal server is, and how we show who we are."""

    target: str  # host:port
    namespace: str = "default"
    task_queue: str = TASK_QUEUE
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise Usage("a client certificate has two files", hint="--tls-cert and --tls-key")


class Activities:
    """What a worker does. `open_repositories`: by job, as the host's own configuration has it."""

    def __init__(
        self, open_repositories: Callable[[Job], Opened], standby: Standby, clock: Clock
    ) -> None:
        self._open, self._standby, self._clock = open_repositories, standby, clock

    @activity.defn(name=ACTIVITY)
    def backup_slot(self, told: dict[str, Any], at: str) -> dict[str, Any]:
        """Safe to repeat. Raises ApplicationError, which Temporal retries, but not where another attempt would
        end as this one did: a job that nobody can follow, a source of which something cannot be read."""
        job = model.from_json(told)
        slot = Slot(job=job.name, at=datetime.fromisoformat(at), token=activity.info().attempt)
        with _beating() as progress:
            try:
                done = perform(
                    job,
                    slot,
                    self._open(job),
                    standby=self._standby,
                    clock=self._clock,
                    progress=progress,
                    leased=False,
                )
            except ZaibeiError as bad:
                lasting = isinstance(bad, Usage)
                raise ApplicationError(
                    bad.message, type=type(bad).__name__, non_retryable=lasting
                ) from bad
        if done.outcome is Outcome.FAILED:
            raise ApplicationError("; ".join(done.problems), type="Failed")
        told = asdict(done) | {"outcome": done.outcome.value, "host": socket.gethostname()}
        if done.outcome is Outcome.INCOMPLETE:
            # Not a completed workflow: whoever counts failures there would take half a backup for a whole one.
            why = "; ".join(done.problems)
            raise ApplicationError(why, told, type="Incomplete", non_retryable=True)
        return told


class _Beats:
    """Progress as heartbeats: whoever looks at the workflow sees where the backup is."""

    def __init__(self) -> None:
        self._what, self._amount = "starting", 0

    def step(self, what: str) -> None:
        self._what = what
        self.beat()

    def done(self, amount: int, total: int | None = None, *, unit: str = "") -> None:
        self._amount = amount

    def note(self, what: str) -> None:
        activity.logger.warning(what)

    def beat(self) -> None:
        activity.heartbeat({"step": self._what, "done": self._amount, "pid": os.getpid()})


@contextmanager
def _beating() -> Iterator[_Beats]:
    """Also while one long call says nothing: only a dead worker is silent."""
    beats, over = _Beats(), threading.Event()
    limit = activity.info().heartbeat_timeout or HEARTBEAT
    context = contextvars.copy_context()

    def tick() -> None:
        while not over.wait(limit.total_seconds() / 4):
            context.run(beats.beat)

    ticking = threading.Thread(target=tick, name="heartbeat", daemon=True)
    beats.beat()
    ticking.start()
    try:
        yield beats
    finally:
        over.set()
        ticking.join()


async def connect(address: Address) -> Client:
    """Raises Unreachable."""
    tls: bool | TLSConfig = False
    if address.ca is not None or address.cert is not None:
        tls = TLSConfig(
            server_root_ca_cert=address.ca.read_bytes() if address.ca else None,
            client_cert=address.cert.read_bytes() if address.cert else None,
            client_private_key=address.key.read_bytes() if address.key else None,
        )
    try:
        return await asyncio.wait_for(
            Client.connect(address.target, namespace=address.namespace, tls=tls), _CONNECT_S
        )
    except (RuntimeError, RPCError, TimeoutError) as bad:
        raise Unreachable(f"temporal at {address.target}: {bad}") from bad


async def work(address: Address, activities: Activities, stop: asyncio.Event) -> None:
    """Until `stop`: then running backups get GRACE, and what is not done goes to another worker."""
    client = await connect(address)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="slot") as pool:
        async with Worker(
            client,
            task_queue=address.task_queue,
            workflows=[BackupSlot],
            activities=[activities.backup_slot],
            activity_executor=pool,
            max_concurrent_activities=AT_ONCE,
            # Nothing is kept between tasks: a workflow must not wait ten seconds for a dead worker's memory.
            max_cached_workflows=0,
            graceful_shutdown_timeout=GRACE,
        ):
            await stop.wait()


async def publish(
    address: Address, jobs: Sequence[Job], *, heartbeat: timedelta = HEARTBEAT
) -> dict[str, str]:
    """Every job as a schedule: made, or brought up to date. What became of each, also of strays: schedules
    of ours without a job are named and left."""
    client = await connect(address)
    told: dict[str, str] = {}
    for job in jobs:
        wanted = _schedule(job, address, heartbeat)
        try:
            await client.create_schedule(id_of(job), wanted)
            told[job.name] = "made"
        except ScheduleAlreadyRunningError:
            handle = client.get_schedule_handle(id_of(job))
            await handle.update(lambda _, new=wanted: ScheduleUpdate(schedule=new))  # type: ignore[misc]
            told[job.name] = "updated"
    names = {id_of(j) for j in jobs}
    async for one in await client.list_schedules():
        if one.id.startswith(_PREFIX) and one.id not in names:
            told[one.id.removeprefix(_PREFIX)] = "stray"
    return told


def id_of(job: Job) -> str:
    return f"{_PREFIX}{job.name}"


def order(job: Job, *, heartbeat: timedelta = HEARTBEAT) -> dict[str, Any]:
    """The workflow's argument. No secret is in it: a job names files and variables. Raises Usage for a job that was
    added when a conninfo with a password was still taken."""
    if job.postgres is not None:
        without_secrets(job.postgres)
    return {
        "job": model.to_json(job),
        "timeout_s": job.timeout.total_seconds(),
        "heartbeat_s": heartbeat.total_seconds(),
    }


def _schedule(job: Job, address: Address, heartbeat: timedelta) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            NAME, order(job, heartbeat=heartbeat), id=id_of(job), task_queue=address.task_queue
        ),
        spec=ScheduleSpec(
            cron_expressions=[job.cron] if job.cron else [],
            intervals=[ScheduleIntervalSpec(every=job.every)] if job.every else [],
            time_zone_name=job.zone,
            jitter=job.jitter or None,
        ),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=job.catch_up),
        state=ScheduleState(paused=not job.enabled, note=f"{job.source}, {job.when}"),
    )
