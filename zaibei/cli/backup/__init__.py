"""`zaibei backup`: Encrypted backups, proven by restoring. Exit codes: 0 all of it is true, 1 damage was
found or something is incomplete, 2 the request was wrong. Beside the stack file it works alone: `--repo`."""

from zaibei.cli.backup import (
    bench,
    immutable,
    key,
    lifecycle,
    look,
    point,
    postgres,
    restore,
    run,
    schedule,
)
from zaibei.cli.backup.shared import app

__all__ = [
    "app",
    "bench",
    "immutable",
    "key",
    "lifecycle",
    "look",
    "point",
    "postgres",
    "restore",
    "run",
    "schedule",
]
