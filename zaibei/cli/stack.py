"""`zaibei init` and `zaibei stack`: The declared system and its objectives."""

import typer

app = typer.Typer(no_args_is_help=True, help="The declared system and its objectives.")
