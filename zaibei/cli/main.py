"""`zaibei`: one door for people and scripts. Exit codes are those of `kernel.errors`."""

# What takes time to import is imported inside `run`, where Ctrl-C is an answer and no traceback.
import gc
import importlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zaibei import __version__

if TYPE_CHECKING:
    import typer

GROUPS = (
    "stack",
    "lab",
    "data",
    "drill",
    "backup",
    "store",
    "surge",
    "monitor",
    "runbook",
    "evidence",
)

# Every module behind these logs through `kernel.log.logger`, which configures at the first word.
_LOGS_ITSELF = ("backup",)


_INTERRUPTED = 130
_USAGE = 2


def build(groups: Sequence[str] = GROUPS) -> "typer.Typer":
    """The door with these groups behind it. A backup every few minutes must not pay for the import of the
    load generator, so `run` asks only for the group that is called."""
    import typer  # noqa: PLC0415

    one = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="zaibei 灾备: disaster tolerance that is measured, not promised.",
    )
    # With one command alone Typer would leave out the group's name.
    one.callback()(lambda: None)
    for name in groups:
        one.add_typer(importlib.import_module(f"zaibei.cli.{name}").app, name=name)
    if "stack" in groups:
        one.command("init")(importlib.import_module("zaibei.cli.stack").init)
    one.command()(version)
    return one


def version() -> None:
    """Print the version."""
    print(__version__)


def run() -> None:
    """The console script."""
    if sys.flags.optimize:
        # Assertions tell bugs; a run without them could report a pass that was never checked.
        from zaibei.cli.console import complain  # noqa: PLC0415
        from zaibei.kernel.errors import Usage  # noqa: PLC0415

        complain(
            Usage(
                "python -O takes the assertions away",
                hint="run it without -O, and without PYTHONOPTIMIZE",
            ),
            _USAGE,
        )
        sys.exit(_USAGE)
    try:
        _run()
    except KeyboardInterrupt:
        from zaibei.cli.console import interrupted  # noqa: PLC0415

        interrupted()
        sys.exit(_INTERRUPTED)
    except Exception as bug:  # noqa: BLE001 - the last one there is: no traceback reaches a person
        from zaibei.cli.console import complain, unexpected  # noqa: PLC0415

        error = unexpected(bug)
        complain(error, error.exit_code)
        sys.exit(error.exit_code)


def _run() -> None:
    from zaibei.cli import streams  # noqa: PLC0415
    from zaibei.kernel import environment, heap, log  # noqa: PLC0415
    from zaibei.kernel.errors import ZaibeiError  # noqa: PLC0415

    streams.settle()
    # Typer's words quote what was typed, and a glob types names of others: no colours, so that every escape
    # sequence can be written out. Read when typer first draws; its module is too slow to import for that.
    os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"
    threading.excepthook = _in_a_thread
    # Imports and listings make many objects and hardly a cycle: looking for some every 700 took a tenth.
    gc.set_threshold(50_000, 20, 20)
    # numpy sorts here and multiplies nothing: a thread a core for that cost a tenth of a second at its import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    heap.keep()
    called = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        try:
            if called not in _LOGS_ITSELF:
                for name in environment.check():
                    print(f"note: {name} is no variable of zaibei", file=sys.stderr)
                environment.forget_ambient()
                log.configure()
            # By name, also as `python -m`: the scripts of shell completion are named by it.
            build([called] if called in GROUPS else GROUPS)(prog_name="zaibei")
        except SystemExit as end:
            # Typer turns Ctrl-C into a bare exit code.
            if end.code == _INTERRUPTED:
                raise KeyboardInterrupt from end
            if end.code == _USAGE:
                from zaibei.cli.console import refused_words  # noqa: PLC0415

                refused_words(end.__context__)
            streams.finish()
            raise
    except ZaibeiError as error:
        from zaibei.cli.console import complain  # noqa: PLC0415

        complain(error, error.exit_code)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        streams.let_go()
        sys.exit(1)


def _in_a_thread(failed: "threading.ExceptHookArgs") -> None:
    """The command goes on without the thread; who started it sees what that means."""
    from zaibei.cli.console import talk, unexpected  # noqa: PLC0415

    if failed.exc_value is not None:
        error = unexpected(failed.exc_value)
        name = failed.thread.name if failed.thread else "a thread"
        talk.print(f"error: {name}: {error.message}\n{error.hints[0]}", markup=False, emoji=False)


def __getattr__(name: str) -> "typer.Typer":
    """`app`: the whole of it, for whoever reads it as a document."""
    if name != "app":
        raise AttributeError(name)
    return build()


if __name__ == "__main__":
    run()
