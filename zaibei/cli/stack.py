"""`zaibei init` and `zaibei stack`: the declared system and its objectives."""

# ruff: noqa: PLC0415 - pydantic is loaded by the command that needs it: `zaibei --help` stays fast

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zaibei.cli.console import emit, show, talk

if TYPE_CHECKING:
    from zaibei.config import Explained  # pydantic stays unloaded until a command needs it

app = typer.Typer(no_args_is_help=True, help="The declared system and its objectives.")

STACK_FILE = Path("stack.yaml")
_PIPE_WIDTH = 1000

File = Annotated[Path, typer.Argument(help="The stack file.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = STACK_FILE,
    template: Annotated[
        str, typer.Option(help="two-places-three-centres, core-plus-three or single.")
    ] = "two-places-three-centres",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a commented stack file to start from."""
    from zaibei.config import sample
    from zaibei.kernel.errors import Refused, Usage
    from zaibei.kernel.state import write_atomic

    text = sample(template)
    if path.is_dir():
        raise Usage(f"{path} is a folder", hint=f"zaibei init {path / STACK_FILE}")
    if path.exists() and not force:
        raise Refused(
            f"{path} is there already", hint="--force replaces it; another name keeps both"
        )
    write_atomic(path, text)
    if as_json:
        emit({"path": path, "template": template})
        return
    talk.print(f"wrote {path} from the template {template}", markup=False)
    talk.print(f"next: edit it, then zaibei stack validate {path}", markup=False)


@app.command()
def validate(path: File = STACK_FILE, as_json: Json = False) -> None:
    """Check the file; tell every fault with its line."""
    from zaibei.config import check, load
    from zaibei.kernel.errors import BadStack

    if as_json:
        checked = check(path)
        digest = checked.stack.digest if checked.stack else None
        emit({"ok": checked.stack is not None, "digest": digest, "faults": checked.faults})
        if checked.stack is None:
            raise typer.Exit(BadStack.exit_code)
        return
    stack = load(path)
    assets = len(stack.databases) + len(stack.buckets) + len(stack.services)
    print(f"{path}: ok, {len(stack.sites)} sites, {assets} assets, {len(stack.calendar)} drills")
    print(f"digest {stack.digest}")


@app.command()
def explain(
    path: File = STACK_FILE,
    under: Annotated[
        str, typer.Option(help="Only values under this path: data.databases.population.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Print each value in force, and where it comes from."""
    from zaibei.config import explain as rows_of
    from zaibei.kernel.errors import Usage

    rows = [r for r in rows_of(path) if not under or f"{r.path}.".startswith(f"{under}.")]
    if not rows:
        raise Usage(f"no value under {under!r}", hint="paths are those that explain prints")
    if as_json:
        emit(rows)
    else:
        _table(rows)


@app.command()
def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="docs/reference/stack.md instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the JSON Schema (draft 2020-12), for editors."""
    from zaibei.config import json_schema, reference
    from zaibei.kernel.errors import Usage

    if markdown and as_json:
        raise Usage("--markdown and --json are two answers", hint="ask for one")
    if markdown:
        print(reference(), end="")
    else:
        emit(json_schema())


def _table(rows: "list[Explained]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("path", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("origin", no_wrap=True)
    for row in rows:
        said = ", ".join(row.value) if isinstance(row.value, tuple) else _as_yaml(row.value)
        style = "dim" if row.origin == "default" else ""
        table.add_row(Text(row.path), Text(said), Text(row.origin), style=style)
    show(table, width=_PIPE_WIDTH)  # one value a line, for grep


def _as_yaml(value: str | float | bool | None) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
