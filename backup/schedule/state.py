"""Jobs and past decisions, on the disk of the host that runs them.

`backup/schedule/jobs.json` is changed by people, `states.json` by the scheduler; each is replaced
whole. Losing the state costs no second backup: the vault knows which slots have a snapshot.
"""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from backup import status
from backup.locations.conninfo import without_secrets
from backup.locations.urls import all_distinct, without_login
from backup.schedule import calendar, model, plan
from backup.schedule.model import Job
from backup.schedule.plan import Note, State
from zaibei.kernel.errors import Damage, Usage
from zaibei.kernel.state import state_dir, write_atomic

_FORMAT = 1
_TIMES = ("settled", "done", "done_at", "trying", "retry_at")


def folder() -> Path:
    return state_dir() / "backup" / "schedule"


def jobs() -> tuple[Job, ...]:
    """By name."""
    told = _read(folder() / "jobs.json", "jobs", [])
    try:
        return tuple(sorted((model.from_json(j) for j in told), key=lambda j: j.name))
    except (TypeError, ValueError, KeyError, AttributeError) as bad:
        raise Damage(f"{folder() / 'jobs.json'}: not a list of jobs: {bad}") from bad


def job(name: str) -> Job:
    for one in jobs():
        if one.name == name:
            return one
    raise Usage(f"no job {name!r}", hint="zaibei backup schedule list")


def add(new: Job, *, replace: bool = False) -> None:
    calendar.check(new)
    _sane(new)
    with _changing():
        held = {j.name: j for j in jobs()}
        if new.name in held and not replace:
            raise Usage(f"there is a job {new.name!r} already", hint="--replace, or another name")
        held[new.name] = new
        _write_jobs(held)


def _sane(new: Job) -> None:
    """What a job must not be that is added now. Not asked of the jobs that are there: one that was taken once must
    not stop the others."""
    if new.keep and min(new.keep.values()) < 0:
        raise Usage(f"job {new.name!r}: a policy keeps a number of snapshots, not less than none")
    if new.postgres is not None:
        without_secrets(new.postgres)
    if new.bucket is not None:
        without_login(new.bucket)
    all_distinct(new.repos)


def remove(name: str) -> Job:
    with _changing():
        gone = job(name)
        _write_jobs({j.name: j for j in jobs() if j.name != name})
    return gone


def states() -> dict[str, State]:
    told = _read(folder() / "states.json", "states", {})
    try:
        return {name: _state(one) for name, one in told.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as bad:
        raise Damage(f"{folder() / 'states.json'}: {bad}", hint=_HINT) from bad


_HINT = "move the file away: slots that have a snapshot are not run again, the vault knows them"


def save(all_jobs: tuple[Job, ...], after: Mapping[str, State], *, now: datetime) -> None:
    """The states, and what monitors may know of them."""
    told = {name: _plain(one) for name, one in after.items()}
    write_atomic(folder() / "states.json", _text({"format": _FORMAT, "states": told}))
    shown = {j.name: _shown(j, after.get(j.name, State()), now) for j in all_jobs}
    status.scheduled(shown, at=now)


def _shown(one: Job, state: State, now: datetime) -> dict[str, Any]:
    by = plan.due_by(one, state, now=now)
    last = state.notes[-1] if state.notes else None
    return {
        "due_by": by.isoformat() if by else None,
        "done": state.done_at.isoformat() if state.done_at else None,
        "missed": state.missed,
        "standing": plan.standing(one, state, now).value,
        "last": {"slot": last.slot.isoformat(), "outcome": last.outcome} if last else None,
    }


def _plain(state: State) -> dict[str, Any]:
    def said(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, dict):
            return {k: said(v) for k, v in value.items()}
        return [said(v) for v in value] if isinstance(value, list | tuple) else value

    plain: dict[str, Any] = said(asdict(state))
    return plain


def _state(told: Mapping[str, Any]) -> State:
    times = {k: datetime.fromisoformat(told[k]) if told[k] else None for k in _TIMES}
    notes = tuple(
        Note(
            slot=datetime.fromisoformat(n["slot"]),
            at=datetime.fromisoformat(n["at"]),
            outcome=n["outcome"],
            why=n["why"],
        )
        for n in told["notes"]
    )
    return State(**times, missed=told["missed"], attempts=told["attempts"], notes=notes)


def _read(file: Path, what: str, none: Any) -> Any:
    try:
        told = json.loads(file.read_text())
    except FileNotFoundError:
        return none
    except ValueError as bad:
        raise Damage(f"{file}: not JSON", hint=_HINT) from bad
    if not isinstance(told, dict) or told.get("format") != _FORMAT or what not in told:
        raise Damage(f"{file}: not of format {_FORMAT}", hint=_HINT)
    return told[what]


def _write_jobs(held: Mapping[str, Job]) -> None:
    told = [model.to_json(held[name]) for name in sorted(held)]
    write_atomic(folder() / "jobs.json", _text({"format": _FORMAT, "jobs": told}), mode=0o600)


def _text(value: Any) -> str:
    """A name that is no text comes as `\\udcff`, which JSON can say and UTF-8 cannot."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=2)
    return text


@contextmanager
def _changing() -> Iterator[None]:
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / "jobs.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
