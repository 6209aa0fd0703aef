"""`zaibei evidence`: Signed statements that anybody can check."""

import typer

app = typer.Typer(no_args_is_help=True, help="Signed statements that anybody can check.")
