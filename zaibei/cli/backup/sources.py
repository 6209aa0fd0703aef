"""What the commands that make snapshots share: the options that name a source, and what it is known by."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zaibei.cli.backup.shared import text
from zaibei.kernel.errors import Usage

if TYPE_CHECKING:
    from backup.lifecycle.retention import Decision
    from backup.sources.roots import Root

Files = Annotated[
    list[str] | None,  # as text: of an empty variable Path would make the current directory
    typer.Option("--files", metavar="[NAME=]PATH", help="A file or directory; repeatable."),
]
Host = Annotated[
    str | None,
    typer.Option(
        envvar="ZAIBEI_HOST",
        help="Whose data it is, if not this machine's: a container has a new name each time.",
    ),
]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", help="For `list` and --keep-tag; repeatable.")
]
Unreadable = Annotated[
    list[str] | None,
    typer.Option(help="What may fail to be read, as in .gitignore; repeatable."),
]
GroupBy = Annotated[
    str, typer.Option(help="What shares a policy, beside the kind: label, host, paths, tags.")
]
AllowEmpty = Annotated[
    bool, typer.Option("--allow-empty", help="A first backup of nothing is meant.")
]


def given(files: list[str] | None) -> "list[Root]":
    """The paths of --files. Raises Usage for one that says nothing."""
    from backup.sources.roots import Root  # noqa: PLC0415

    if files and "" in files:
        raise Usage("--files is empty", hint="a variable that is not set? `.` is this directory")
    return [Root.of(f) for f in files or ()]


def demand_rules(lines: list[str] | None, option: str) -> None:
    """Raises Usage for a rule of the command line that says nothing: an empty variable, or a name taken for a comment."""
    for line in lines or ():
        demand_said(line, option)
        if line.startswith("#"):
            raise Usage(
                f"{option} {line!a}: a comment", hint=f"'\\{line}' is a name that begins with #"
            )


def labels(host: str | None, tags: list[str] | None) -> dict[str, Any]:
    """What a snapshot is known by, beside its label. Raises Usage for what is no word."""
    return {
        "host": word(host, "--host"),
        "tags": tuple(word(t, "--tag") for t in tags or ()),
    }


def word(said: str | None, option: str) -> str:
    """Empty when it is not given. Raises Usage for one that is given and says nothing, and for what is no word."""
    if said is None:
        return ""
    demand_said(said, option)
    if not (text(said, option).isprintable() and said.strip() == said):
        raise Usage(f"{option} {said!a}: a name without line breaks and spaces around it")
    return said


def demand_said(said: str, option: str) -> None:
    if not said.strip():
        raise Usage(f"{option} is empty", hint="a variable that is not set?")


def grouped_by(said: str) -> frozenset[str]:
    """Raises Usage for what snapshots are not grouped by."""
    from backup.lifecycle.retention import GROUPABLE  # noqa: PLC0415

    by = frozenset(word.strip() for word in said.split(",") if word.strip())
    if strange := sorted(by - set(GROUPABLE)):
        raise Usage(f"--group-by {strange[0]}", hint=f"any of {', '.join(GROUPABLE)}")
    return by


def zone_named(name: str) -> Any:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as bad:
        raise Usage(f"no time zone {name!r}", hint="Asia/Shanghai, UTC") from bad


def idle_words(
    tags: list[str] | None, labels: list[str] | None, decided: "Sequence[Decision]"
) -> list[str]:
    """What should keep snapshots, and no snapshot has: a typing error would let them go in silence."""
    idle = {f"--keep-tag {t}" for t in tags or ()} | {f"--keep-label {b}" for b in labels or ()}
    for one in decided:
        idle -= {f"--keep-label {one.entry.label}", *(f"--keep-tag {t}" for t in one.entry.tags)}
    return [f"{one}: no snapshot has it" for one in sorted(idle)]


def source_of(files: list[str] | None, postgres: str | None, bucket: str | None) -> "list[Root]":
    """The paths, if those are the source. Raises Usage for two sources, and for one that is given and says nothing:
    an empty variable would back up the stack's databases instead."""
    paths = given(files)
    if sum(s is not None for s in (files or None, postgres, bucket)) > 1:
        raise Usage("one source a run", hint="--files, --postgres or --bucket")
    if bucket == "":
        raise Usage("--bucket is empty", hint="a variable that is not set?")
    if postgres is not None:
        from backup.locations.conninfo import without_secrets  # noqa: PLC0415

        without_secrets(postgres)
    return paths
