"""What a command said, on one line: the journal and the person at the board read it at three in the morning."""

import json
from typing import Final

CHARS_MAX: Final = 300


def in_short(said: str) -> str:
    """Its last line, or of an answer in JSON what it says with a word or a number, and how long its lists are."""
    lines = said.strip().splitlines()
    try:
        told = json.loads(said)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        return lines[-1][:CHARS_MAX] if lines else "no output"
    parts = []
    for name, value in told.items():
        if isinstance(value, list | dict):
            parts.append(f"{name}: {len(value)}")
        elif value is not None:
            parts.append(f"{name} {json.dumps(value, ensure_ascii=False)}")
    return ", ".join(parts)[:CHARS_MAX]
