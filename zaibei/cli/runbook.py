"""`zaibei runbook`: Procedures that run."""

import typer

app = typer.Typer(no_args_is_help=True, help="Procedures that run.")
