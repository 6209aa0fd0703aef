"""Start programs so that none outlives its deadline or the process that started it.

An argv, never a shell; a deadline always; its last words when it fails. Three things hold a child, because each
fails alone: the kernel kills it when its parent dies (PR_SET_PDEATHSIG, set by setpriv before the program runs),
it leads a session of its own that is ended with all below it, and its environment names who started it, so that
what escaped both (a daemon, a child of a child) is found by looking at the machine.
"""

import errno
import os
import pwd
import secrets
import select
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import IO
from weakref import WeakKeyDictionary

from zaibei.kernel import environment, tree
from zaibei.kernel.errors import Missing, Refused, ToolFailed
from zaibei.kernel.state import state_dir

MARK = "ZAIBEI_STARTED_BY"
_RUN = "ZAIBEI_RUN"  # which start a process comes from
DEFAULT_DEADLINE = timedelta(seconds=60)
_DEAD_WITHIN = timedelta(seconds=5)  # after SIGKILL: longer only for what waits on a dead disk
_LAST_WORDS = 2000  # characters of stderr that go into the message
_ELF_HEADER = 64  # bytes; of a program for this machine
Output = int | IO[bytes] | None
_tokens: "WeakKeyDictionary[subprocess.Popen[bytes], str]" = WeakKeyDictionary()


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
    outside `ok` or does not end by the deadline (it and all it started are killed then). Secrets go in
    `env` or `stdin`, never in argv: argv is in the process list and in the error.

    Without `env` it gets `environment.child()`: no settings that were made for other tools.

    `user`: as that account with its primary group and no other; root's groups would come along.
    """
    child = start(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        user=user,
    )
    try:
        out, said = child.communicate(stdin, timeout=deadline.total_seconds())
    except subprocess.TimeoutExpired as late:
        end(child)
        end_escaped(child)
        last = _tail(late.stderr or b"")
        raise ToolFailed(
            f"{_name(argv)}: not done after {deadline.total_seconds():g} s{last}"
        ) from late
    finally:
        end(child)
    if child.returncode not in ok:
        last = _tail(said or out)
        raise ToolFailed(f"{_name(argv)}: exit {child.returncode}{last}")
    return out.decode(errors="replace")


def start(
    argv: Sequence[str | Path],
    *,
    stdin: Output = subprocess.DEVNULL,
    stdout: Output = None,
    stderr: Output = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str | None = None,
    pass_fds: Sequence[int] = (),
    ends_itself: bool = False,
    dies_by: signal.Signals = signal.SIGKILL,
) -> "subprocess.Popen[bytes]":
    """Start a program that gets `dies_by` when the *thread* that started it ends, and so when this process does.

    `ends_itself`: when its pipe from us ends, with all that it started (`tree.hold_together`) and in good order,
    where the kernel would kill it alone. Whoever starts it also ends it: `end`. Raises what `run` raises for a program
    that cannot be started.
    """
    words = [str(a) for a in argv]
    group = None if user is None else _primary_group(user)
    around = environment.child() if env is None else dict(env)
    try:
        _look_for(words[0], around)
        token = secrets.token_hex(8)
        child = subprocess.Popen(
            [*(() if ends_itself else _dying_with_the_parent(dies_by, os.getpid())), *words],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=around | {MARK: started_by(), _RUN: token},
            cwd=cwd,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            pass_fds=pass_fds,
            start_new_session=True,
        )
        _tokens[child] = token
        return child
    except OSError as gone:
        raise _not_started(argv, gone, cwd=cwd, user=user) from gone


def end(
    child: "subprocess.Popen[bytes]",
    *,
    within: timedelta = timedelta(0),
    how: signal.Signals = signal.SIGTERM,
) -> None:
    """End it and all it started; `within`: the time it has to end by itself after the signal `how`."""
    if child.returncode is None:
        # Nothing is reaped before the group is gone: until then its number belongs to nobody else.
        with suppress(ProcessLookupError):
            if within:
                os.kill(child.pid, how)
                with open(os.pidfd_open(child.pid), "rb", buffering=0) as alive:  # noqa: PTH123
                    select.select([alive], [], [], within.total_seconds())
            tree.kill_below(
                child.pid
            )  # first: after its death they are init's children, in groups of their own
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def started_by() -> str:
    """What MARK holds in this process's children: who started them, of which boot of a namespace, for which state."""
    return f"{_namespace('self')} {os.getpid()} {tree.started('self')} {state_dir().resolve()}"


def orphans(state: Path) -> dict[int, str]:
    """Programs that outlived the zaibei that started them for this state folder: process → its words.

    Found by the mark in their environment: a record of what was started would be lost with its keeper.
    """
    return {
        pid: _words(pid)
        for pid, (owner, began, for_state) in _marked().items()
        if for_state == str(state.resolve()) and tree.started(owner) != began
    }


def end_orphans(state: Path) -> list[str]:
    """Kill them and all below them; answers with what they were."""
    found = orphans(state)
    for pid in found:
        _kill(pid)
    return [f"process {pid} of a zaibei that has ended: {words}" for pid, words in found.items()]


def helpers() -> dict[int, str]:
    """What this process started, directly or not, and still lives."""
    me = (str(os.getpid()), tree.started("self"))
    return {
        pid: _words(pid)
        for pid, (owner, began, _) in _marked().items()
        if (owner, began) == me and pid != os.getpid()
    }


def end_escaped(child: "subprocess.Popen[bytes]") -> None:
    """Kill what this child started and what is no longer below this process: its parent died first.

    Of this child alone: other threads of this process have daemons of their own.
    """
    wanted = f"{_RUN}={_tokens[child]}".encode()
    below = set(tree.descendants(os.getpid()))
    for pid in helpers().keys() - below:
        with suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                _kill(pid)


def _kill(pid: int) -> None:
    """Kill it and all below it, and wait until the kernel has let go of it: a signal is not yet a death."""
    tree.kill_below(pid)
    with suppress(ProcessLookupError), open(os.pidfd_open(pid), "rb", buffering=0) as alive:  # noqa: PTH123
        os.kill(pid, signal.SIGKILL)
        select.select([alive], [], [], _DEAD_WITHIN.total_seconds())


def _marked() -> dict[int, tuple[str, str, str]]:
    """Living processes of our namespace with the mark: who started each, when that one began, for which state."""
    here, found = _namespace("self"), {}
    wanted = f"{MARK}=".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError, ValueError):
            words = (entry / "environ").read_bytes().split(b"\0")
            mark = next((os.fsdecode(w[len(wanted) :]) for w in words if w.startswith(wanted)), "")
            namespace, owner, began, for_state = mark.split(" ", 3)
            if namespace == here == _namespace(entry.name) and tree.started(entry.name):
                found[int(entry.name)] = (owner, began, for_state)
    return found


def _words(pid: int) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words[:4]).decode(errors="replace").strip()
    return "ended meanwhile"


def _namespace(pid: str) -> str:
    """Numbers of processes mean something in one namespace only: a lab host counts from 1 again."""
    return str(Path(f"/proc/{pid}/ns/pid").readlink())


@cache
def _dying_with_the_parent(by: signal.Signals, parent: int) -> tuple[str, ...]:
    # Not preexec_fn: with threads it may deadlock between fork and exec. The shell reads nothing of the program's
    # words: it only looks whether the parent died before the kernel was asked, and makes way.
    setpriv = shutil.which("setpriv", path=os.defpath + ":/usr/sbin:/sbin")
    if setpriv is None:
        return ()
    check = '[ "$PPID" = "$0" ] && exec "$@"'
    asked = (setpriv, "--pdeathsig", by.name.removeprefix("SIG"), "--")
    return (*asked, "/bin/sh", "-c", check, str(parent))


def _look_for(program: str, env: Mapping[str, str]) -> None:
    """What exec would say of it: between stands setpriv, which only has an exit code, and which gives a file
    that is no program to a shell."""
    found = shutil.which(program, path=env.get("PATH", os.defpath))
    if found is None:
        if "/" in program:
            Path(program).stat()
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), program)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    with suppress(PermissionError), Path(found).open("rb") as file:
        head = file.read(_ELF_HEADER)
        elf = len(head) == _ELF_HEADER and head.startswith(b"\x7fELF") and head[4] in (1, 2)
        if not elf and not head.startswith(b"#!"):
            raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC), program)


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
