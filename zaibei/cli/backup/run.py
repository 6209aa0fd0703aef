"""`backup init` and `backup run`: into every repository at once."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zaibei.cli.backup.fallback import need_source, standby
from zaibei.cli.backup.shared import (
    CLOCK,
    Json,
    Password,
    Repo,
    Suite,
    app,
    places,
    reachable,
    repository_told,
    say,
    text,
    told,
)
from zaibei.cli.backup.sources import (
    AllowEmpty,
    Files,
    Host,
    Tags,
    Unreadable,
    demand_rules,
    demand_said,
    labels,
    source_of,
    word,
)
from zaibei.cli.console import progress
from zaibei.kernel.errors import Usage

_AFTER_CUT = (
    "run it again: what is stored already is not sent a second time; `zaibei backup list` shows"
    " whether a vault has its snapshot"
)


@app.command()
def init(
    repo: Repo = None,
    password_file: Password = None,
    suite: Suite = Suite.INTL,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Ask each S3 endpoint of --repo first what a vault must keep (a minute).",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Make a repository; without --repo one in each vault of the stack. A store that overwrites what must be
    created once is refused in any case."""
    with told():
        from backup.repository.init import create_repository  # noqa: PLC0415

        found = places(repo, password_file, make=True)
        if not all(isinstance(secret, str) for _, secret in found):
            raise Usage(
                "a repository is made with a passphrase",
                hint="--password-file; then `key add`, and `key revoke` the passphrase",
            )
        if probe:
            from backup.locations.urls import admitted  # noqa: PLC0415

            with progress() as bar:
                for url in repo or []:
                    admitted(url, clock=CLOCK, progress=bar)
        made = [
            create_repository(store, secret, clock=CLOCK, suite_name=suite.value)
            for store, secret in found
        ]
        say(
            json,
            {"repositories": [repository_told(r) for r in made]},
            [f"made {r.name}" for r in made],
        )


@app.command()
def run(
    files: Files = None,
    postgres: Annotated[str | None, typer.Option(help="libpq conninfo, without password.")] = None,
    bucket: Annotated[
        str | None, typer.Option(help="All versions of s3+https://HOST/BUCKET, or SITE/BUCKET.")
    ] = None,
    stdin: Annotated[
        str | None, typer.Option("--stdin", metavar="NAME", help="Standard input, as one file.")
    ] = None,
    repo: Repo = None,
    password_file: Password = None,
    label: Annotated[
        str | None, typer.Option(help="What `list`, retention and the guard know it by.")
    ] = None,
    host: Host = None,
    tag: Tags = None,
    retain: Annotated[str | None, typer.Option(help="Lock what the snapshot needs: 30d.")] = None,
    retain_max: Annotated[
        str, typer.Option(help="Refuse a longer --retain: nobody can shorten it later.")
    ] = "400d",
    accept: Annotated[
        str | None,
        typer.Option(help="Why a change that the guard will call anomalous is meant."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave out, as in .gitignore; repeatable.")
    ] = None,
    exclude_from: Annotated[
        list[Path] | None, typer.Option(help="A file of such rules; repeatable.")
    ] = None,
    one_file_system: Annotated[
        bool, typer.Option("--one-file-system", help="Stay on each path's own filesystem.")
    ] = False,
    no_skip: Annotated[
        bool, typer.Option("--no-skip", help="Read unchanged files again too.")
    ] = False,
    allow_unreadable: Unreadable = None,
    allow_empty: AllowEmpty = False,
    json: Json = False,
) -> None:
    """Back up into every repository at once. PostgreSQL's password comes from PGPASSWORD or PGPASSFILE.

    Without --files, --postgres and --bucket: the stack's databases, from a standby."""
    with told(_AFTER_CUT), progress(programs=True) as bar:
        from zaibei.kernel.units import duration  # noqa: PLC0415

        paths = source_of(files, postgres, bucket)
        if stdin is not None and (paths or postgres or bucket):
            raise Usage("one source a run", hint="--stdin alone")
        if not paths and (exclude or exclude_from or one_file_system or allow_unreadable):
            raise Usage("rules are for files", hint="--files")
        demand_rules(exclude, "--exclude")
        demand_rules(allow_unreadable, "--allow-unreadable")
        known_by = labels(host, tag)
        if accept is not None:
            demand_said(accept, "--accept")
        label, accept = word(label, "--label"), text(accept or "", "--accept")
        kept, longest = duration(retain) if retain else None, duration(retain_max)
        if not (paths or postgres or bucket or stdin is not None):
            need_source()  # before a vault is opened
        repos, lost = reachable(repo, password_file, make=repo is None)
        # After the keys: they were loaded while those were derived.
        from backup import run as backup_run  # noqa: PLC0415
        from backup.sources.walk import Rules  # noqa: PLC0415

        if paths or stdin is not None:
            rules = Rules.of(
                exclude or (), files=exclude_from or (), one_file_system=one_file_system
            )
            done = backup_run.run_files(
                paths,
                repos,
                CLOCK,
                None,
                bar,
                label=label,
                retain=kept,
                retain_max=longest,
                accept=accept,
                rules=rules,
                unreadable=Rules.of(allow_unreadable or ()),
                allow_empty=allow_empty,
                skip_unchanged=not no_skip,
                stream=(stdin, sys.stdin.buffer) if stdin is not None else None,
                **known_by,
            )
        elif bucket:
            from backup.locations.urls import open_bucket  # noqa: PLC0415

            store, source = open_bucket(bucket)
            done = backup_run.run_bucket(
                store,
                repos,
                CLOCK,
                None,
                bar,
                source=source,
                label=label,
                retain=kept,
                retain_max=longest,
                accept=accept,
                skip_unchanged=not no_skip,
                **known_by,
            )
        else:
            conninfo, secret = (postgres, None) if postgres else standby()
            done = backup_run.run_postgres(
                conninfo,
                secret,
                repos,
                CLOCK,
                None,
                bar,
                label=label or "zaibei",
                retain=kept,
                retain_max=longest,
                accept=accept,
                **known_by,
            )
    complete = done.complete and not lost
    problems = [*lost, *done.problems]
    made = [o for o in done.outcomes if o.snapshot is not None]
    facts: dict[str, Any] = made[0].snapshot.content.facts if made and made[0].snapshot else {}
    idle, allowed = facts.get("idle_rules", []), facts.get("allowed_problems", [])
    say(
        json,
        {
            "complete": complete,
            "took_s": done.took,
            "problems": problems,
            "anomalies": list(done.anomalies),
            "followed": facts.get("followed", {}),
            "facts": {"idle_rules": idle, "own_repositories": facts.get("own_repositories", [])},
            "allowed": allowed,
            "vaults": [
                {
                    "vault": o.vault,
                    "snapshot": o.snapshot.sequence if o.snapshot else None,
                    "size_bytes": o.snapshot.content.size_bytes if o.snapshot else None,
                    "stored_bytes": o.written.stored_bytes if o.written else None,
                    "error": o.error,
                    "guard": o.snapshot.content.facts.get("guard") if o.snapshot else None,
                }
                for o in done.outcomes
            ],
        },
        [
            *(f"{o.vault}: snapshot {o.snapshot.sequence}" for o in made if o.snapshot),
            *(f"INCOMPLETE: {p}" for p in problems),
            *(f"ANOMALOUS: {a}" for a in done.anomalies),
            *(f"left out, as allowed: {a}" for a in allowed),
        ],
    )
    raise typer.Exit(0 if complete else 1)
