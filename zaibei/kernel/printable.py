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
    """One line, as JSON would spell what is not to be seen: `\\u001b`. Bytes that are no UTF-8: `\\xff`."""
    if isinstance(text, bytes):
        text = text.decode(errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(map(_spelt, text))


def printable_lines(text: str) -> str:
    """The same for text that has lines of its own: newlines and tabs stay."""
    if text.isprintable():
        return text
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def _spelt(c: str) -> str:
    return json.dumps(c)[1:-1] if unicodedata.category(c) in _UNSEEN else c
