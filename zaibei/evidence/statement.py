"""in-toto Statements v1 as RFC 8785 bytes: written once, signed and kept as those bytes, never rewritten.

Names of subjects keep to a plain alphabet, so that a shell script can check them without a JSON parser.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import rfc8785

from zaibei.evidence import kinds
from zaibei.kernel.errors import Damage, Usage

TYPE = "https://in-toto.io/Statement/v1"
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)*[A-Za-z0-9_][A-Za-z0-9._-]*")
_DRILL_KEY = b'"drill_id":'


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
    def drill_id(self) -> str | None:
        found = self.predicate.get("drill_id")
        return found if isinstance(found, str) else None


def encode(
    predicate_type: str, predicate: Mapping[str, Any], subject: Sequence[Subject] = ()
) -> bytes:
    """The canonical bytes. Raises Usage for what is not plain JSON, or could be read in two ways."""
    names = [s.name for s in subject]
    if len(set(names)) != len(names):
        raise Usage(f"two artefacts of one statement have the same name: {sorted(names)}")
    try:
        raw = rfc8785.dumps(
            {
                "_type": TYPE,
                "predicateType": kinds.checked(predicate_type),
                "predicate": dict(predicate),
                "subject": [{"name": s.name, "digest": {"sha256": s.sha256}} for s in subject],
            }
        )
        # A float of 2^53 is written as an integer that nobody may read back: such an entry would make
        # the whole log unreadable, so it is refused while that still costs nothing.
        rfc8785.dumps(json.loads(raw))
    except (rfc8785.CanonicalizationError, TypeError, AttributeError) as bad:
        raise Usage(
            f"a predicate is not plain JSON: {bad}",
            hint="numbers with their unit in the name, times as RFC 3339 text, no NaN, no integer over 2^53",
        ) from bad
    _drill_id_is_plain(raw, predicate_type, predicate.get("drill_id"))
    return raw


def decode(raw: bytes) -> Statement:
    """Raises Damage unless `raw` is exactly what `encode` would have written."""
    try:
        body = json.loads(raw)
        found = Statement(
            predicate_type=body["predicateType"],
            predicate=body["predicate"],
            subject=tuple(
                Subject(name=s["name"], sha256=s["digest"]["sha256"]) for s in body["subject"]
            ),
        )
        again = encode(found.predicate_type, found.predicate, found.subject)
    except (ValueError, KeyError, TypeError, AttributeError, Usage) as bad:
        raise Damage(f"not a statement: {bad}") from bad
    if again != raw:
        raise Damage("a statement is not in its canonical form")
    return found


def _drill_id_is_plain(raw: bytes, predicate_type: str, drill_id: object) -> None:
    """Intent and outcome are tied by this word; a second one deeper down could be taken for it."""
    if drill_id is None:
        if predicate_type in kinds.NEED_DRILL:
            raise Usage(f"{kinds.short(predicate_type)}: the predicate has no drill_id")
    elif not isinstance(drill_id, str) or not kinds.DRILL_ID.fullmatch(drill_id):
        raise Usage(f"not a drill_id: {drill_id!r}", hint="letters, digits, dash, underscore")
    if raw.count(_DRILL_KEY) != (drill_id is not None):
        raise Usage("drill_id stands more than once in the predicate", hint="keep the top one only")
