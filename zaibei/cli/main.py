"""`zaibei`: one door for people and scripts. Exit codes are those of `kernel.errors`."""

import sys

import typer

from zaibei import __version__
from zaibei.cli import backup, data, drill, evidence, lab, monitor, runbook, stack, store, surge
from zaibei.cli.console import complain
from zaibei.kernel import log
from zaibei.kernel.errors import ZaibeiError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="zaibei 灾备: disaster tolerance that is measured, not promised.",
)
for name, group in (
    ("stack", stack),
    ("lab", lab),
    ("data", data),
    ("drill", drill),
    ("backup", backup),
    ("store", store),
    ("surge", surge),
    ("monitor", monitor),
    ("runbook", runbook),
    ("evidence", evidence),
):
    app.add_typer(group.app, name=name)
app.command("init")(stack.init)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def run() -> None:
    """The console script."""
    if sys.flags.optimize:
        # Assertions tell bugs; a run without them could report a pass that was never checked.
        print("refused: python -O takes the assertions away", file=sys.stderr)
        sys.exit(2)
    log.configure()
    try:
        app()
    except ZaibeiError as error:
        complain(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
