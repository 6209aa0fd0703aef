"""Runs one Ansible play in a child process, and knows for certain that nothing of it is left afterwards.

Never in this process: children of ansible-runner survive it, and it hides their ids (its issue 973).
"""

import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from infra.ansible.play import environment as ansible_environment
from runbooks.inventory import demand_one_host
from runbooks.inventory import read as read_inventory
from runbooks.library import playbooks_dir
from runbooks.model import Value
from runbooks.play_child import extravars
from zaibei.kernel import process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import ToolFailed, Unreachable
from zaibei.kernel.state import write_atomic

_MAX_LINE_BYTES = 1 << 20
_MAX_EVENTS = 20_000
_POLL = timedelta(milliseconds=200)
_END = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayResult:
    events: int
    chain_sha256: str  # each event's line hashed onto the one before: none can be taken out unseen
    hosts: tuple[str, ...]


def run_play(
    playbook: str,
    *,
    limit: str,
    variables: Mapping[str, Value],
    secrets: Mapping[str, object],
    inventory: Path,
    folder: Path,
    ident: str,
    deadline: timedelta,
    clock: Clock,
    playbooks: Path | None = None,
    on_event: Callable[[dict[str, Any]], None] = lambda _: None,
) -> PlayResult:
    """Raises Refused when `limit` is not exactly one host, Unreachable when it did not answer,
    ToolFailed when a task failed or it took too long.

    `secrets` go into a file that only its owner can read, never into argv, and the file is gone when
    the play has read it. At the end the child and everything below it is gone, also when this call is
    interrupted. Strings of `variables` and `secrets` are data: Ansible does not evaluate them.
    """
    demand_one_host(read_inventory(inventory), limit, play=playbook)
    private = _private_dir(folder, playbooks or playbooks_dir(), {**variables, **secrets})
    with (folder / f"{ident}.stderr").open("wb") as said:
        child = process.start(
            [sys.executable, "-P", "-m", "runbooks.play_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=_environment(private),
            ends_itself=True,
        )
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        asked = {
            "private_data_dir": str(private),
            "playbook": playbook,
            "inventory": str(inventory.resolve()),
            "limit": limit,
            "ident": ident,
        }
        child.stdin.write(json.dumps(asked).encode() + b"\n")
        child.stdin.flush()
        end, count, chain = _follow(
            child.stdout,
            kept=folder / f"{ident}.events.jsonl",
            until=clock.monotonic() + deadline.total_seconds(),
            clock=clock,
            on_event=on_event,
        )
        if end is not None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=_END.total_seconds())
    finally:
        process.end(child)
        process.end_escaped(child)
        extravars(private).unlink(missing_ok=True)
    if end is None:
        raise ToolFailed(
            f"{playbook}: not done after {deadline.total_seconds():g} s, or its process died",
            hint=f"its last words: {folder / f'{ident}.stderr'}, {private / 'artifacts' / ident}",
        )
    if end["unreachable"]:
        raise Unreachable(f"{playbook}: no answer from {', '.join(end['unreachable'])}")
    if end["status"] != "successful" or end["rc"] != 0:
        who = ", ".join(end["failed"]) or "no host"
        raise ToolFailed(
            f"{playbook}: {end['status']} (exit {end['rc']}) on {who}",
            hint=f"see {private / 'artifacts' / ident / 'stdout'}",
        )
    if end["ok"] != [limit]:
        # A play whose `hosts` leave out the limit ends with exit 0 and has done nothing.
        told = ", ".join(end["ok"]) or "no host"
        raise ToolFailed(f"{playbook}: was to run on {limit} and ran on {told}")
    return PlayResult(events=count, chain_sha256=chain, hosts=tuple(end["ok"]))


def _private_dir(folder: Path, playbooks: Path, variables: Mapping[str, object]) -> Path:
    """ansible-runner's folder: one a run, ours alone, with a copy of the playbooks."""
    private = folder / "ansible"
    for part in ("env", "tmp", "artifacts"):
        (private / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    private.chmod(0o700)
    shutil.copytree(playbooks, private / "project", dirs_exist_ok=True)
    data = {name: _unsafe(value) for name, value in variables.items()}
    write_atomic(extravars(private), json.dumps(data), mode=0o600)
    return private


def _unsafe(value: object) -> object:
    """Marked for Ansible as text that is never a template, however deep it lies."""
    if isinstance(value, str):
        return {"__ansible_unsafe": value}
    if isinstance(value, Mapping):
        return {str(k): _unsafe(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_unsafe(v) for v in value]
    return value


def _environment(private: Path) -> dict[str, str]:
    """The suite's own Ansible settings, with everything it writes kept inside the run's folder."""
    scratch = str(private / "tmp")
    return ansible_environment() | {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "LC_ALL": "C.UTF-8",
        "HOME": scratch,
        "ANSIBLE_HOME": scratch,
        "ANSIBLE_LOCAL_TEMP": scratch,
    }


def _follow(
    out: IO[bytes],
    *,
    kept: Path,
    until: float,
    clock: Clock,
    on_event: Callable[[dict[str, Any]], None],
) -> tuple[dict[str, Any] | None, int, str]:
    """Read events until the child says how it ended. None: it died, or the deadline came."""
    chain, count, buffer = hashlib.sha256(b"").hexdigest(), 0, b""
    kept.touch(mode=0o600)
    with kept.open("ab") as keep:
        while clock.monotonic() < until and count <= _MAX_EVENTS:
            ready, _, _ = select.select([out], [], [], _POLL.total_seconds())
            if not ready:
                continue
            piece = os.read(out.fileno(), 1 << 16)
            if not piece:
                return None, count, chain
            buffer += piece
            assert len(buffer) <= _MAX_LINE_BYTES + (1 << 16), "an event line without an end"
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                event: dict[str, Any] = json.loads(line)
                if event.get("end"):
                    return event, count, chain
                chain = hashlib.sha256(chain.encode() + line).hexdigest()
                count += 1
                keep.write(line + b"\n")
                keep.flush()
                on_event(event)
    return None, count, chain
