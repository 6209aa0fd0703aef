"""`backup rehearse` and `backup wal`: the database in a clean room, and its log."""

from pathlib import Path
from typing import Annotated

import typer

from zaibei.cli.backup.fallback import writer_doors
from zaibei.cli.backup.shared import (
    CLOCK,
    Json,
    Password,
    Repo,
    Which,
    app,
    distinct,
    opened,
    say,
    some_path,
    told,
)
from zaibei.cli.console import progress
from zaibei.kernel.errors import Usage

_KEPT = (
    "kept in {0}, stopped, personal data in plain: postgres -D {0} -c config_file={1}/room.conf starts it as here;"
    " the settings in it are those of the server that was backed up"
)
_WORDS = {True: "passed", False: "FAILED", None: "unknown"}


@app.command()
def rehearse(
    snapshot: Which = "latest",
    to: Annotated[str, typer.Option(help="latest, time=…, lsn=… or name=…")] = "latest",
    workdir: Annotated[
        Path, typer.Option(help="Room for the whole database.", parser=some_path, metavar="<path>")
    ] = Path("/var/tmp"),
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Keep the recovered database here: an empty or new directory.",
            parser=some_path,
            metavar="<path>",
        ),
    ] = None,
    timeline: Annotated[
        int | None, typer.Option(help="End on this timeline, not on the newest.")
    ] = None,
    amcheck: Annotated[bool, typer.Option(help="Read every table and index too.")] = False,
    pages: Annotated[
        bool, typer.Option(help="Read every page's checksum; needs a second start.")
    ] = True,
    point: Annotated[
        str | None, typer.Option(help="To this consistency point, and hold rows against objects.")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="JSON: queries whose keys name objects of a bucket.")
    ] = None,
    deep: Annotated[
        bool, typer.Option(help="Read the objects that rows give a sha256 for.")
    ] = False,
    mask: Annotated[bool, typer.Option(help="Mask personal data, and prove it.")] = False,
    hold: Annotated[
        str | None, typer.Option(help="Keep the room open for people so long (30m): masks.")
    ] = None,
    authorisation: Annotated[
        Path | None, typer.Option(help="Signed leave to see tables in plain: masks the rest.")
    ] = None,
    authorised_by: Annotated[
        list[Path] | None, typer.Option(help="Public key (PEM) that may authorise; repeatable.")
    ] = None,
    mask_rules: Annotated[
        Path | None, typer.Option(help="JSON: columns of one's own, and what they hold.")
    ] = None,
    mask_key_file: Annotated[
        Path | None, typer.Option(help="32 random bytes, to mask as another room did.")
    ] = None,
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Restore a PostgreSQL snapshot into a clean room, recover, start it, count, and wipe it, unless with --keep.

    Every user database is counted and checksummed; the time is from nothing to answering queries. Nobody
    is let in, unless with --hold: then personal data is masked first. With --point also what rows name
    and the bucket lacks; one such row ends with 1."""
    with told(), progress() as bar:
        from backup import status  # noqa: PLC0415
        from backup.mask.options import masking  # noqa: PLC0415
        from backup.postgres import checks, dangling, moment, point_checks  # noqa: PLC0415
        from backup.postgres import clean_room as rooms  # noqa: PLC0415
        from backup.postgres.table_facts import table_facts  # noqa: PLC0415
        from backup.run import latest  # noqa: PLC0415
        from infra.postgres.server import databases  # noqa: PLC0415
        from zaibei.cli.backup.restore import demand_apart  # noqa: PLC0415
        from zaibei.kernel.units import duration  # noqa: PLC0415

        if keep is not None:
            if mask or hold or authorisation is not None:
                raise Usage("--keep keeps the database in plain", hint="without masking and --hold")
            demand_apart(keep, repo or ())
        all_opened = opened(repo, password_file)
        found = None
        note: str | None = None
        if point is not None:
            if snapshot != "latest" or to != "latest" or timeline is not None:
                raise Usage("a point says itself which snapshot and moment", hint="--point alone")
            chosen, _, found = point_checks.find_point(all_opened, point)
            one = point_checks.bound_snapshot(chosen, found, found.base)
            target = rooms.Target(how="name", value=point, timeline=found.mark.timeline)
        else:
            target = rooms.Target.parse(to, timeline=timeline)
            if snapshot == "latest" and to == "latest" and timeline is None:
                chosen, one = latest(all_opened, kind="postgres")
            elif snapshot == "latest":
                found_base = moment.choose(all_opened, target, now=CLOCK.now())
                chosen, one, note = found_base.repository, found_base.snapshot, found_base.note
                if note is not None:
                    bar.note(note)
            else:
                chosen = all_opened[0]
                one = chosen.find(snapshot)
        held = duration(hold) if hold else None
        wanted = None
        if mask or held is not None or authorisation is not None:
            wanted = masking(
                one,
                chosen,
                now=CLOCK.now(),
                authorisation=authorisation,
                authorised_by=authorised_by or (),
                rules=mask_rules,
                key_file=mask_key_file,
            )
        with rooms.restored(
            chosen,
            one,
            target=target,
            workdir=workdir,
            clock=CLOCK,
            progress=bar,
            amcheck=amcheck,
            pages=pages,
            masking=wanted,
            keep=keep,
        ) as room:
            bar.step("counting rows")
            tables = {d: table_facts(room.dsn(d)) for d in databases(room.dsn())}
            loose = []
            if found is not None:
                bar.step("holding rows against objects")
                room.checks += point_checks.checks(
                    found.mark, room.recovered, tables, masked=wanted is not None
                )
                asked = dangling.parse(references) if references else dangling.answerable(found)
                loose = dangling.of_point(chosen, found, room.dsn, asked, deep=deep)
                room.checks += [
                    checks.Check(
                        name=f"rows of {bucket}",
                        passed=None,
                        needed=deep,  # who asks for every object's contents asks for every bucket
                        detail="no query says which rows name its objects: --references",
                    )
                    for bucket in dangling.unasked(found, asked)
                ]
            if held is not None:
                bar.note(f"open for {hold}, masked: psql '{room.dsn()}'")
                CLOCK.sleep(held)
        sound = all(c.holds for c in room.checks) and all(d.holds for d in loose)
        if sound:
            status.restore_verified(
                chosen.name,
                sequence=one.sequence,
                at=CLOCK.now(),
                took_s=room.took.total_seconds(),
            )
    say(
        json,
        {
            "repository": chosen.name,
            "snapshot": one.sequence,
            "note": note,
            "target": str(target),
            "point": found.mark.name if found else None,
            "references": loose,
            "took_s": room.took,
            "phases_s": room.phases,
            "recovered_lsn": room.recovered_lsn,
            "recovered": room.recovered,
            "checks": room.checks,
            "kept": room.data if keep is not None else None,
            "masked": room.masked,
            "authorisation": wanted.authorisation if wanted else None,
            "databases": tables,
        },
        [
            (
                f"snapshot {one.sequence} of {chosen.name} answered after"
                f" {room.took.total_seconds():.1f} s, recovered to {room.recovered_lsn}"
            ),
            *([note] if note else []),
            *([_KEPT.format(room.data, room.directory)] if keep is not None else []),
            *(f"{c.name}: {_WORDS[c.passed]}: {c.detail}" for c in room.checks),
            *(line for d in loose for line in dangling.told(d)),
            *(f"{d}.{t}: {f.rows} rows" for d, all_ in tables.items() for t, f in all_.items()),
        ],
    )
    raise typer.Exit(0 if sound else 1)


@app.command()
def authorise(
    table: Annotated[list[str], typer.Option(help="database.schema.table, with *; repeatable.")],
    person: Annotated[str, typer.Option(help="Who may see it.")],
    purpose: Annotated[str, typer.Option(help="What for.")],
    key: Annotated[Path, typer.Option(help="Private P-256 key (PEM) of who authorises.")],
    out: Annotated[Path, typer.Option(help="Where the signed statement goes.")],
    snapshot: Which = "latest",
    lasting: Annotated[str, typer.Option("--for", help="How long from now: 8h.")] = "8h",
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Sign leave to see tables of one snapshot in plain. `rehearse --authorisation` takes it."""
    with told():
        from backup.mask import authorisation as leave  # noqa: PLC0415
        from backup.run import latest  # noqa: PLC0415
        from zaibei.kernel.state import write_atomic  # noqa: PLC0415
        from zaibei.kernel.units import duration  # noqa: PLC0415

        all_opened = opened(repo, password_file)
        chosen, one = (
            latest(all_opened, kind="postgres")
            if snapshot == "latest"
            else (all_opened[0], all_opened[0].find(snapshot))
        )
        now = CLOCK.now()
        until = now + duration(lasting)
        signed = leave.sign(
            one,
            repository=chosen.config.repository,
            tables=table,
            person=person,
            purpose=purpose,
            since=now,
            until=until,
            key=leave.private_key(key),
        )
        write_atomic(out, signed)
    say(
        json,
        {
            "repository": chosen.name,
            "snapshot": one.sequence,
            "tables": table,
            "person": person,
            "purpose": purpose,
            "until": until,
            "file": out,
        },
        [f"{out}: {person} may see {', '.join(table)} of snapshot {one.sequence} until {until}"],
    )


@app.command()
def wal(
    postgres: Annotated[str | None, typer.Option(help="conninfo of the writer.")] = None,
    spool: Annotated[
        Path | None,
        typer.Option(help="A directory on a durable disk.", parser=some_path, metavar="<path>"),
    ] = None,
    repo: Repo = None,
    password_file: Password = None,
) -> None:
    """Archive WAL until ended (SIGTERM or Ctrl-C). Its lag is in the status file."""
    with told():
        import signal  # noqa: PLC0415
        import threading  # noqa: PLC0415

        from backup import status  # noqa: PLC0415
        from backup.locations.conninfo import without_secrets  # noqa: PLC0415
        from backup.postgres.wal_receiver import WalArchiver  # noqa: PLC0415
        from zaibei.kernel.state import state_dir  # noqa: PLC0415

        if postgres is not None:
            without_secrets(postgres)
        if spool is not None and spool.exists() and not spool.is_dir():
            raise Usage(f"--spool {spool} is not a directory")  # no try of it would ever succeed
        conninfo, secret = (postgres, None) if postgres else writer_doors()
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        with WalArchiver(
            conninfo=conninfo,
            password=secret,
            repositories=distinct(opened(repo, password_file)),
            spool=spool or state_dir() / "backup" / "spool",
            clock=CLOCK,
            behind=status.wal_behind(now=CLOCK.now()),
        ) as archiver:
            archiver.run(stop, told=lambda now: status.wal(now, at=CLOCK.now()))
