"""`zaibei runbook`: Procedures that run."""

import random
from contextlib import contextmanager
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zaibei.cli.choice import chosen_stack
from zaibei.cli.console import emit, failed, line, progress, talk
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Missing, Refused, Usage, ZaibeiError
from zaibei.kernel.state import state_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runbooks.engine import Engine
    from runbooks.journal import Journal
    from runbooks.library import Source
    from zaibei.config.model import Stack
    from zaibei.kernel.progress import Progress

app = typer.Typer(no_args_is_help=True, help="Procedures that run.")
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Name = Annotated[str, typer.Argument(help="a name from `zaibei runbook list`, or a file")]
Typed = Annotated[str | None, typer.Option("--yes-i-mean", help="the site's name, typed")]
StackFile = Annotated[
    Path | None, typer.Option("--stack", help="the stack's file; default: stack.yaml here")
]
Inventory = Annotated[Path | None, typer.Option(help="Ansible inventory; default: the lab's")]


@app.command("list")
def list_(*, json: Json = False) -> None:
    """Every runbook, its danger, and the drill that rehearses it."""
    from runbooks.library import read, runbook_files  # noqa: PLC0415

    books = [read(f).runbook for f in runbook_files()]
    if json:
        emit({"runbooks": [b.model_dump(mode="json") for b in books]})
        return
    for book in books:
        line(f"{book.id:22}{book.danger.level:13}{book.drill:20}{book.title.zh} / {book.title.en}")


@app.command()
def show(
    name: Name,
    *,
    lang: Annotated[str, typer.Option(help="zh or en")] = "en",
    json: Json = False,
) -> None:
    """A runbook as people read it."""
    from runbooks.library import find  # noqa: PLC0415
    from runbooks.render import page  # noqa: PLC0415

    if lang not in ("zh", "en"):
        raise Usage(f"no language {lang!r}", hint="zh or en")
    source = find(name)
    if json:
        emit({"digest": source.digest, "runbook": source.runbook.model_dump(mode="json")})
    else:
        print(page(source.runbook, lang), end="")


@app.command()
def lint(
    path: Annotated[
        Path | None, typer.Argument(help="a runbook or a folder of them; default: the library")
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Find what is wrong with runbooks before the night they are needed. Exits 1 on findings."""
    from runbooks.lint import lint as find_faults  # noqa: PLC0415

    report = find_faults(scenarios=_scenarios(), commands=commands(), path=path)
    found = report.findings
    if json:
        emit({"findings": found, "runbooks": report.runbooks})
    else:
        for one in found:
            line(one)
        talk.print(f"{len(report.runbooks)} runbooks read, {len(found)} findings")
    if found:
        raise typer.Exit(1)


@app.command()
def run(
    name: Name,
    *,
    site: Annotated[str | None, typer.Option(help="the site it is about")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="another parameter: k=v")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say it, do nothing")] = False,
    resume: Annotated[str | None, typer.Option(help="take up a run that was stopped")] = None,
    yes_i_mean: Typed = None,
    stack: StackFile = None,
    inventory: Inventory = None,
    json: Json = False,
) -> None:
    """Run a runbook: each step journalled and proven before the next one begins."""
    from runbooks.library import find  # noqa: PLC0415

    with _told_as(json=json):
        source, asked = find(name), _asked(site, set_ or [])
        warning = _unchecked(source)
        if dry_run:
            _say_only(source, asked, warning, stack=stack, json=json)
            return
        with progress() as told:
            engine = _engine(inventory, told, stack)
            if resume is not None:
                journal = engine.resume(source, resume, typed=yes_i_mean)
            else:
                journal = engine.run(source, asked, typed=yes_i_mean)
        _report(journal, warning, json=json)


@app.command()
def undo(
    run: Annotated[str, typer.Argument(help="the id of the run")],
    *,
    yes_i_mean: Typed = None,
    stack: StackFile = None,
    inventory: Inventory = None,
    json: Json = False,
) -> None:
    """Take a run back: the undo of each step that was begun, the last one first."""
    from runbooks.journal import load  # noqa: PLC0415
    from runbooks.library import find  # noqa: PLC0415

    with _told_as(json=json):
        source = find(load(run).file)
        warning = _unchecked(source)
        with progress() as told:
            journal = _engine(inventory, told, stack).undo(source, run, typed=yes_i_mean)
        _report(journal, warning, json=json)


def commands() -> frozenset[str]:
    """`group command`, or `command` where there is no group, of all there are; for the linter."""
    from zaibei.cli.main import app as whole  # noqa: PLC0415 - it imports this module

    def below(words: str, command: object) -> "Iterator[str]":
        inner = getattr(command, "commands", None)
        if inner is None:
            yield words
            return
        for name, one in inner.items():
            yield from below(f"{words} {name}".strip(), one)

    return frozenset(below("", typer.main.get_command(whole)))


def _scenarios() -> frozenset[str]:
    folder = Path(str(files("failover"))) / "scenarios"
    return frozenset(f.stem for f in folder.glob("*.yml"))


def _asked(site: str | None, pairs: list[str]) -> dict[str, str]:
    asked = {} if site is None else {"site": site}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise Usage(f"--set {pair}: not key=value")
        asked[key] = value
    return asked


def _engine(inventory: Path | None, told: "Progress", stack: Path | None) -> "Engine":
    from runbooks.engine import Engine  # noqa: PLC0415

    return Engine(
        clock=SystemClock(),
        rng=random.Random(),
        inventory=inventory or state_dir() / "lab" / "inventory.yml",
        stack=_stack(stack),
        progress=told,
    )


def _stack(given: Path | None) -> "Stack | None":
    """The declared stack, if it is the provisioned one. None: the access record alone says what there is."""
    from infra.sites import load  # noqa: PLC0415

    chosen = chosen_stack(given)
    try:
        provisioned = load().stack
    except Missing:
        return chosen
    if provisioned == chosen.name:
        return chosen
    if given is not None:
        raise Refused(
            f"{given} declares {chosen.name}, and the stack that is provisioned here is {provisioned}",
            hint="pass the file of the stack that you mean to act on",
        )
    return None


def _unchecked(source: "Source") -> str | None:
    """Said before anything is done: nobody may take a run of this for an approved one."""
    needed = source.runbook.approvals.needed
    if not needed:
        return None
    warning = (
        f"APPROVALS ARE NOT CHECKED: {source.runbook.id} needs {needed}, no signature was asked for or "
        "verified, and the journal says so (verified: null)"
    )
    talk.print(" ! ", style="bold white on red", end=" ")
    talk.print(warning, style="bold red", soft_wrap=True)
    return warning


def _say_only(
    source: "Source",
    asked: dict[str, str],
    warning: str | None,
    *,
    stack: Path | None,
    json: bool,
) -> None:
    from runbooks.placeholders import Declared, check_names, given  # noqa: PLC0415
    from runbooks.render import page  # noqa: PLC0415

    values = given(source.runbook, asked)
    if (declared := _stack(stack)) is not None:
        check_names(source.runbook, values, Declared.of(declared))
    if json:
        book = source.runbook.model_dump(mode="json")
        emit({"dry_run": True, "warning": warning, "values": values, "runbook": book})
    else:
        print(page(source.runbook, "en", values=values), end="")
        talk.print("dry run: nothing was done")


@contextmanager
def _told_as(*, json: bool) -> "Iterator[None]":
    """With --json the object of a failure holds the journal too, when the run has one."""
    try:
        yield
    except ZaibeiError as error:
        if json and (run := getattr(error, "run", None)) is not None:
            emit({**_journal(run), **failed(error, error.exit_code)})
        raise


def _journal(run: str) -> dict[str, object]:
    from runbooks.journal import load  # noqa: PLC0415

    return asdict(load(run))


def _report(journal: "Journal", warning: str | None, *, json: bool) -> None:
    if json:
        emit({**asdict(journal), "warning": warning})
        return
    for step in journal.steps:
        talk.print(
            f"{step.state.value:8} {step.id}: {step.said}; proof: {step.proof}",
            markup=False,
            emoji=False,
            soft_wrap=True,
        )
    talk.print(f"{journal.run}: {journal.state.value}", markup=False)
    if warning:
        talk.print(warning, style="bold red", soft_wrap=True)
