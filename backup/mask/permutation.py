"""A keyed permutation of 0 … n-1 for any n: different inputs never give the same output. Pure.

A balanced Feistel network over the next square, walked until it is back inside (Black and Rogaway,
2002). It hides which value was which from a holder of the masked data; it is no cipher for secrets
at rest.
"""

from hashlib import blake2b
from math import isqrt
from typing import Final

ROUNDS: Final = 10
_DIGEST = 64  # so wide that the remainder modulo a side of 2^350 is as good as even


def number(key: bytes, *of: object) -> int:
    """A number that only the key can tell, from anything with a plain text form."""
    said = "\0".join(str(o) for o in of).encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(said, key=key, digest_size=_DIGEST).digest(), "big")


def stream(key: bytes, of: bytes, length: int) -> bytes:
    """`length` bytes that only the key can tell."""
    seed = blake2b(of, key=key, digest_size=_DIGEST).digest()
    blocks = (
        blake2b(n.to_bytes(8, "big"), key=seed, digest_size=_DIGEST).digest()
        for n in range(-(-length // _DIGEST))
    )
    return b"".join(blocks)[:length]


def permute(key: bytes, value: int, *, among: int, tweak: object = "") -> int:
    """Another place for `value` of 0 … among-1; each `tweak` is a permutation of its own."""
    assert 0 <= value < among, "a place among them"
    side = isqrt(among - 1) + 1
    if side == 1:
        return value
    # Ends: a permutation of the square comes back to every start, and the start is inside. Less than
    # half of the square is outside (n > 4), so a few rounds do.
    while True:
        left, right = divmod(value, side)
        for n in range(ROUNDS):
            left, right = right, (left + number(key, tweak, among, n, right)) % side
        value = left * side + right
        if value < among:
            return value
