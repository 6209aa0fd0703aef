"""Names for things: sortable by time, readable aloud, unique enough for one stack."""

import random

from zaibei.kernel.clock import Clock

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32: no i, l, o, u to misread
_TAIL = 6


def new_id(prefix: str, clock: Clock, rng: random.Random) -> str:
    """`drill-20261122T041730Z-7k2m9p`: prefix, UTC second, 30 random bits."""
    stamp = clock.now().strftime("%Y%m%dT%H%M%SZ")
    tail = "".join(rng.choice(_ALPHABET) for _ in range(_TAIL))
    return f"{prefix}-{stamp}-{tail}"
