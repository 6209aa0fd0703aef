"""What other parts wrote down: backups, the store audit, drills. Files under the state folder.

A file that is missing, garbled or from the future is no answer: the reason is told.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from zaibei.kernel.errors import Damage, Unreachable
from zaibei.kernel.state import marked_by

_MAX_FILE_BYTES = 16 << 20
_MAX_DRILLS = 500  # newest first; older ones are not looked at
_SKEW = timedelta(seconds=5)  # two clocks of one stack may differ by this much
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_WAL_FACTS = {
    "receiving": "zaibei_wal_receiving",
    "restarts": "zaibei_wal_receiver_restarts",
    "slot_held_bytes": "zaibei_wal_slot_held_bytes",
    "spool_bytes": "zaibei_wal_spool_bytes",
    "spool_free_bytes": "zaibei_wal_spool_free_bytes",
}
VERDICTS = ("PASS", "FAIL", "INVALID")


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultRecord:
    last_success: timedelta | None  # age of the last good PostgreSQL backup; None: never
    last_restored: timedelta | None  # age of the last one that was restored and answered queries
    anomalous: int | None  # sources whose last backup the guard called so; None: none was judged


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRecord:
    vaults: Mapping[str, VaultRecord]
    wal_age: timedelta | None  # upper bound
    wal_gaps: int | None
    overdue: int | None  # scheduled jobs past the time they set themselves; None: no schedule
    wal_facts: Mapping[str, float] = field(default_factory=dict)  # by metric; absent: not said
    following: bool | None = (
        None  # False: no archiver was begun, or the last one was ended; None: not said
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketAudit:
    divergent: int
    age: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillRecord:
    last_verdict: str | None
    measured_age: timedelta | None  # of the last PASS or FAIL


def backups(file: Path, *, vaults: Sequence[str], now: datetime) -> BackupRecord:
    """`backup/status.json`, format 1. Its vaults are repositories: `site-b/zaibei-vault`."""
    raw = _object(file)
    if raw.get("format") != 1:
        raise Damage(f"{file}: format {raw.get('format')!r} is not 1")
    told = _mapping(raw.get("vaults"), file)
    newest = _or_none(raw.get("verified_restore"), file)  # of all vaults; once the only one
    judged = _or_none(raw.get("guard"), file)
    records = {}
    for vault in vaults:
        kinds = [_mapping(v, file) for k, v in told.items() if _of(vault, k)]
        good = [
            age
            for kind in kinds
            if (one := kind.get("postgres")) is not None
            and (age := _age(_mapping(one, file).get("last_success"), now, file)) is not None
        ]
        proofs = [one for kind in kinds if (one := kind.get("verified_restore")) is not None]
        if _of(vault, str(newest.get("vault"))):
            proofs.append(newest)
        restored = [
            age
            for one in proofs
            if (age := _age(_mapping(one, file).get("at"), now, file)) is not None
        ]
        records[vault] = VaultRecord(
            last_success=min(good, default=None),
            last_restored=min(restored, default=None),
            anomalous=_anomalous([v for k, v in judged.items() if _of(vault, k)], file),
        )
    wal, following = _or_none(raw.get("wal"), file), _following(raw, file)
    written, lag, gaps = (
        _age(wal.get("at"), now, file),
        _seconds(wal.get("lag_s"), file),
        wal.get("gaps"),
    )
    return BackupRecord(
        vaults=records,
        # The lag was true when it was written: an archiver that died must not stay fresh.
        # One that was ended on purpose archives nothing, and says nothing of now.
        wal_age=None if written is None or lag is None or following is False else written + lag,
        wal_gaps=len(gaps) if isinstance(gaps, list) else None,
        overdue=_overdue(raw.get("schedule"), now, file),
        wal_facts={} if following is False else _wal_facts(wal, file),
        following=following,
    )


def _following(raw: Mapping[str, Any], file: Path) -> bool | None:
    """An archiver of an earlier version did not say when it was ended: it is taken for one that follows."""
    if "wal" not in raw:
        return None
    if raw["wal"] is None:
        return False
    said = _mapping(raw["wal"], file).get("following", True)
    if not isinstance(said, bool):
        raise Damage(f"{file}: wal.following: neither true nor false: {said!r}")
    return said


def _wal_facts(wal: Mapping[str, Any], file: Path) -> dict[str, float]:
    """What an archiver of an earlier version does not say is absent."""
    found: dict[str, float] = {}
    for said, metric in _WAL_FACTS.items():
        value = wal.get(said)
        if value is None:
            continue
        if not isinstance(value, int) or value < 0:
            raise Damage(f"{file}: wal.{said}: not a count: {value!r}")
        found[metric] = value
    return found


def _anomalous(sources: Sequence[object], file: Path) -> int | None:
    told = [_mapping(one, file) for each in sources for one in _mapping(each, file).values()]
    return sum(one.get("verdict") == "anomalous" for one in told) if told else None


def _overdue(told: object, now: datetime, file: Path) -> int | None:
    """By the job's own word, not by the scheduler's: one that died says nothing any more."""
    if told is None:
        return None
    due = [
        _time(_mapping(job, file).get("due_by"), file)
        for job in _or_none(_mapping(told, file).get("jobs"), file).values()
    ]
    return sum(by is not None and by < now for by in due)


def _of(vault: str, repository: str) -> bool:
    return repository == vault or repository.startswith(f"{vault}/")


def audits(file: Path, *, buckets: Sequence[str], now: datetime) -> dict[str, BucketAudit]:
    """`{"bucket": 0}` or `{"bucket": {"divergent": 0, "checked_at": "…"}}`; buckets never audited are absent."""
    raw = _object(file)
    found = {}
    for bucket in buckets:
        told = raw.get(bucket)
        if told is None:
            continue
        if isinstance(told, dict):
            count, checked = told.get("divergent"), told.get("checked_at")
        else:
            count, checked = told, None
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise Damage(f"{file}: {bucket}: not a count of objects: {count!r}")
        found[bucket] = BucketAudit(divergent=count, age=_age(checked, now, file))
    return found


def drills(folder: Path, *, scenarios: Sequence[str], now: datetime) -> dict[str, DrillRecord]:
    """The newest result of each scenario, from `<folder>/<id>/result.json`.

    A result that cannot be read is Damage: skipping it would show an older verdict as the last.
    """
    if not folder.is_dir():
        raise Unreachable(f"{folder}: no drill has been recorded")
    last: dict[str, tuple[datetime, str]] = {}
    measured: dict[str, datetime] = {}
    # Drill ids sort by their UTC second, so the newest names are the newest drills.
    for one in sorted(folder.glob("*/result.json"), reverse=True)[:_MAX_DRILLS]:
        raw = _object(one)
        scenario, verdict = raw.get("scenario"), str(raw.get("verdict")).upper()
        if not isinstance(scenario, str) or scenario not in scenarios:
            continue
        if verdict not in VERDICTS:
            raise Damage(f"{one}: verdict is {verdict!r}, not one of {', '.join(VERDICTS)}")
        ended = _time(raw.get("ended_at"), one)
        if ended is None:
            raise Damage(f"{one}: no ended_at")
        if scenario not in last or ended > last[scenario][0]:
            last[scenario] = (ended, verdict)
        if verdict != "INVALID":
            measured[scenario] = max(ended, measured.get(scenario, ended))
    return {
        s: DrillRecord(
            last_verdict=last[s][1] if s in last else None,
            measured_age=_since(measured[s], now, folder) if s in measured else None,
        )
        for s in scenarios
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillMark:
    scenario: str
    site: str  # that it breaks


def drill_in_progress(folder: Path, *, sites: Sequence[str]) -> DrillMark | None:
    """The drill that runs now, by the mark that its process holds; a mark whose process died is none."""
    file = folder / "running.json"
    try:
        text = marked_by(file)
    except OSError as gone:
        raise Unreachable(f"{file}: {gone.strerror}") from gone
    if text is None:
        return None
    try:
        raw = _mapping(json.loads(text), file)
    except ValueError as garbled:
        raise Damage(f"{file}: not JSON") from garbled
    scenario, site = raw.get("scenario"), raw.get("site")
    if not isinstance(scenario, str) or _NAME.fullmatch(scenario) is None or site not in sites:
        raise Damage(f"{file}: names no scenario, or no site of the stack")
    return DrillMark(scenario=scenario, site=str(site))


def _object(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MAX_FILE_BYTES + 1)
    except OSError as gone:
        raise Unreachable(f"{file}: {gone.strerror}") from gone
    if len(raw) > _MAX_FILE_BYTES:
        raise Damage(f"{file}: larger than {_MAX_FILE_BYTES} bytes")
    try:
        parsed = json.loads(raw)
    except ValueError as garbled:
        raise Damage(f"{file}: not JSON") from garbled
    return _mapping(parsed, file)


def _mapping(value: object, file: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Damage(f"{file}: an object was expected where {type(value).__name__} stands")
    return value


def _or_none(value: object, file: Path) -> dict[str, Any]:
    """What never happened is null; anything else that is no object is damage, also when it is empty."""
    return {} if value is None else _mapping(value, file)


def _seconds(value: object, file: Path) -> timedelta | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise Damage(f"{file}: not a number of seconds: {value!r}")
    return timedelta(seconds=value)


def _time(value: object, file: Path) -> datetime | None:
    if value is None:
        return None
    try:
        parsed = datetime.fromisoformat(str(value))
    except ValueError as garbled:
        raise Damage(f"{file}: not a time: {value!r}") from garbled
    if parsed.tzinfo is None:
        raise Damage(f"{file}: a time without a zone: {value!r}")
    return parsed.astimezone(UTC)


def _age(value: object, now: datetime, file: Path) -> timedelta | None:
    at = _time(value, file)
    return None if at is None else _since(at, now, file)


def _since(at: datetime, now: datetime, file: Path) -> timedelta:
    if at > now + _SKEW:
        # A clock that jumped would otherwise keep a stale backup fresh until it is overtaken.
        raise Damage(f"{file}: {at.isoformat()} is in the future")
    return max(timedelta(0), now - at)
