"""`zaibei surge`: Load on the services."""

import typer

app = typer.Typer(no_args_is_help=True, help="Load on the services.")
