"""The generated pages of docs/reference: `python -P -m zaibei.cli.reference` writes them, `--check` says
which are stale (exit 1).

Each page is made from the thing it describes (the Typer app, the error classes, the metric declarations, the
schema, the runbooks), so a page can be old and never wrong; a test and `make docs` keep it from being old.
"""

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import typer
from typer.core import TyperGroup

import zaibei
from zaibei.kernel import environment
from zaibei.kernel.errors import Usage, ZaibeiError
from zaibei.kernel.state import write_atomic

PACKAGES = ("zaibei", "infra", "backup", "failover", "loadtest", "monitors", "runbooks")
_MADE = "Made by `make docs`: do not edit.\n"
_CLI_HEAD = f"""\
# Reference: the command line

{_MADE}
Answers go to stdout, talk and progress to stderr; with `--json` stdout is one JSON object. Exit codes:
[errors](errors.md). Without `--stack` a command uses `stack.yaml` here, and without that file the sample
`two-places-three-centres`. `zaibei --install-completion` completes commands in your shell.
"""
_ENVIRONMENT_HEAD = f"""\
# Reference: environment variables

{_MADE}
Beside these only `PGPASSFILE` and `PGPASSWORD` (PostgreSQL's password), `AWS_REGION` (where `ZAIBEI_S3_REGION` is not
set), `TMPDIR`, and what the terminal needs are read. Every other setting of libpq (`PGHOST`, `PGSERVICE`, `PGOPTIONS`, …),
of AWS tools (`AWS_PROFILE`, `~/.aws`, …), of proxies, of OpenSSL and of trust stores is dropped, in zaibei and in the
programs that it starts: it was made for another tool and must not decide where a backup goes. A nearly right name that
begins with `ZAIBEI_`, or a value that means nothing, is an error (exit 2); another unknown one is noted on stderr.

| variable | means |
|---|---|
"""
_ERRORS_HEAD = f"""\
# Reference: errors and exit codes

{_MADE}
An error is told on stderr: a word (`usage`, `invalid`, `refused`, `missing`, else `error`), what happened and to
what, then `hint:` lines with what to do now. *Retryable*: the same call may succeed later without anybody doing
anything.

| exit code | means |
|---|---|
| 0 | what was asked for is true: the command succeeded, the verdict is PASS |
| 1 | it is not: FAIL, damage that `backup verify` found, an alert that fires, faults that a linter found |
| 3 | INVALID: the measurement cannot be trusted, whatever it measured |
| 2, 4 to 9 | an error of the tree below; 2 is also a mistake in the command line |
| 70 | a defect of zaibei: nothing is known of what was asked; the message names the file with the details |
| 130 | interrupted |

`zaibei backup` has a contract of its own for schedulers: 2 for a wrong request, 70 for a defect, 1 for every other
error.

"""


def pages() -> dict[str, Callable[[], str]]:
    """File name below docs/reference → what makes it."""
    from monitors import metrics  # noqa: PLC0415 - a page's source is loaded when the page is made
    from runbooks import render  # noqa: PLC0415
    from zaibei import config  # noqa: PLC0415

    return {
        "cli.md": cli_page,
        "environment.md": environment_page,
        "errors.md": errors_page,
        "metrics.md": metrics.reference,
        "stack.md": config.reference,
        "runbooks.md": render.reference,
    }


def cli_page() -> str:
    from zaibei.cli.main import app  # noqa: PLC0415 - it imports every group

    whole = typer.main.get_command(app)
    assert isinstance(whole, TyperGroup)
    return "\n".join([_CLI_HEAD, *_group("zaibei", whole)]).rstrip() + "\n"


def _group(path: str, group: TyperGroup) -> Iterator[str]:
    """Every command below, in the order that `--help` shows."""
    for name, command in group.commands.items():
        inner = f"{path} {name}"
        if isinstance(command, TyperGroup):
            yield f"## {inner}\n\n{_prose(command.help)}\n"
            yield from _group(inner, command)
            continue
        context = typer.Context(command, info_name=inner)
        usage = [p for p in command.collect_usage_pieces(context) if p != "[OPTIONS]"]
        told = [
            (p.param_type_name == "argument", record)
            for p in command.params
            if (record := p.get_help_record(context)) is not None
        ]
        options = ["[options]"] if any(not argument for argument, _ in told) else []
        depth = "###" if path != "zaibei" else "##"
        yield f"{depth} `{' '.join([inner, *options, *usage])}`\n\n{_prose(command.help)}\n"
        if told:
            yield "| | |\n|---|---|"
            yield from (f"| `{_cell(what)}` | {_cell(means)} |" for _, (what, means) in told)
            yield ""


def _prose(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(text: str) -> str:
    """As the terminal has it, minus what a table would break on."""
    return " ".join(text.split()).replace("|", "\\|")


def environment_page() -> str:
    rows = [f"| `{name}` | {_cell(means)} |" for name, means in environment.OURS.items()]
    return _ENVIRONMENT_HEAD + "\n".join(rows) + "\n"


def errors_page() -> str:
    # A class that nobody imported is no subclass yet, and would be missing here without a word.
    for package in PACKAGES:
        _import_all(package)
    rows = [
        f"| {'&nbsp;&nbsp;' * depth}`{c.__name__}` | {c.exit_code} | {'yes' if c.retryable else ''} "
        f"| `{c.__module__}` | {_cell(meaning(c))} |"
        for depth, c in _tree(ZaibeiError, 0)
    ]
    table = ["| error | exit code | retryable | module | means |", "|---|---|---|---|---|", *rows]
    return _ERRORS_HEAD + "\n".join(table) + "\n"


def _import_all(package: str) -> None:
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, f"{package}."):
        if not found.name.endswith("__main__"):  # importing it would run it
            importlib.import_module(found.name)


def _tree(error: type[ZaibeiError], depth: int) -> Iterator[tuple[int, type[ZaibeiError]]]:
    yield depth, error
    for below in sorted(error.__subclasses__(), key=lambda c: (c.exit_code, c.__name__)):
        ours = below.__module__.partition(".")[0] in PACKAGES
        if ours and not below.__name__.startswith("_"):
            yield from _tree(below, depth + 1)


def meaning(error: type[ZaibeiError]) -> str:
    """What its module's drawing says of it, else the first paragraph of its docstring."""
    drawing = getattr(inspect.getmodule(error), "__doc__", None) or ""
    drawn = re.search(rf"^[ │├└─]*{error.__name__} +(?:\d+ +)?(.+)$", drawing, flags=re.MULTILINE)
    said = inspect.getdoc(error) if error.__doc__ else None
    text = drawn[1] if drawn else (said or "").partition("\n\n")[0]
    assert text, f"{error.__module__}.{error.__name__} says nowhere what it means"
    return text


def stale(folder: Path) -> dict[str, str]:
    """Pages that are not what their source says now, with what they should be."""
    made = {name: make() for name, make in pages().items()}
    return {n: text for n, text in made.items() if _held(folder / n) != text}


def _held(page: Path) -> str | None:
    return page.read_text("utf-8") if page.exists() else None


def docs_folder() -> Path:
    """Raises Usage from an installed wheel: it has no docs beside it."""
    folder = Path(zaibei.__file__).parents[1] / "docs" / "reference"
    if not folder.is_dir():
        raise Usage(f"{folder} is not there", hint="run it in a checkout of the repository")
    return folder


def _main(argv: list[str]) -> int:
    if argv not in ([], ["--check"]):
        print("usage: python -P -m zaibei.cli.reference [--check]", file=sys.stderr)
        return 2
    folder = docs_folder()
    old = stale(folder)
    for name, text in old.items():
        print(f"{'stale' if argv else 'wrote'} {folder / name}")
        if not argv:
            write_atomic(folder / name, text)
    return 1 if argv and old else 0


if __name__ == "__main__":
    try:
        sys.exit(_main(sys.argv[1:]))
    except ZaibeiError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
