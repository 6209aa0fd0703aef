"""Chooses a stand-in for a character: of its script and kind, and never itself.

A fixed alphabet for each script let names of every other script through: Korean, Uyghur, Tibetan
and full-width ones came back as they went in. So Unicode's properties of the character decide, not
a list.
"""

import unicodedata
from functools import lru_cache
from typing import Final

_PAGE: Final = 128
_CACHED = 1 << 12
_ASCII = ("0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
# Larger than a page, and sorted by sound: a neighbour of 김 would still say Kim.
_LARGE = ((0xAC00, 0xD7A3), (0xA000, 0xA48C))  # Korean, Yi
_MARKS = (0x300, 0x36F)
HAN: Final = (
    "一二三四五六七八九十百千万东西南北中春夏秋冬山川河海云月星辰松竹梅兰金木水火土石玉林泉风雨雪霜"
)


def is_han(c: str) -> bool:
    return "\u3400" <= c <= "\u9fff" or "\U00020000" <= c <= "\U0003ffff"


def tells(c: str) -> bool:
    """A letter, a mark on one, a number; and what has no meaning here: rare characters of names are private use
    in older character sets."""
    kind = unicodedata.category(c)
    return kind[0] in "LMN" or kind in ("Co", "Cn")


@lru_cache(_CACHED)
def stand_ins(c: str) -> str:
    """Empty: it tells nothing and may stay."""
    if c.isascii():
        return next((a.replace(c, "") for a in _ASCII if c in a), "")
    if not tells(c):
        return ""
    if is_han(c) or 0xF900 <= ord(c) <= 0xFAFF:  # compatibility forms are Han too
        return HAN.replace(c, "")
    kind = unicodedata.category(c)
    first = ord(c) // _PAGE * _PAGE
    bounds = [r for r in _LARGE if r[0] <= ord(c) <= r[1]] or [(first, first + _PAGE - 1)]
    if kind[0] == "M":
        bounds.append(_MARKS)  # the only mark of its page would stay
    for low, high in bounds:
        same = [x for n in range(low, high + 1) if (x := chr(n)) != c]
        if found := "".join(x for x in same if unicodedata.category(x) == kind):
            return found
    return _ASCII[1] if c.isupper() else _ASCII[0] if kind[0] == "N" else _ASCII[2]
