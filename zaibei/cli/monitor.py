"""`zaibei monitor`: What is true now: exporter, alerts."""

import typer

app = typer.Typer(no_args_is_help=True, help="What is true now: exporter, alerts.")
