"""Fetching a secret from where the stack file says it is. What was fetched is never logged or kept."""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from zaibei.config.model import SecretFrom, SecretRef, Stack
from zaibei.kernel.errors import Missing, Refused
from zaibei.kernel.process import run

COMMAND_DEADLINE = timedelta(seconds=30)
_OTHERS_MAY_READ = 0o004
_WORD = r"(?:pass(?:word|wd|phrase)?|token|secret|api[-_]?key)"
_LITERAL = re.compile(
    rf"(?i){_WORD}\s*[=:]\s*\S|://[^/@\s]+:[^/@\s]+@|-----BEGIN [A-Z ]*PRIVATE KEY"
)
_FLAG = re.compile(rf"(?i)--?{_WORD}")


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


def why_not_public(stack: Stack) -> str | None:
    """Which part of the stack looks like a secret itself; None when it may go into a pack.

    The file refers to secrets and never holds them, but a command's arguments and a title are free
    text. The text is not in the answer: that goes to a terminal and a log.
    """
    for secret in stack.secrets:
        if any(_LITERAL.search(w) or _FLAG.fullmatch(w) for w in secret.where):
            return f"the {secret.source.value} of secret {secret.name}"
    texts = [("the title of the stack", stack.title)]
    texts += [(f"the contact of {p.name}", p.contact or "") for p in stack.people]
    texts += [(f"an endpoint of {s.name}", url) for s in stack.services for url in s.endpoints]
    return next((where for where, text in texts if _LITERAL.search(text)), None)
