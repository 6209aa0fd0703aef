"""Facts that a snapshot states about itself: its kind, and what the guard found.

Read by retention, status and the command line.
"""

from enum import StrEnum
from typing import Final

from backup.format.snapshot import Content

BUCKET: Final = "bucket"
CURRENT_BYTES: Final = "current_bytes"  # a fact: what its users see weighs so much
POSTGRES: Final = "postgres"
FACT: Final = "guard"


def group(content: Content) -> tuple[object, ...]:
    """Runs that are compared with each other: the same source, told by the same host."""
    facts = content.facts
    roots = tuple(facts.get("roots", ()))
    where = facts.get("system_identifier") or facts.get("source")
    return content.kind, content.label, content.host, roots, where


class Verdict(StrEnum):
    CLEAN = "clean"
    ANOMALOUS = "anomalous"
    UNKNOWN = "unknown"


def verdict_of(content: Content) -> Verdict:
    """Unknown for a snapshot that nobody judged."""
    told = content.facts.get(FACT)
    try:
        return Verdict(told["verdict"]) if isinstance(told, dict) else Verdict.UNKNOWN
    except (KeyError, ValueError):
        return Verdict.UNKNOWN
