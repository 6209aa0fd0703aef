"""Durations and sizes as people write them. Inside they are `timedelta` and `int` bytes."""

import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal

from zaibei.kernel.errors import Usage

_MICROSECONDS = {
    "ms": 1000,
    "s": 1_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50}
_NUMBER = re.compile(r"(?P<n>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]+)")
_LONGEST = timedelta(
    days=36_525
)  # a century: beyond it somebody slipped, and sums with today overflow
_LARGEST_BYTES = 1 << 70
_LONGEST_TEXT = 20_000


def duration(text: str) -> timedelta:
    """`90s`, `1.5h`, `2 d`. Raises Usage for a missing or unknown unit (30 of what?), and past a century."""
    microseconds = _scaled(text, _MICROSECONDS, "duration")
    if microseconds > _LONGEST // timedelta(microseconds=1):
        raise Usage(f"{_short(text)} is longer than a century")
    return timedelta(microseconds=microseconds)


def size_bytes(text: str) -> int:
    """`16 MiB`, `4KiB`. Binary units only: a vault's quota and a disk must agree."""
    count = _scaled(text, _BYTES, "size")
    if count > _LARGEST_BYTES:
        raise Usage(f"{_short(text)} is more than 1048576 PiB")
    return count


def say_duration(value: timedelta) -> str:
    """Exact, in the largest unit that leaves no fraction: `90min`, `90s`, `1.5s`, `200ms`, `0s`."""
    if value < timedelta(0):
        return f"-{say_duration(-value)}"
    microseconds = value // timedelta(microseconds=1)
    if microseconds == 0:
        return "0s"
    for unit in ("w", "d", "h", "min", "s"):
        whole, rest = divmod(microseconds, _MICROSECONDS[unit])
        if whole and not rest:
            return f"{whole}{unit}"
    unit = "s" if microseconds >= _MICROSECONDS["s"] else "ms"
    return f"{(Decimal(microseconds) / _MICROSECONDS[unit]).normalize():f}{unit}"


def say_bytes(value: int) -> str:
    """For people, in three figures (four just below the next unit): `1.3 GiB`, `1020 B`."""
    number, unit = float(value), "B"
    for unit in _BYTES:
        if round(number) < 1024 or unit == "PiB":
            break
        number /= 1024
    # From 999.5 on `.3g` would say 1e+03.
    return f"{number:.3g} {unit}" if number < 999.5 else f"{number:.0f} {unit}"


def _scaled(text: str, table: Mapping[str, int], what: str) -> int:
    """In the smallest of units, rounded. Decimal: 0.1 of a second is not a binary fraction."""
    # A number of a megabyte takes seconds to scale, and is none.
    match = _NUMBER.fullmatch(text.strip()) if len(text) <= _LONGEST_TEXT else None
    if match is None or match["unit"] not in table:
        raise Usage(
            f"not a {what}: {_short(text)}", hint=f"write a number and one of {', '.join(table)}"
        )
    return round(Decimal(match["n"]) * table[match["unit"]])


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
