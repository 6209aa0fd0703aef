"""Run one playbook through ansible-runner, as a process of its own: `python -P -m infra.ansible.play`.

Its children outlive it when it is killed inside another process, and its event handlers must never be
slow; so it is a process of its own that prints each event as a JSON line and is ended with all below it.
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

from zaibei.kernel import process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import ToolFailed
from zaibei.kernel.progress import Progress
from zaibei.kernel.tree import hold_together, kill_below

_TOLD = ("runner_on_ok", "runner_on_failed", "runner_on_unreachable", "playbook_on_task_start")
_CLOSING = timedelta(seconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayResult:
    changed: int
    ok: int
    tasks: int


def environment() -> dict[str, str]:
    """What a play needs besides its inventory: our roles, mitogen's strategies, no proxies to the sites."""
    import importlib.util  # noqa: PLC0415

    here = Path(str(files("infra.ansible")))
    found = importlib.util.find_spec("ansible_mitogen")
    assert found is not None and found.submodule_search_locations, "mitogen is in the lock"
    mitogen = Path(next(iter(found.submodule_search_locations)))
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TERM")}
    return kept | {
        "ANSIBLE_CONFIG": str(here / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(here / "roles"),
        "ANSIBLE_STRATEGY_PLUGINS": str(mitogen / "plugins" / "strategy"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
        "LANG": "C.UTF-8",
        "NO_PROXY": "*",
    }


def play(
    playbook: Path,
    *,
    inventory: Path,
    variables: Path,
    private: Path,
    deadline: timedelta,
    clock: Clock,
    progress: Progress,
) -> PlayResult:
    """Raises ToolFailed with the failing task, host and message.

    `variables` is a JSON file of mode 0600: secrets never reach an argv. `private` is a folder of this
    run alone; ansible-runner writes its artifacts below it.
    """
    private.mkdir(parents=True, exist_ok=True, mode=0o700)
    start = clock.monotonic()
    child = process.start(
        [sys.executable, "-P", "-m", "infra.ansible.play", playbook, inventory, variables, private],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment() | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        ends_itself=True,
    )
    assert child.stdout is not None
    tasks = ok = changed = code = 0
    failures: list[str] = []
    stray: list[str] = []
    late = False
    try:
        for raw in _lines(child.stdout, until=start + deadline.total_seconds(), clock=clock):
            line = raw.decode(errors="replace")
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                stray.append(line.rstrip())
                continue
            kind = event["event"]
            if kind == "playbook_on_task_start":
                tasks += 1
                progress.done(tasks, unit=f"tasks: {event['task']}")
            elif kind == "runner_on_ok":
                ok += 1
                changed += bool(event["changed"])
            elif not event["ignored"]:
                failures.append(f"{event['host']}: {event['task']}: {event['message']}")
        code = child.wait(_CLOSING.total_seconds())
    except (TimeoutError, subprocess.TimeoutExpired):
        late = True
    finally:
        process.end(child)
        process.end_escaped(child)
    took = clock.monotonic() - start
    if late:
        raise ToolFailed(f"{playbook.name}: not done after {took:.0f} s", hint=f"see {private}")
    if code or failures:
        why = "; ".join(failures[:3]) or " / ".join(stray[-5:]) or f"exit {code}"
        raise ToolFailed(f"{playbook.name}: {why}", hint=f"see {private}/artifacts")
    return PlayResult(changed=changed, ok=ok, tasks=tasks)


def _lines(out: IO[bytes], *, until: float, clock: Clock) -> Iterator[bytes]:
    """What the child prints, to its end. Raises TimeoutError when that does not come in time: whatever the child
    has left behind may hold its stdout open for ever.
    """
    held = b""
    while (left := until - clock.monotonic()) > 0:
        ready, _, _ = select.select([out], [], [], left)
        if not ready:
            break
        piece = os.read(out.fileno(), 1 << 16)
        if not piece:
            if held:
                yield held
            return
        *lines, held = (held + piece).split(b"\n")
        yield from lines
    raise TimeoutError


def _main(playbook: str, inventory: str, variables: str, private: str) -> int:
    hold_together()
    # Here, not at the top: the watch above must stand before anything slow happens.
    import ansible_runner  # noqa: PLC0415

    def tell(event: dict[str, Any]) -> bool:
        kind, data = event.get("event", ""), event.get("event_data", {})
        if kind in _TOLD:
            result = data.get("res") or {}
            message = result.get("msg") or result.get("stderr") or result.get("stdout") or ""
            told = {
                "event": kind,
                "task": data.get("task", ""),
                "host": data.get("host", ""),
                "changed": bool(result.get("changed")),
                "ignored": bool(data.get("ignore_errors")),
                "message": str(message)[-1500:],
            }
            print(json.dumps(told, ensure_ascii=False), flush=True)
        return True

    run = ansible_runner.run(
        private_data_dir=private,
        playbook=playbook,
        inventory=inventory,
        cmdline=f"--extra-vars @{variables}",
        quiet=True,
        event_handler=tell,
        suppress_env_files=True,
        settings={"pexpect_timeout": 60, "idle_timeout": 300},
    )
    if run.status == "failed" and run.rc:
        with suppress(Exception):
            tail = run.stdout.read()[-1500:]
            print(tail, flush=True)
    kill_below(os.getpid())  # ssh masters and the like
    return 0 if run.status == "successful" else 1


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:5]))
