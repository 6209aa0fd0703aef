"""What the guard wrote into a snapshot, for whoever reads it: retention, status, the command line."""

from typing import Final

from backup.guard.verdict import Verdict
from backup.snapshot import Content

FACT: Final = "guard"


def group(content: Content) -> tuple[object, ...]:
    """Runs that are compared with each other: the same source, told by the same host."""
    facts = content.facts
    roots = tuple(facts.get("roots", ()))
    where = facts.get("system_identifier") or facts.get("source")
    return content.kind, content.label, content.host, roots, where


def verdict_of(content: Content) -> Verdict:
    """Unknown for a snapshot that nobody judged."""
    told = content.facts.get(FACT)
    try:
        return Verdict(told["verdict"]) if isinstance(told, dict) else Verdict.UNKNOWN
    except (KeyError, ValueError):
        return Verdict.UNKNOWN
