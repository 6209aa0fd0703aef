"""Programs we start. An argv, never a shell; a deadline always; its last words when it fails."""

import subprocess
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from zaibei.kernel.errors import Missing, ToolFailed

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

    Raises Missing when the program is not there, ToolFailed when it ends with a code outside `ok`
    or does not end by the deadline (it is killed then). Secrets go in `env` or `stdin`, never in argv:
    argv is in the process list and in the error.
    """
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
            group=user,
            extra_groups=None if user is None else [],
        )
    except FileNotFoundError as gone:
        raise Missing(f"{argv[0]}: no such program", hint="run `make setup`") from gone
    except subprocess.TimeoutExpired as late:
        said = _tail(late.stderr or b"")
        raise ToolFailed(
            f"{_name(argv)}: not done after {deadline.total_seconds():g} s{said}"
        ) from late
    if done.returncode not in ok:
        said = _tail(done.stderr or done.stdout)
        raise ToolFailed(f"{_name(argv)}: exit {done.returncode}{said}")
    return done.stdout.decode(errors="replace")


def _name(argv: Sequence[str | Path]) -> str:
    return " ".join(str(a) for a in argv[:6])


def _tail(said: bytes) -> str:
    text = said.decode(errors="replace").strip()[-_LAST_WORDS:]
    return f": {text}" if text else ""
