"""`zaibei drill`: Faults made on purpose, measured."""

import typer

app = typer.Typer(no_args_is_help=True, help="Faults made on purpose, measured.")
