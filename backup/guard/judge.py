"""Runs the guard: reads the last good snapshot of the group, measures, decides, and records the
verdict.

`facts["guard"]` holds verdict, reasons, features, the snapshot it was compared with, and the values
of the group's last runs, so reading one snapshot gives the whole history. An anomalous snapshot is
never used for comparison: the next run is again compared with the last good one, until a person
accepts the change (`backup run --accept WHY`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from backup.format.facts import BUCKET, CURRENT_BYTES, FACT, Verdict, group, verdict_of
from backup.format.snapshot import Content, Snapshot
from backup.guard import features as feature_set
from backup.guard import listing_diff, rules
from backup.guard.magic import MagicCheck
from backup.guard.rules import Features, Judgement
from backup.index.blob_index import BlobIndex
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from zaibei.kernel.errors import ZaibeiError
from zaibei.kernel.log import logger

LOOK_BACK: Final = 200  # snapshots read in search of the group's last one
_REASON_CHARS: Final = 400
_log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The group's last good run, and what the runs before it were like."""

    snapshot: Snapshot
    features: Features
    past: tuple[Mapping[str, float], ...]


def judging(
    *, accept: str = ""
) -> "Callable[[Repository, BlobIndex, Content, MagicCheck], Content]":
    """`accept`: why a person says that this change is meant; then it is the new last good one."""

    def judged(
        repo: Repository, catalogue: BlobIndex, content: Content, heads: MagicCheck
    ) -> Content:
        try:
            told = _judged(repo, catalogue, content, heads, accept)
        except Exception as bad:  # noqa: BLE001 — an error of the guard must never cost a backup
            _log.warning("guard.failed", vault=repo.name, error=repr(bad))
            told = {
                "verdict": Verdict.UNKNOWN.value,
                "reasons": [f"not judged: {bad}"[:_REASON_CHARS]],
            }
        return replace(content, facts={**content.facts, FACT: told})

    return judged


def baseline(repo: Repository, content: Content) -> Baseline | None:
    """Raises what reading raises."""
    mine, looked = group(content), 0
    wanted: int | None = None
    for sequence in reversed(repo.sequences()):
        if looked >= LOOK_BACK:
            return None
        if wanted is not None and sequence > wanted:
            continue
        looked += 1
        one = repo.snapshot(sequence)
        told = one.content.facts.get(FACT)
        if group(one.content) != mine or not isinstance(told, dict) or "features" not in told:
            continue
        if verdict_of(one.content) is Verdict.ANOMALOUS:
            # It says itself which one was good; everything between them was anomalous too.
            wanted = told.get("baseline") or 0
            continue
        past = tuple(p for p in told.get("past", ()) if isinstance(p, dict))
        seen = rules.features_of(told["features"])
        entries, size_bytes = visible(one.content)
        seen = replace(seen, entries=entries, size_bytes=size_bytes)
        return Baseline(snapshot=one, features=seen, past=past)
    return None


def _judged(
    repo: Repository, catalogue: BlobIndex, content: Content, heads: MagicCheck, accept: str
) -> dict[str, Any]:
    try:
        last = baseline(repo, content)
        now = _features(repo, catalogue, content, heads, last)
    except ZaibeiError as bad:
        # A host that may only write cannot read back; a vault may not answer just now.
        why = f"the last good snapshot cannot be read: {bad.message}"[:_REASON_CHARS]
        return {"verdict": Verdict.UNKNOWN.value, "reasons": [why]}
    past = last.past if last else ()
    found = rules.judge(now, past, compared=last is not None)
    if accept and found.verdict is Verdict.ANOMALOUS:
        now = replace(now, struck_carried=0.0)
        found = Judgement(verdict=Verdict.CLEAN, reasons=found.reasons, values={})
    anomalous = found.verdict is Verdict.ANOMALOUS
    # A run that is anomalous, accepted or the first says nothing about what is usual.
    usual = last is not None and not anomalous and found.values
    grown = (*past, dict(found.values))[-rules.HISTORY_MAX :] if usual else past
    return {
        "verdict": found.verdict.value,
        "reasons": list(found.reasons),
        "features": rules.plain(now),
        "baseline": last.snapshot.sequence if last else None,
        "past": [dict(p) for p in grown],
        **({"accepted": accept} if accept else {}),
    }


def _features(
    repo: Repository,
    catalogue: BlobIndex,
    content: Content,
    heads: MagicCheck,
    last: Baseline | None,
) -> Features:
    # Not closed: its threads were never started, and the catalogue is the writer's.
    reader = Reader(repo, catalogue)
    old = last.snapshot.content.tree if last else ()
    found = listing_diff.differences(
        old,
        content.tree,
        reader.read,
        entries=max(content.entries, last.snapshot.content.entries if last else 0),
    )
    entries, size_bytes = visible(content)
    return feature_set.features(
        found,
        catalogue,
        heads,
        entries=entries,
        size_bytes=size_bytes,
        before=last.features if last else None,
    )


def visible(content: Content) -> tuple[int, int]:
    """Entries and bytes that users of the source see: of a bucket the current versions. Beside all that were
    ever written, an attack on every object would look small."""
    versions = content.facts.get("versions")
    if content.kind != BUCKET or not isinstance(versions, dict):
        return content.entries, content.size_bytes
    # A backup of before this was counted does not say the bytes.
    return int(versions["current"]), int(content.facts.get(CURRENT_BYTES, content.size_bytes))
