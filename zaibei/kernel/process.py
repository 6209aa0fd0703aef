"""Programs we start. An argv, never a shell; a deadline always; its last words when it fails."""

import errno
import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from zaibei.kernel.errors import Missing, Refused, ToolFailed

_LAST_WORDS = 2000  # characters of stderr that go into the message
DEFAULT_DEADLINE = timedelta(seconds=60)


def run(
    argv: Sequence[str | Path],
    *,
    deadline: timedelta = DEFAULT_DEADLINE,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    ok: Sequence[int] = (0,),
    user: str | None = None,
) -> str:
    """Run to its end and return stdout as text.

    Raises Missing when program, folder or user is not there, ToolFailed when it ends with a code
    outside `ok` or does not end by the deadline (it is killed then). Secrets go in `env` or `stdin`,
    never in argv: argv is in the process list and in the error.

    `user`: as that account with its primary group and no other; root's groups would come along.
    """
    group = None if user is None else _primary_group(user)
    try:
        done = subprocess.run(
            [str(a) for a in argv],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=deadline.total_seconds(),
            env=None if env is None else dict(env),
            cwd=cwd,
            check=False,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )
    except OSError as gone:
        raise _not_started(argv, gone, cwd=cwd, user=user) from gone
    except subprocess.TimeoutExpired as late:
        said = _tail(late.stderr or b"")
        raise ToolFailed(
            f"{_name(argv)}: not done after {deadline.total_seconds():g} s{said}"
        ) from late
    if done.returncode not in ok:
        said = _tail(done.stderr or done.stdout)
        raise ToolFailed(f"{_name(argv)}: exit {done.returncode}{said}")
    return done.stdout.decode(errors="replace")


def _primary_group(user: str) -> int:
    """Not the group of the user's name: `nobody` is in `nogroup`."""
    try:
        return pwd.getpwnam(user).pw_gid
    except KeyError as gone:
        raise Missing(f"no user {user!r} on this machine", hint="run `make lab-setup`") from gone


def _not_started(
    argv: Sequence[str | Path], why: OSError, *, cwd: Path | None, user: str | None
) -> Missing | Refused | ToolFailed:
    """Which of the three it was: the folder, the right to become somebody else, or the program."""
    if cwd is not None and not cwd.is_dir():
        return Missing(f"{_name(argv)}: its folder {cwd} is not there")
    if user is not None and os.geteuid() != 0:
        return Refused(f"{_name(argv)}: only root may run it as {user}", hint="run it with sudo")
    if why.errno in (errno.ENOENT, errno.ENOTDIR):
        return Missing(f"{argv[0]}: no such program", hint="run `make setup`")
    return ToolFailed(
        f"{argv[0]}: cannot be started: {why.strerror or why}",
        hint=f"is it a program, and may this account run it? ls -l {argv[0]}",
    )


def _name(argv: Sequence[str | Path]) -> str:
    return " ".join(str(a) for a in argv[:6])


def _tail(said: bytes) -> str:
    text = said.decode(errors="replace").strip()[-_LAST_WORDS:]
    return f": {text}" if text else ""
