"""Text for people's eyes: whatever would move a cursor, hide text or turn it around is written out.

A file name, a title, a label or the answer of a server is made by others. Raw on a terminal it can clear the
screen, conceal what comes after it and draw a verdict of its own.
"""

import json
import unicodedata
from typing import Final

# Controls (ESC, CSI), format characters (right-to-left override, zero width), lone surrogates (a name that is
# no UTF-8), private and unassigned characters, line and paragraph separators.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str | bytes) -> str:
    """One line, as Python would spell what is not to be seen: `\\x1b`. Bytes that are no UTF-8: `\\xff`."""
    if isinstance(text, bytes):
        text = text.decode(errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if _unseen(c) else c for c in text)


def printable_lines(text: str) -> str:
    """For text that has lines of its own, perhaps a JSON document: newlines and tabs stay, the rest is spelt as
    JSON spells it."""
    if text.isprintable():
        return text
    return "".join(json.dumps(c)[1:-1] if c not in "\n\t" and _unseen(c) else c for c in text)


def _unseen(c: str) -> bool:
    return not c.isprintable() and unicodedata.category(c) in _UNSEEN


def quoted(name: str | bytes) -> str:
    """For the middle of a sentence, where a blank at the end of a name must be seen."""
    return f"'{printable(name)}'"
