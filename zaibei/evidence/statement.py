"""in-toto Statements v1 as RFC 8785 bytes: written once, signed and kept as those bytes, never rewritten.

Names of subjects keep to a plain alphabet, so that a shell script can check them without a JSON parser.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from zaibei.evidence import kinds, note
from zaibei.kernel import canonical
from zaibei.kernel.errors import Damage, Usage

TYPE = "https://in-toto.io/Statement/v1"
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)*[A-Za-z0-9_][A-Za-z0-9._-]*")
_DRILL_KEY = b'"drill_id":'
_FIELDS = {"_type", "predicate", "predicateType", "subject"}
RECORDED_AT = "recorded_at"
_STAMP = re.compile(rf"{note.SECOND}\.[0-9]{{3}}Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A file the statement speaks of. It goes into every pack that holds the statement."""

    name: str  # ledger.jsonl, or a relative path
    sha256: str

    @classmethod
    def of(cls, path: Path, *, name: str | None = None) -> Self:
        with path.open("rb") as f:
            digest = hashlib.file_digest(f, "sha256").hexdigest()
        return cls(name=path.name if name is None else name, sha256=digest)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Usage(
                f"not a name for an artefact: {self.name!r}",
                hint="letters, digits, dot, dash, underscore; a slash between folders",
            )
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise Usage(f"not a sha256: {self.sha256!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    predicate_type: str
    predicate: Mapping[str, Any]
    subject: tuple[Subject, ...]

    @property
    def recorded_at(self) -> str | None:
        """RFC 3339, of one length and in UTC: it sorts as text."""
        found = self.predicate.get(RECORDED_AT)
        return found if isinstance(found, str) else None

    @property
    def drill_id(self) -> str | None:
        found = self.predicate.get("drill_id")
        return found if isinstance(found, str) else None


def encode(
    predicate_type: str, predicate: Mapping[str, Any], subject: Sequence[Subject] = ()
) -> bytes:
    """The canonical bytes. Raises Usage for what is not plain JSON, or could be read in two ways."""
    try:
        raw = canonical.dumps(
            {
                "_type": TYPE,
                "predicateType": kinds.checked(predicate_type),
                "predicate": dict(predicate),
                "subject": [{"name": s.name, "digest": {"sha256": s.sha256}} for s in subject],
            }
        )
    except (ValueError, TypeError) as bad:
        raise Usage(
            f"a predicate is not plain JSON: {bad}",
            hint="numbers with their unit in the name, times as RFC 3339 text, no NaN, no integer over 2^53",
        ) from bad
    _check(
        raw, Statement(predicate_type=predicate_type, predicate=predicate, subject=tuple(subject))
    )
    return raw


def decode(raw: bytes) -> Statement:
    """Raises Damage unless `raw` is exactly what `encode` would have written."""
    body = canonical.loads(raw)
    try:
        kinds_of = (type(body["predicate"]), type(body["subject"]))
        if set(body) != _FIELDS or body["_type"] != TYPE or kinds_of != (dict, list):
            raise Damage("not an in-toto statement")
        found = Statement(
            predicate_type=kinds.checked(body["predicateType"]),
            predicate=body["predicate"],
            subject=tuple(_subject(s) for s in body["subject"]),
        )
        _check(raw, found)
    except (ValueError, KeyError, TypeError, AttributeError, Usage) as bad:
        raise Damage(f"not a statement: {bad.message if isinstance(bad, Usage) else bad}") from bad
    return found


def _subject(one: Mapping[str, Any]) -> Subject:
    if set(one) != {"name", "digest"} or set(one["digest"]) != {"sha256"}:
        raise Damage("a subject is not a name and a sha256")
    return Subject(name=one["name"], sha256=one["digest"]["sha256"])


def _check(raw: bytes, one: Statement) -> None:
    names = [s.name for s in one.subject]
    if len(set(names)) != len(names):
        raise Usage(f"two artefacts of one statement have the same name: {sorted(names)}")
    stamp = one.predicate.get(RECORDED_AT)
    given = RECORDED_AT in one.predicate
    if given and (not isinstance(stamp, str) or not _STAMP.fullmatch(stamp)):
        raise Usage(f"{RECORDED_AT} is no time: {stamp!r}", hint="2026-01-31T08:00:00.000Z")
    _drill_id_is_plain(raw, one.predicate_type, one.predicate.get("drill_id"))


def _drill_id_is_plain(raw: bytes, predicate_type: str, drill_id: object) -> None:
    """Intent and outcome are tied by this word; a second one deeper down could be taken for it."""
    if drill_id is None:
        if predicate_type in kinds.NEED_DRILL:
            raise Usage(f"{kinds.short(predicate_type)}: the predicate has no drill_id")
    elif not isinstance(drill_id, str) or not kinds.DRILL_ID.fullmatch(drill_id):
        raise Usage(f"not a drill_id: {drill_id!r}", hint="letters, digits, dash, underscore")
    if raw.count(_DRILL_KEY) != (drill_id is not None):
        raise Usage("drill_id stands more than once in the predicate", hint="keep the top one only")
