"""One thing that is wrong in a stack file, and how many become one error."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from zaibei.kernel.errors import BadStack

Where: TypeAlias = tuple[str | int, ...]

FAULT_LIMIT = 1000  # that are looked into; a file has a slip in every line at most once
SHOWN_LIMIT = 200  # a file of another kind must not scroll the first fault away


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`line` wins over `where`; with neither it is about the file."""

    what: str
    hint: str = ""
    where: Where = ()
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A fault with its place: what `stack validate --json` prints."""

    file: str
    line: int
    what: str
    hint: str


def bad_stack(faults: Iterable[Located]) -> BadStack:
    """Every fault on a line of its own, in the order of the file; a hint names its line."""
    listed = list(faults)
    assert listed, "an error needs a fault"
    shown = listed[:SHOWN_LIMIT]
    lines = [f"{f.file}:{f.line}: {f.what}" for f in shown]
    if len(listed) > len(shown):
        lines.append(f"and {len(listed) - len(shown)} more")
    # The same slip made nine times needs its hint once, at its first line.
    hints: dict[str, int] = {}
    for f in shown:
        if f.hint:
            hints.setdefault(f.hint, f.line)
    return BadStack(
        "\n".join(lines), hint=tuple(f"line {line}: {hint}" for hint, line in hints.items())
    )
