"""Read a text file that a person wrote: in UTF-8, without the mark that some editors put in front.

A byte order mark is no part of what was written; left in, it turned the first rule of a file into one that matches
nothing. A file in UTF-16 is refused by name: read as bytes it would be other rules than those that were written.
"""

import codecs
from pathlib import Path
from typing import Final

from zaibei.kernel.errors import Usage

MARK: Final = codecs.BOM_UTF8
_OTHERS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class NotText(ValueError):
    """Why it is none, to follow the file's name."""


def unmarked(raw: bytes) -> bytes:
    """The bytes without the mark of UTF-8. Raises NotText for another encoding of Unicode, and for a NUL."""
    for mark, name in _OTHERS:
        if raw.startswith(mark):
            raise NotText(f"saved as {name}: save it as UTF-8")
    if b"\0" in raw:
        raise NotText("a NUL in it: is it UTF-16, or no text?")
    return raw.removeprefix(MARK)


def read(file: Path) -> str:
    """Raises OSError, and NotText for what is no UTF-8."""
    raw = unmarked(file.read_bytes())
    try:
        return raw.decode()
    except UnicodeDecodeError as bad:
        line = raw.count(b"\n", 0, bad.start) + 1
        raise NotText(f"line {line} is not text in UTF-8") from bad


def demand(file: Path) -> str:
    """As `read`, and Usage with the file's name for what is no text."""
    try:
        return read(file)
    except NotText as bad:
        raise Usage(f"{file}: {bad}") from bad
