"""`zaibei data`: The four base databases."""

import typer

app = typer.Typer(no_args_is_help=True, help="The four base databases.")
