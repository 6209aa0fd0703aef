"""Say who ran a drill, as the operating system knows it, and as the stack names that person."""

import os
import pwd
import socket
from collections.abc import Mapping
from typing import Any

from zaibei.config.model import Stack

OPERATOR = "operator"  # a machine that no site lists as its host
_TEXT_MAX = 80


def ran_by(
    stack: Stack, *, environ: Mapping[str, str] | None = None, host: str | None = None
) -> dict[str, Any]:
    """User, machine, and the person of `people:` with that name, if there is one.

    Behind sudo the account is root's and the person is another; both are said. The variable is the
    word of whoever started the drill: with n-of-m approvals a signature takes its place.
    """
    user = _user()
    before_sudo = (os.environ if environ is None else environ).get("SUDO_USER")
    host = host or socket.gethostname()
    person = next((p for p in stack.people if p.name in {before_sudo, user}), None)
    role = next((s.role.value for s in stack.sites if host in s.hosts), OPERATOR)
    return {
        "user": _plain(user),
        "before_sudo": _plain(before_sudo) if before_sudo else None,
        "host": _plain(host),
        "host_role": role,
        "person": person.name if person else None,
    }


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:_TEXT_MAX]
