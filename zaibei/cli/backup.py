"""`zaibei backup`: Encrypted backups, proven by restoring."""

import typer

app = typer.Typer(no_args_is_help=True, help="Encrypted backups, proven by restoring.")
