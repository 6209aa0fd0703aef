"""Fetching a secret from where the stack file says it is. What was fetched is never logged or kept."""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from zaibei.config.model import SecretFrom, SecretRef
from zaibei.kernel.errors import Missing, Refused
from zaibei.kernel.process import run

COMMAND_DEADLINE = timedelta(seconds=30)
_OTHERS_MAY_READ = 0o004


def reveal(secret: SecretRef, *, env: Mapping[str, str] | None = None) -> str:
    """The secret, without the line end. Raises Missing, Refused (a file anybody may read) or ToolFailed.

    An empty secret is Missing: it would encrypt, and open to everybody.
    """
    match secret.source:
        case SecretFrom.ENV:
            found = (os.environ if env is None else env).get(secret.where[0], "")
        case SecretFrom.FILE:
            found = _from_file(secret)
        case SecretFrom.COMMAND:
            found = run(secret.where, deadline=COMMAND_DEADLINE)
    found = found.rstrip("\r\n")
    if not found:
        raise Missing(
            f"secret {secret.name}: nothing in {secret.source.value} {secret.where[0]}",
            hint="the stack file says that it is there: put it there, or change the reference",
        )
    return found


def _from_file(secret: SecretRef) -> str:
    path = Path(secret.where[0])
    try:
        with path.open() as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & _OTHERS_MAY_READ:
                raise Refused(
                    f"secret {secret.name}: everybody on this machine may read {path}",
                    hint=f"chmod o-r {path}, then change the secret",
                )
            return file.readline()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as why:
        raise Missing(f"secret {secret.name}: {path}: {why.strerror}") from why
