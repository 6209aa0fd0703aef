"""Durations and sizes as people write them. Inside they are `timedelta` and `int` bytes."""

import re
from datetime import timedelta

from zaibei.kernel.errors import Usage

_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50}
_NUMBER = re.compile(r"(?P<n>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]+)")


def duration(text: str) -> timedelta:
    """`90s`, `1.5h`, `2 d`. Raises Usage for a missing or unknown unit: 30 of what?"""
    return timedelta(seconds=_scaled(text, _SECONDS, "duration"))


def size_bytes(text: str) -> int:
    """`16 MiB`, `4KiB`. Binary units only: a vault's quota and a disk must agree."""
    return int(_scaled(text, _BYTES, "size"))


def say_duration(value: timedelta) -> str:
    """The shortest exact form of `duration`: `1.5h`, `90s`, `200ms`."""
    seconds = value.total_seconds()
    for unit in ("w", "d", "h", "min", "s"):
        n = seconds / _SECONDS[unit]
        if n >= 1 and float(f"{n:g}") == n and (n == int(n) or unit == "s"):
            return f"{n:g}{unit}"
    return f"{seconds * 1000:g}ms"


def say_bytes(value: int) -> str:
    """Three figures at the most, for people: `1.3 GiB`."""
    number, unit = float(value), "B"
    for unit in _BYTES:
        if number < 1024 or unit == "PiB":
            break
        number /= 1024
    return f"{number:.3g} {unit}"


def _scaled(text: str, table: dict[str, float] | dict[str, int], what: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match["unit"] not in table:
        raise Usage(f"not a {what}: {text!r}", hint=f"write a number and one of {', '.join(table)}")
    return float(match["n"]) * table[match["unit"]]
