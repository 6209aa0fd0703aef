"""`backup point`: one name for a moment of the database and a version set of each bucket."""

from typing import Annotated

import typer

from zaibei.cli.backup.fallback import writer_doors
from zaibei.cli.backup.shared import (
    CLOCK,
    Json,
    Password,
    Repo,
    app,
    distinct,
    opened,
    say,
    text,
    told,
)
from zaibei.cli.backup.sources import Files, given
from zaibei.cli.console import progress


@app.command()
def point(
    name: Annotated[str, typer.Argument(help="At most 63 bytes; used once.")],
    postgres: Annotated[str | None, typer.Option(help="conninfo of the writer.")] = None,
    bucket: Annotated[
        list[str] | None, typer.Option(help="s3+https://HOST/BUCKET, or SITE/BUCKET; repeatable.")
    ] = None,
    files: Files = None,
    count_rows: Annotated[
        bool, typer.Option("--count-rows", help="Count and checksum every table too: reads it all.")
    ] = False,
    within: Annotated[str, typer.Option(help="How long to wait for the log in a vault.")] = "60s",
    retain: Annotated[str | None, typer.Option(help="Lock what the point needs: 30d.")] = None,
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Name this moment of the database, back up the buckets as they are after it, and tie them together.

    `backup wal` must be running and a base backup must be there. `rehearse --point NAME` goes back to it."""
    with told("a name is used once: give another to the next attempt"), progress() as bar:
        from backup import run  # noqa: PLC0415
        from backup.locations import urls  # noqa: PLC0415
        from backup.locations.conninfo import without_secrets  # noqa: PLC0415
        from backup.postgres import consistency_point, point_checks  # noqa: PLC0415
        from zaibei.kernel.units import duration  # noqa: PLC0415

        paths, name = given(files), text(name, "the name")
        if postgres is not None:
            without_secrets(postgres)
        kept = duration(retain) if retain else None
        patience = duration(within)
        stores = [urls.open_bucket(b) for b in bucket or ()]
        repos = distinct(opened(repo, password_file))
        point_checks.unused(repos, name)
        conninfo, secret = (postgres, None) if postgres else writer_doors()
        bar.step("naming the moment")
        one = consistency_point.mark(
            conninfo, secret, name=name, clock=CLOCK, count_rows=count_rows
        )
        runs = [
            run.run_bucket(store, repos, CLOCK, None, bar, source=source, label=name, retain=kept)
            for store, source in stores
        ]
        if paths:
            runs.append(run.run_files(paths, repos, CLOCK, None, bar, label=name, retain=kept))
        done = run.run_point(one, runs, repos, CLOCK, None, bar, retain=kept, within=patience)
    say(
        json,
        {
            "name": one.name,
            "lsn": one.lsn,
            "timeline": one.timeline,
            "system_identifier": str(one.system),
            "counts_exact": one.quiet if one.counted is not None else None,
            "complete": done.complete,
            "problems": list(done.problems),
            "vaults": [
                {
                    "vault": o.vault,
                    "snapshot": o.snapshot.sequence if o.snapshot else None,
                    "bound": o.snapshot.content.facts["bound"] if o.snapshot else None,
                    "error": o.error,
                }
                for o in done.outcomes
            ],
        },
        [
            f"point {one.name} at {one.lsn} of timeline {one.timeline}",
            *(f"{o.vault}: snapshot {o.snapshot.sequence}" for o in done.outcomes if o.snapshot),
            *(f"INCOMPLETE: {p}" for p in done.problems),
        ],
    )
    raise typer.Exit(0 if done.complete else 1)
