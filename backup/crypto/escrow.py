"""Splits a private key into SLIP-39 word shares, k of n (Shamir over GF(256), with checksums), and
joins them.

Fewer than k shares reveal nothing about the key. A share does not name its repository: write that
beside it.
"""

from collections.abc import Iterable
from typing import Final

import shamir_mnemonic  # type: ignore[import-untyped]

from zaibei.kernel.errors import Usage

SHARES_MAX: Final = 16  # of SLIP-39


def split(private: bytes, *, threshold: int, shares: int) -> list[str]:
    if not 1 < threshold <= shares <= SHARES_MAX:
        raise Usage(
            f"{threshold} of {shares} shares cannot be made",
            hint=f"at least 2 of at most {SHARES_MAX}; one share that is enough alone is a passphrase",
        )
    words: list[str] = shamir_mnemonic.generate_mnemonics(
        group_threshold=1, groups=[(threshold, shares)], master_secret=private
    )[0]
    assert join(words[-threshold:]) == private, "what is printed leads back"
    return words


def join(shares: Iterable[str]) -> bytes:
    """Raises Usage for too few, mixed or misspelt ones, saying which."""
    given = [" ".join(s.split()).lower() for s in shares if s.strip()]
    if not given:
        raise Usage("no shares were given", hint="one share a line")
    for number, share in enumerate(given, 1):
        try:
            shamir_mnemonic.Share.from_mnemonic(share)
        except shamir_mnemonic.MnemonicError as bad:
            raise Usage(f"share {number} is not readable: {bad}") from bad
    try:
        joined: bytes = shamir_mnemonic.combine_mnemonics(given)
    except shamir_mnemonic.MnemonicError as bad:
        raise Usage(f"these shares do not lead to a key: {bad}") from bad
    return joined
