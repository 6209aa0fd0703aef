"""The file that monitors read instead of importing us: `state_dir()/backup/status.json`, replaced
whole.

What never happened is null: an age is the reader's to compute, and a missing time must not turn
into an age of 0.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from backup.format.facts import FACT, group, verdict_of
from backup.format.snapshot import Snapshot
from zaibei.kernel.state import state_dir, write_atomic

Fields = dict[str, Any]  # the text of a format, read by others


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultLag:
    """`lag` None: nothing was received yet, so nothing is known."""

    vault: str
    archived_lsn: str | None
    lag: timedelta | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WalStatus:
    receiving: bool
    restarts: int
    received_lsn: str | None
    timeline: int | None
    spool_bytes: int
    lag: timedelta | None  # the worst of the vaults
    vaults: tuple[VaultLag, ...]
    error: str | None  # why it is not receiving
    gaps: tuple[str, ...]
    system: int | None = None  # None: no server has said who it is
    # What the slot makes the server keep, at least; None: it has not said, or there is no slot.
    held_bytes: int | None = None
    spool_free_bytes: int | None = None
    notes: tuple[str, ...] = ()  # what was put aside in the spool, since the start
    following: bool = True  # False: it was ended, and every vault holds what it received


def file() -> Path:
    return state_dir() / "backup" / "status.json"


def read() -> Fields:
    try:
        found: Fields = json.loads(file().read_text())
    except FileNotFoundError:
        return {"format": 1, "vaults": {}, "verified_restore": None, "wal": None}
    return found


def backed_up(vault: str, *, kind: str, sequence: int, at: datetime) -> None:
    def change(now: Fields) -> None:
        entry = {"last_success": at.isoformat(), "snapshot": sequence}
        held = now["vaults"].setdefault(vault, {})
        held[kind] = entry
        held["error"] = None

    _update(change)


def failed(vault: str, *, why: str, at: datetime) -> None:
    """The last success stays as it was: its age goes on growing, which is the point."""

    def change(now: Fields) -> None:
        held = now["vaults"].setdefault(vault, {})
        held["error"] = {"at": at.isoformat(), "why": why}

    _update(change)


def judged(vault: str, made: Snapshot, *, at: datetime) -> None:
    """What the guard said, a source each: the quiet run of one must not cover the alarm of another."""
    content = made.content
    source = hashlib.sha256(json.dumps(group(content)).encode()).hexdigest()[:12]

    def change(now: Fields) -> None:
        held = now.setdefault("guard", {}).setdefault(vault, {})
        held[source] = {
            "kind": content.kind,
            "label": content.label,
            "host": content.host,
            "snapshot": made.sequence,
            "at": at.isoformat(),
            "verdict": verdict_of(content).value,
            "reasons": content.facts.get(FACT, {}).get("reasons", []),
        }

    _update(change)


def scheduled(jobs: Mapping[str, Fields], *, at: datetime) -> None:
    """By job: `due_by`, when it should have succeeded again. A reader compares it with its own clock, so
    a scheduler that died is seen too."""

    def change(now: Fields) -> None:
        now["schedule"] = {"at": at.isoformat(), "jobs": dict(jobs)}

    _update(change)


def restore_verified(vault: str, *, sequence: int, at: datetime, took_s: float) -> None:
    """By vault: a rehearsal of one must not take another's proof away. The newest of all also stands at the top,
    where it alone stood once and where older readers look."""
    told = {"snapshot": sequence, "at": at.isoformat(), "took_s": took_s}

    def change(now: Fields) -> None:
        # Written before there was one a vault: the line below would be the end of that vault's only proof.
        if old := now.get("verified_restore"):
            kept = {k: v for k, v in old.items() if k != "vault"}
            now["vaults"].setdefault(old["vault"], {}).setdefault("verified_restore", kept)
        now["vaults"].setdefault(vault, {})["verified_restore"] = told
        now["verified_restore"] = {"vault": vault} | told

    _update(change)


def restored(vault: str) -> Fields | None:
    """The last restore from the vault that was started and counted; None: none is known."""
    now = read()
    if mine := now["vaults"].get(vault, {}).get("verified_restore"):
        return dict(mine)
    old = now.get("verified_restore")
    return dict(old) if old and old["vault"] == vault else None


def verified(
    vault: str,
    *,
    at: datetime,
    read: bool,
    damaged: int,
    never_verified: int | None,
    coverage_days: float | None,
) -> None:
    """`verified_at` is of the last time that packs were read: a look at the structure reads none.
    `damaged` are the objects found damaged and not found sound since; `coverage_days` the days in which the
    present pace reads every pack once, null when there is no pace yet."""

    def change(now: Fields) -> None:
        held = now["vaults"].setdefault(vault, {})
        held["damaged"] = damaged
        if read:
            held["verified_at"] = at.isoformat()
            held["never_verified"] = never_verified
            held["coverage_days"] = coverage_days

    _update(change)


def wal(status: "WalStatus", *, at: datetime) -> None:
    """Written every few seconds by the archiver; `at` tells a reader when it stopped doing so.

    `following` false: it was ended on purpose. One that died leaves true, and its age goes on growing.
    """

    def change(now: Fields) -> None:
        now["wal"] = {
            "at": at.isoformat(),
            "following": status.following,
            "receiving": status.receiving,
            "received_lsn": status.received_lsn,
            # As text: 64 bits do not fit a JSON number.
            "system_identifier": None if status.system is None else str(status.system),
            "timeline": status.timeline,
            "restarts": status.restarts,
            "spool_bytes": status.spool_bytes,
            "spool_free_bytes": status.spool_free_bytes,
            "slot_held_bytes": status.held_bytes,
            "notes": list(status.notes),
            "lag_s": None if status.lag is None else status.lag.total_seconds(),
            "error": status.error,
            "gaps": list(status.gaps),
            "vaults": {
                v.vault: {
                    "archived_lsn": v.archived_lsn,
                    "lag_s": None if v.lag is None else v.lag.total_seconds(),
                    "error": v.error,
                }
                for v in status.vaults
            },
        }

    _update(change)


def wal_behind(*, now: datetime) -> timedelta:
    """How old what is not archived must be taken for by an archiver that begins: what the last one said, and the time
    since. One that is started again and again must not look fresh each time."""
    said = read().get("wal")
    if not said or said.get("lag_s") is None:
        return timedelta(0)
    since = now - datetime.fromisoformat(said["at"])
    return max(timedelta(0), since) + timedelta(seconds=said["lag_s"])


def _update(change: Callable[[Fields], None]) -> None:
    path = file()
    path.parent.mkdir(parents=True, exist_ok=True)
    # The archiver and a backup write at the same time; without the lock one's news would be lost.
    with path.with_suffix(".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        now = read()
        change(now)
        write_atomic(path, json.dumps(now, indent=2, ensure_ascii=False))
