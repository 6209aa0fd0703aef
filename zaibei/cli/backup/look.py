"""`backup list`, `show` and `verify`: what is there, and is it what was written?"""

import typer

from zaibei.cli.backup.shared import (
    AsOf,
    Json,
    Level,
    Password,
    Repo,
    Which,
    app,
    opened,
    say,
    snapshot_told,
    told,
)
from zaibei.cli.console import progress


@app.command("list")
def list_(
    repo: Repo = None, password_file: Password = None, as_of: AsOf = None, json: Json = False
) -> None:
    """The snapshots of each repository, oldest first."""
    with told():
        all_opened = opened(repo, password_file, as_of=as_of)
        found = {r.name: [snapshot_told(s) for s in r.snapshots()] for r in all_opened}
    say(
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
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """One snapshot: what it is, what it says about itself, what it holds."""
    with told():
        import os  # noqa: PLC0415

        from backup.reader import Reader  # noqa: PLC0415

        one_repo = opened(repo, password_file, as_of=as_of)[0]
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
        facts = {**snapshot_told(one), "facts": one.content.facts, "entries": names}
    say(json, facts, [f"{n['size_bytes']:>12}  {n['path']}" for n in names])


@app.command()
def verify(
    level: Level = Level.SAMPLE,
    repo: Repo = None,
    password_file: Password = None,
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Is everything there, and is it what was written?"""
    with told(), progress() as bar:
        import secrets  # noqa: PLC0415

        from backup import verify as verifying  # noqa: PLC0415

        found = [
            verifying.verify(
                r, verifying.Level(level.value), rng=secrets.SystemRandom(), progress=bar
            )
            for r in opened(repo, password_file, as_of=as_of)
        ]
    sound = not any(f.damage for f in found)
    say(
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
