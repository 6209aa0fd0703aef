"""`zaibei backup`: Encrypted backups, proven by restoring. Exit codes: 0 all of it is true, 1 damage was
found or something is incomplete, 2 the request was wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zaibei.cli.console import complain, emit, progress, talk
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Usage, ZaibeiError

if TYPE_CHECKING:
    from backup.repository import Repository
    from backup.snapshot import Snapshot

app = typer.Typer(no_args_is_help=True, help="Encrypted backups, proven by restoring.")
CLOCK = SystemClock()


class Level(StrEnum):
    STRUCTURE = "structure"
    SAMPLE = "sample"
    FULL = "full"


class Suite(StrEnum):
    INTL = "intl"
    SM = "sm"


Repo = Annotated[
    list[str] | None,
    typer.Option("--repo", help="file:///DIR or s3+https://HOST/BUCKET/PREFIX; repeatable."),
]
Password = Annotated[
    Path | None,
    typer.Option("--password-file", help="Its first line opens the repository."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Which = Annotated[str, typer.Argument(help="A number from `list`, or latest.")]


@app.command()
def init(
    repo: Repo = None,
    password_file: Password = None,
    suite: Suite = Suite.INTL,
    json: Json = False,
) -> None:
    """Make a repository; without --repo one in each vault of the stack."""
    with _told():
        from backup.repository import create_repository  # noqa: PLC0415

        made = [
            create_repository(store, secret, clock=CLOCK, suite_name=suite.value)
            for store, secret in _places(repo, password_file, make=True)
        ]
        _say(
            json, {"repositories": [_repository(r) for r in made]}, [f"made {r.name}" for r in made]
        )


@app.command()
def run(
    files: Annotated[
        list[Path] | None, typer.Option(help="A file or directory; repeatable.")
    ] = None,
    postgres: Annotated[str | None, typer.Option(help="libpq conninfo, without password.")] = None,
    repo: Repo = None,
    password_file: Password = None,
    label: str = "",
    retain: Annotated[str | None, typer.Option(help="Lock what is written: 30d.")] = None,
    json: Json = False,
) -> None:
    """Back up into every repository at once. PostgreSQL's password comes from PGPASSWORD or PGPASSFILE.

    Without --files and --postgres: the stack's databases, from a standby."""
    with _told(), progress() as bar:
        from backup import job  # noqa: PLC0415
        from zaibei.kernel.units import duration  # noqa: PLC0415

        if files and postgres:
            raise Usage("one source a run", hint="--files or --postgres")
        kept = duration(retain) if retain else None
        repos, lost = _reachable(repo, password_file, make=repo is None)
        if files:
            done = job.run_files(files, repos, CLOCK, None, bar, label=label, retain=kept)
        else:
            conninfo, secret = (postgres, None) if postgres else _standby()
            done = job.run_postgres(
                conninfo, secret, repos, CLOCK, None, bar, label=label or "zaibei", retain=kept
            )
    complete = done.complete and not lost
    problems = [*lost, *done.problems]
    made = [o for o in done.outcomes if o.snapshot is not None]
    _say(
        json,
        {
            "complete": complete,
            "took_s": done.took,
            "problems": problems,
            "vaults": [
                {
                    "vault": o.vault,
                    "snapshot": o.snapshot.sequence if o.snapshot else None,
                    "size_bytes": o.snapshot.content.size_bytes if o.snapshot else None,
                    "stored_bytes": o.written.stored_bytes if o.written else None,
                    "error": o.error,
                }
                for o in done.outcomes
            ],
        },
        [
            *(f"{o.vault}: snapshot {o.snapshot.sequence}" for o in made if o.snapshot),
            *(f"INCOMPLETE: {p}" for p in problems),
        ],
    )
    raise typer.Exit(0 if complete else 1)


@app.command("list")
def list_(repo: Repo = None, password_file: Password = None, json: Json = False) -> None:
    """The snapshots of each repository, oldest first."""
    with _told():
        opened = _opened(repo, password_file)
        found = {r.name: [_snapshot(s) for s in r.snapshots()] for r in opened}
    _say(
        json,
        {"repositories": found},
        [
            f"{name}  {s['sequence']:>4}  {s['finished']}  {s['kind']:<8} "
            f"{s['size_bytes']:>12} B  {'complete' if s['complete'] else 'INCOMPLETE'}"
            for name, all_ in found.items()
            for s in all_
        ],
    )


@app.command()
def show(
    snapshot: Which = "latest",
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """One snapshot: what it is, what it says about itself, what it holds."""
    with _told():
        import os  # noqa: PLC0415

        from backup.reader import Reader  # noqa: PLC0415

        one_repo = _opened(repo, password_file)[0]
        one = one_repo.find(snapshot)
        with Reader(one_repo) as reader:
            names = [
                {
                    "path": os.fsdecode(n.path).encode(errors="backslashreplace").decode(),
                    "type": n.type.value,
                    "size_bytes": n.size_bytes,
                }
                for n in reader.nodes(one)
            ]
        told = {**_snapshot(one), "facts": one.content.facts, "entries": names}
    _say(json, told, [f"{n['size_bytes']:>12}  {n['path']}" for n in names])


@app.command()
def verify(
    level: Level = Level.SAMPLE,
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Is everything there, and is it what was written?"""
    with _told(), progress() as bar:
        import secrets  # noqa: PLC0415

        from backup import verify as verifying  # noqa: PLC0415

        found = [
            verifying.verify(
                r, verifying.Level(level.value), rng=secrets.SystemRandom(), progress=bar
            )
            for r in _opened(repo, password_file)
        ]
    sound = not any(f.damage for f in found)
    _say(
        json,
        {"sound": sound, "repositories": found},
        [
            line
            for f in found
            for line in (
                (
                    f"{f.repository}: {f.level.value}: {f.snapshots} snapshots, {f.packs} packs"
                    f" ({f.packs_read} read), {f.wal_objects} WAL objects, {f.damage_count} damaged"
                ),
                *(f"DAMAGE: {d}" for d in f.damage),
            )
        ],
    )
    raise typer.Exit(0 if sound else 1)


@app.command()
def restore(
    snapshot: Which,
    target: Annotated[Path, typer.Option(help="An empty or new directory.")],
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Files back. A PostgreSQL snapshot comes back as a data directory; `rehearse` starts one."""
    with _told(), progress() as bar:
        from backup.job import latest  # noqa: PLC0415
        from backup.reader import Reader  # noqa: PLC0415
        from backup.restore import restore_files  # noqa: PLC0415

        opened = _opened(repo, password_file)
        if snapshot == "latest":
            chosen, one = latest(opened)
        else:
            chosen, one = opened[0], opened[0].find(snapshot)
        with Reader(chosen) as reader:
            done = restore_files(reader, one, target, progress=bar)
    whole = one.content.complete
    _say(
        json,
        {
            "repository": chosen.name,
            "snapshot": one.sequence,
            "target": target,
            "complete": whole,
            "files": done.files,
            "size_bytes": done.size_bytes,
            "problems": list(one.content.problems),
        },
        [
            f"restored snapshot {one.sequence} of {chosen.name}: {done.files} files",
            *(f"NOT IN THE BACKUP: {p}" for p in one.content.problems),
        ],
    )
    raise typer.Exit(0 if whole else 1)


@app.command()
def rehearse(
    snapshot: Which = "latest",
    to: Annotated[str, typer.Option(help="latest, time=…, lsn=… or name=…")] = "latest",
    workdir: Annotated[Path, typer.Option(help="Room for the whole database.")] = Path("/var/tmp"),
    amcheck: Annotated[bool, typer.Option(help="Read every table and index too.")] = False,
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Restore a PostgreSQL snapshot into a clean room, recover, start it, count, and wipe it.

    Every user database is counted and checksummed; the time is from nothing to answering queries."""
    with _told(), progress() as bar:
        from backup import room as rooms  # noqa: PLC0415
        from backup import status  # noqa: PLC0415
        from backup.compare import databases, table_facts  # noqa: PLC0415
        from backup.job import latest  # noqa: PLC0415

        opened = _opened(repo, password_file)
        chosen, one = (
            latest(opened, kind="postgres")
            if snapshot == "latest"
            else (opened[0], opened[0].find(snapshot))
        )
        with rooms.restored(
            chosen,
            one,
            target=rooms.Target.parse(to),
            workdir=workdir,
            clock=CLOCK,
            progress=bar,
            amcheck=amcheck,
        ) as room:
            bar.step("counting rows")
            tables = {d: table_facts(room.dsn(d)) for d in databases(room.dsn())}
        sound = all(c.passed for c in room.checks)
        if sound:
            status.restore_verified(
                chosen.name,
                sequence=one.sequence,
                at=CLOCK.now(),
                took_s=room.took.total_seconds(),
            )
    _say(
        json,
        {
            "repository": chosen.name,
            "snapshot": one.sequence,
            "target": to,
            "took_s": room.took,
            "phases_s": room.phases,
            "recovered_lsn": room.recovered_lsn,
            "checks": room.checks,
            "databases": tables,
        },
        [
            (
                f"snapshot {one.sequence} of {chosen.name} answered after"
                f" {room.took.total_seconds():.1f} s, recovered to {room.recovered_lsn}"
            ),
            *(f"{c.name}: {'passed' if c.passed else 'FAILED'}: {c.detail}" for c in room.checks),
            *(f"{d}.{t}: {f.rows} rows" for d, all_ in tables.items() for t, f in all_.items()),
        ],
    )
    raise typer.Exit(0 if sound else 1)


@app.command()
def wal(
    postgres: Annotated[str | None, typer.Option(help="conninfo of the writer.")] = None,
    spool: Annotated[Path | None, typer.Option(help="A directory on a durable disk.")] = None,
    repo: Repo = None,
    password_file: Password = None,
) -> None:
    """Archive WAL until ended (SIGTERM or Ctrl-C). Its lag is in the status file."""
    with _told():
        import signal  # noqa: PLC0415
        import threading  # noqa: PLC0415

        from backup import status, vaults  # noqa: PLC0415
        from backup.receiver import WalArchiver  # noqa: PLC0415
        from zaibei.kernel.state import state_dir  # noqa: PLC0415

        conninfo, secret = (postgres, None) if postgres else vaults.writer_doors()
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        with WalArchiver(
            conninfo=conninfo,
            password=secret,
            repositories=_opened(repo, password_file),
            spool=spool or state_dir() / "backup" / "spool",
            clock=CLOCK,
        ) as archiver:
            archiver.run(stop, told=lambda now: status.wal(now, at=CLOCK.now()))


@contextmanager
def _told() -> Iterator[None]:
    """The contract of this group: 2 for a wrong request, 1 for everything else that is not true."""
    try:
        yield
    except ZaibeiError as bad:
        complain(bad)
        sys.exit(2 if isinstance(bad, Usage) else 1)


def _places(
    urls: list[str] | None, password_file: Path | None, *, make: bool
) -> list[tuple[Any, str]]:
    """Stores and the passphrase that is theirs."""
    from backup import vaults  # noqa: PLC0415

    if urls:
        if password_file is None:
            raise Usage("no --password-file", hint="its first line is the passphrase")
        secret = vaults.passphrase(password_file)
        return [(vaults.open_url(u), secret) for u in urls]
    stores = vaults.stack_stores()
    if password_file is None and make:
        secret, new = vaults.make_passphrase()
        if new:
            talk.print(f"[bold red]ESCROW:[/] {vaults.escrow_note()}")
    else:
        secret = vaults.passphrase(password_file)
    return [(s, secret) for s in stores]


def _opened(urls: list[str] | None, password_file: Path | None) -> "list[Repository]":
    from backup.repository import open_repository  # noqa: PLC0415

    return [
        open_repository(store, secret, clock=CLOCK)
        for store, secret in _places(urls, password_file, make=False)
    ]


def _reachable(
    urls: list[str] | None, password_file: Path | None, *, make: bool
) -> "tuple[list[Repository], list[str]]":
    """The repositories that open, and why the others do not: one dead vault stops no backup."""
    from backup.repository import open_repository  # noqa: PLC0415
    from backup.vaults import ensure  # noqa: PLC0415

    opened, lost = [], []
    places = _places(urls, password_file, make=make)
    for store, secret in places:
        try:
            opened.append((ensure if make else open_repository)(store, secret, clock=CLOCK))
        except Usage:
            raise
        except ZaibeiError as bad:
            lost.append(f"{store.name}: {bad.message}")
            why = bad
    if not opened:
        raise why
    return opened, lost


def _standby() -> tuple[str, str]:
    """Any reader of the stack, as the role that may copy and not write."""
    from backup.vaults import standby  # noqa: PLC0415

    return standby()


def _repository(repo: "Repository") -> dict[str, Any]:
    return {
        "repository": repo.name,
        "id": repo.config.repository.hex(),
        "suite": repo.config.suite,
        "signer": repo.config.signer.hex(),
    }


def _snapshot(one: "Snapshot") -> dict[str, Any]:
    c = one.content
    return {
        "sequence": one.sequence,
        "kind": c.kind,
        "label": c.label,
        "host": c.host,
        "started": c.started,
        "finished": c.finished,
        "size_bytes": c.size_bytes,
        "entries_count": c.entries,
        "complete": c.complete,
        "problems": list(c.problems),
        "digest": one.digest,
    }


def _say(json: bool, value: dict[str, Any], lines: list[str]) -> None:
    if json:
        emit(value)
    else:
        for line in lines:
            print(line)
