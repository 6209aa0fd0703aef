"""`zaibei store`: Object stores: admission, divergence, repair."""

import typer

app = typer.Typer(no_args_is_help=True, help="Object stores: admission, divergence, repair.")
