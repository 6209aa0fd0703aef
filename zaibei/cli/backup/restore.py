"""`backup restore`: files back."""

from pathlib import Path
from typing import Annotated

import typer

from zaibei.cli.backup.shared import (
    AsOf,
    Json,
    Password,
    Repo,
    Which,
    app,
    opened,
    say,
    told,
)
from zaibei.cli.console import progress

_RAW = "raw files of a database, personal data in plain; `rehearse --hold` lets people in masked"


@app.command()
def restore(
    snapshot: Which,
    target: Annotated[Path, typer.Option(help="An empty or new directory.")],
    repo: Repo = None,
    password_file: Password = None,
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Files back. A PostgreSQL snapshot comes back as a data directory; `rehearse` starts one."""
    with told(), progress() as bar:
        from backup.job import latest  # noqa: PLC0415
        from backup.reader import Reader  # noqa: PLC0415
        from backup.restore import restore_files  # noqa: PLC0415

        all_opened = opened(repo, password_file, as_of=as_of)
        if snapshot == "latest":
            chosen, one = latest(all_opened)
        else:
            chosen, one = all_opened[0], all_opened[0].find(snapshot)
        with Reader(chosen) as reader:
            done = restore_files(reader, one, target, progress=bar)
    whole = one.content.complete
    say(
        json,
        {
            "repository": chosen.name,
            "snapshot": one.sequence,
            "target": target,
            "complete": whole,
            "files": done.files,
            "size_bytes": done.size_bytes,
            "problems": list(one.content.problems),
            "personal_data": "plain" if one.content.kind == "postgres" else "unknown",
        },
        [
            f"restored snapshot {one.sequence} of {chosen.name}: {done.files} files",
            *(f"NOT IN THE BACKUP: {p}" for p in one.content.problems),
            *(_RAW for _ in range(one.content.kind == "postgres")),
        ],
    )
    raise typer.Exit(0 if whole else 1)
