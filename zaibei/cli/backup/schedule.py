"""`backup schedule`: backups at their time, once a slot, and what was missed is told."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zaibei.cli.backup.fallback import need_source, secret_of, standby
from zaibei.cli.backup.shared import CLOCK, Json, Password, Repo, app, reachable, say, told
from zaibei.cli.backup.sources import (
    AllowEmpty,
    Files,
    Host,
    Tags,
    Unreadable,
    demand_rules,
    labels,
    source_of,
)
from zaibei.cli.console import Lines, emit_line, talk
from zaibei.kernel.environment import demand_state_folder
from zaibei.kernel.errors import Usage

if TYPE_CHECKING:
    from backup.schedule.model import Job

group = typer.Typer(no_args_is_help=True, help="Backups at their time.")
app.add_typer(group, name="schedule")


@group.callback()
def _with_its_records() -> None:
    with told():
        demand_state_folder()


Name = Annotated[str, typer.Argument(help="The job's name.")]


@group.command()
def add(
    name: Name,
    cron: Annotated[str | None, typer.Option(help='"30 2 * * *": five fields.')] = None,
    zone: Annotated[
        str | None, typer.Option(help="Of the cron's hours: Asia/Shanghai. [default: UTC]")
    ] = None,
    every: Annotated[str | None, typer.Option(help="6h; counted in UTC.")] = None,
    files: Files = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave out, as in .gitignore; repeatable.")
    ] = None,
    postgres: Annotated[str | None, typer.Option(help="libpq conninfo, without password.")] = None,
    bucket: Annotated[
        str | None, typer.Option(help="All versions of s3+https://HOST/BUCKET, or SITE/BUCKET.")
    ] = None,
    allow_unreadable: Unreadable = None,
    allow_empty: AllowEmpty = False,
    host: Host = None,
    tag: Tags = None,
    jitter: Annotated[str, typer.Option(help="Spread the start over so long.")] = "0s",
    timeout: Annotated[str, typer.Option(help="A run that takes longer is ended.")] = "12h",
    catch_up: Annotated[
        str, typer.Option(help="How late a missed slot is still made good.")
    ] = "24h",
    retain: Annotated[str | None, typer.Option(help="Lock what is written: 30d.")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="daily=14: forget the job's others after a good run; repeatable."),
    ] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Keep it, do not run it.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Instead of the one there.")] = False,
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Add a job. Without --files, --postgres and --bucket: the stack's databases, from a standby."""
    with told():
        from backup.schedule import model, state  # noqa: PLC0415
        from backup.sources.roots import Root, roots  # noqa: PLC0415
        from backup.sources.walk import Rules  # noqa: PLC0415
        from backup.writer.object_lock import may_be  # noqa: PLC0415
        from zaibei.kernel.units import duration  # noqa: PLC0415

        demand_rules(exclude, "--exclude")
        demand_rules(allow_unreadable, "--allow-unreadable")
        Rules.of(allow_unreadable or ())
        Rules.of(exclude or ())  # a rule that is none is told now, not at two in the night
        if zone and not cron:
            raise Usage(f"--zone {zone} without --cron", hint="an interval counts in UTC")
        if retain:
            may_be(duration(retain))
            if here := [r for r in repo or () if r.startswith("file:")]:
                raise Usage(
                    f"--retain with {here[0]}: a directory cannot lock objects",
                    hint="leave --retain away, or use an S3 vault",
                )
        paths = source_of(files, postgres, bucket)
        roots([p for p in paths if p.path.exists()])  # a device, or two of one name
        if not (paths or postgres or bucket):
            need_source()  # seen now, and not in the morning
        if repo:
            secret_of(password_file)
        if password_file is not None:
            from backup.locations.stack import passphrase  # noqa: PLC0415

            passphrase(password_file)
        one = model.Job(
            name=name,
            created=CLOCK.now(),
            files=tuple(map(str, paths)),
            exclude=tuple(exclude or ()),
            unreadable=tuple(allow_unreadable or ()),
            allow_empty=allow_empty,
            **labels(host, tag),
            postgres=postgres,
            bucket=bucket,
            repos=tuple(repo or ()),
            password_file=str(password_file.absolute()) if password_file else None,
            cron=cron,
            zone=zone or "UTC",
            every=duration(every) if every else None,
            jitter=duration(jitter),
            timeout=duration(timeout),
            catch_up=duration(catch_up),
            retain=duration(retain) if retain else None,
            keep=_kept(keep),
            enabled=not disabled,
        )
        state.add(one, replace=replace)
        state.save(state.jobs(), state.states(), now=CLOCK.now())
        # It may be mounted later; a name that was mistyped is seen now, and not in the morning.
        absent = [f"{f} is not there now" for f in map(str, paths) if not Root.of(f).path.exists()]
    for line in absent:
        talk.print(f"note: {line!s}", markup=False, emoji=False, soft_wrap=True)
    told_of = {"job": model.to_json(one), "notes": absent}
    say(json, told_of, [f"added {name}: {one.source}, {one.when}"])


@group.command()
def remove(
    name: Name,
    confirm: Annotated[str, typer.Option(help="The job's name again.")] = "",
    json: Json = False,
) -> None:
    """Remove a job. Its snapshots stay."""
    with told():
        from backup.schedule import state  # noqa: PLC0415

        one = state.job(name)
        if confirm != name:
            raise Usage(
                f"would remove {name}: {one.source}, {one.when}", hint=f"to do it: --confirm {name}"
            )
        state.remove(name)
        left = state.jobs()
        states = {k: v for k, v in state.states().items() if k != name}
        state.save(left, states, now=CLOCK.now())
    say(json, {"removed": name}, [f"removed {name}"])


@group.command("list")
def list_(json: Json = False) -> None:
    """The jobs, and when each runs next."""
    with told():
        from backup.schedule import model, state  # noqa: PLC0415

        found = [(j, _next(j)) for j in state.jobs()]
    say(
        json,
        {"jobs": [{**model.to_json(j), "next": n} for j, n in found]},
        [
            f"{j.name:<20} {j.when:<28} {'next ' + n.isoformat() if n else 'off':<32} {j.source}"
            for j, n in found
        ],
    )


@group.command()
def status(json: Json = False) -> None:
    """What became of the last slots. Exit 1 when a job is overdue, gave its last slot up, or never had a success."""
    with told():
        from backup.schedule import plan, state  # noqa: PLC0415

        now, states = CLOCK.now(), state.states()
        shown: list[dict[str, Any]] = []
        for one in state.jobs():
            at = states.get(one.name, plan.State())
            by = plan.due_by(one, at, now=now)
            standing = plan.standing(one, at, now)
            shown.append(
                {
                    "job": one.name,
                    "standing": standing,
                    "sound": standing.sound,
                    "overdue": by is not None and by < now,
                    "due_by": by,
                    "done": at.done_at,
                    "missed_count": at.missed,
                    "attempts_count": at.attempts,
                    "next": _next(one),
                    "notes": list(at.notes),
                }
            )
    lines = [
        line
        for s in shown
        for line in (
            (
                f"{s['job']}: {s['standing'].value}, last done {s['done'] or 'never'},"
                f" {s['missed_count']} missed, next {s['next'] or 'never'}"
            ),
            *(f"    {n.slot.isoformat()} {n.outcome} {n.why}" for n in s["notes"][-5:]),
        )
    ]
    say(json, {"jobs": shown}, lines)
    raise typer.Exit(0 if all(s["sound"] for s in shown) else 1)


@group.command()
def run(
    once: Annotated[bool, typer.Option("--once", help="Run what is due now, and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="An object a line on stdout.")] = False,
) -> None:
    """Run the jobs at their time until ended: SIGTERM hands running slots over. --once for cron and systemd."""
    with told():
        import signal  # noqa: PLC0415
        import threading  # noqa: PLC0415

        from backup.schedule.service import Children, Event, Service  # noqa: PLC0415

        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        lines = Lines()

        def say_as_it_happens(event: Event) -> None:
            if json:
                emit_line(event)
            else:
                lines.note(str(event))

        failures = Service(Children(), CLOCK, say_as_it_happens).run(stop, once=once)
    raise typer.Exit(1 if failures else 0)


@group.command(hidden=True)
def perform(name: Name, slot: Annotated[str, typer.Option()], json: Json = False) -> None:
    """One slot of one job, now: what `run` starts."""
    with told():
        import signal  # noqa: PLC0415

        from backup.schedule import execute as performing  # noqa: PLC0415
        from backup.schedule import state  # noqa: PLC0415
        from backup.schedule.slot import Slot  # noqa: PLC0415

        def ended(*_: object) -> None:
            raise SystemExit(1)  # leaves through every `finally`: the lease is handed over

        signal.signal(signal.SIGTERM, ended)
        one = state.job(name)
        done = performing.perform(
            one,
            Slot(job=name, at=datetime.fromisoformat(slot)),
            repositories(one),
            standby=standby,
            clock=CLOCK,
            progress=Lines(),
        )
    say(
        json,
        {
            "job": name,
            "slot": slot,
            "result": done,
            "outcome": done.outcome,
            "problems": done.problems,
        },
        [
            f"{name}: {done.outcome.value}",
            *(f"{v}: snapshot {n}" for v, n in done.snapshots.items()),
            *(f"PROBLEM: {p}" for p in done.problems),
            *(f"ANOMALOUS: {a}" for a in done.anomalies),
        ],
    )
    for anomaly in done.anomalies:
        talk.print(f"ANOMALOUS: {anomaly}", markup=False)
    good = (performing.Outcome.DONE, performing.Outcome.ALREADY, performing.Outcome.BUSY)
    raise typer.Exit(0 if done.outcome in good else 1)


def repositories(job: "Job") -> Any:
    """The job's repositories that open, and why the others do not."""
    urls = list(job.repos) or None
    file = Path(job.password_file) if job.password_file else None
    return reachable(urls, file, make=urls is None)


def _kept(said: list[str] | None) -> dict[str, int] | None:
    try:
        kept = {k: int(n) for k, n in (one.split("=", 1) for one in said)} if said else None
    except ValueError as bad:
        raise Usage(f"--keep {' '.join(said or [])}: not a number", hint="--keep daily=14") from bad
    if said and kept is not None and len(kept) < len(said):
        raise Usage(f"--keep {' '.join(said)}: one of them twice", hint="--keep daily=14")
    return kept


def _next(job: "Job") -> datetime | None:
    from backup.schedule import calendar  # noqa: PLC0415

    slot = calendar.following(job, CLOCK.now()) if job.enabled else None
    return slot + calendar.offset(job, slot) if slot else None


Server = Annotated[str, typer.Option("--temporal", help="HOST:PORT of the Temporal server.")]
Namespace = Annotated[str, typer.Option(help="Temporal's namespace.")]
Queue = Annotated[str, typer.Option(help="Temporal's task queue.")]
TlsCa = Annotated[Path | None, typer.Option(help="Who signed the server's certificate.")]
TlsFile = Annotated[Path | None, typer.Option(help="Our own, for mutual TLS.")]


@group.command()
def worker(
    temporal: Server,
    namespace: Namespace = "default",
    task_queue: Queue = "zaibei-backup",
    tls_ca: TlsCa = None,
    tls_cert: TlsFile = None,
    tls_key: TlsFile = None,
) -> None:
    """Do the slots that Temporal gives out, until ended. SIGTERM: what runs gets 30 s, the rest another worker."""
    with told():
        import asyncio  # noqa: PLC0415
        import signal  # noqa: PLC0415

        from backup.schedule import temporal as temporals  # noqa: PLC0415

        address = temporals.Address(
            target=temporal,
            namespace=namespace,
            task_queue=task_queue,
            ca=tls_ca,
            cert=tls_cert,
            key=tls_key,
        )
        activities = temporals.Activities(repositories, standby, CLOCK)

        async def work() -> None:
            stop = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            await temporals.work(address, activities, stop)

        asyncio.run(work())


@group.command()
def publish(
    temporal: Server,
    namespace: Namespace = "default",
    task_queue: Queue = "zaibei-backup",
    heartbeat: Annotated[str, typer.Option(help="A worker silent for so long is dead.")] = "60s",
    tls_ca: TlsCa = None,
    tls_cert: TlsFile = None,
    tls_key: TlsFile = None,
    json: Json = False,
) -> None:
    """Every job as a schedule in Temporal: made, or brought up to date."""
    with told():
        import asyncio  # noqa: PLC0415

        from backup.schedule import state  # noqa: PLC0415
        from backup.schedule import temporal as temporals  # noqa: PLC0415
        from zaibei.kernel.units import duration  # noqa: PLC0415

        address = temporals.Address(
            target=temporal,
            namespace=namespace,
            task_queue=task_queue,
            ca=tls_ca,
            cert=tls_cert,
            key=tls_key,
        )
        became = asyncio.run(
            temporals.publish(address, state.jobs(), heartbeat=duration(heartbeat))
        )
    say(json, {"schedules": became}, [f"{name}: {what}" for name, what in became.items()])
