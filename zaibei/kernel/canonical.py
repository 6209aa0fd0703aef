"""Read signed JSON in its one spelling: RFC 8785, and nothing that two parsers could read differently.

A signature holds over bytes; what they mean depends on the parser: of two equal keys one takes the first and
another the last. So the bytes are parsed, written again and compared, and a key that stands twice is refused.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import rfc8785

from zaibei.kernel.errors import Damage

MAX_DEPTH: Final = 64  # objects and arrays inside each other; a statement has about six


def loads(raw: bytes) -> Any:
    """Raises Damage unless `raw` is what `dumps` writes for the value that it holds."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
        if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
            raise Damage(f"JSON that is nested deeper than {MAX_DEPTH}")
        again = rfc8785.dumps(value)
    except (ValueError, RecursionError) as bad:
        raise Damage(f"not canonical JSON: {_in_short(bad)}") from bad
    if again != raw:
        raise Damage("not in its canonical form (RFC 8785)")
    return value


def dumps(value: Any) -> bytes:
    """The canonical bytes. Raises ValueError for what is no plain JSON, or could not be read back."""
    try:
        raw = rfc8785.dumps(value)
        # A float of 2^53 is written as an integer that nobody may read back: refused while that still
        # costs nothing.
        loads(raw)
    except (TypeError, AttributeError, RecursionError, Damage) as bad:
        raise ValueError(_in_short(bad)) from bad
    return raw


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Damage("a key stands twice in one object")
    return found


def _no_number(word: str) -> Any:
    raise Damage(f"{word} is no number of JSON")


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        deepest += 1
        level = [i for v in level for i in (v.values() if isinstance(v, dict) else v)]
    return deepest


def _in_short(bad: Exception) -> str:
    if isinstance(bad, RecursionError):
        return f"nested deeper than {MAX_DEPTH}"
    return bad.message if isinstance(bad, Damage) else str(bad)[:200]
