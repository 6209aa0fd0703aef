"""`zaibei lab`: Three real sites on one machine."""

import typer

app = typer.Typer(no_args_is_help=True, help="Three real sites on one machine.")
