"""Key encapsulation to a public key: `x25519` (RFC 7748) and `sm2` (GB/T 32918).

`encapsulate` is for a recipient. `ephemeral` and `agreed` are for an object that a write-only host
seals, whose header has room for exactly 32 bytes and a mode.
"""

import secrets
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from backup.crypto import sm2
from backup.errors import NewerFormat
from zaibei.kernel.errors import Damage

PRIVATE_BYTES: Final = 32


class Curve(Protocol):
    @property
    def name(self) -> str: ...

    def private(self, seed: bytes) -> bytes:
        """A private key from 48 random bytes."""

    def public(self, private: bytes) -> bytes: ...

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """What goes into the object, and the secret."""

    def decapsulate(self, private: bytes, encapsulated: bytes) -> bytes: ...

    def ephemeral(self, seed: bytes, public: bytes) -> tuple[int, bytes, bytes]:
        """Mode and salt of a header, and the secret. `seed`: 48 bytes."""

    def agreed(self, mode: int, salt: bytes, private: bytes) -> bytes:
        """The secret again."""


class X25519:
    name = "x25519"

    def private(self, seed: bytes) -> bytes:
        return seed[:PRIVATE_BYTES]

    def public(self, private: bytes) -> bytes:
        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        _, given, secret = self.ephemeral(secrets.token_bytes(48), public)
        return given, secret

    def decapsulate(self, private: bytes, encapsulated: bytes) -> bytes:
        return self.agreed(1, encapsulated, private)

    def ephemeral(self, seed: bytes, public: bytes) -> tuple[int, bytes, bytes]:
        once = self.private(seed)
        # The recipient's own key goes in: one point must not be a secret with two owners.
        return 1, self.public(once), self._agree(once, public) + public

    def agreed(self, mode: int, salt: bytes, private: bytes) -> bytes:
        if mode != 1:
            raise Damage(f"sealed in mode {mode}, which is not this repository's")
        return self._agree(private, salt) + self.public(private)

    @staticmethod
    def _agree(private: bytes, public: bytes) -> bytes:
        try:
            other = X25519PublicKey.from_public_bytes(public)
            return X25519PrivateKey.from_private_bytes(private).exchange(other)
        except ValueError as bad:  # also a point of small order: the secret would be known to all
            raise Damage("not a public key of x25519") from bad


class Sm2:
    name = "sm2"

    def private(self, seed: bytes) -> bytes:
        # 48 bytes reduced: no bias that could be measured.
        return (1 + int.from_bytes(seed[:48]) % (sm2.N - 1)).to_bytes(PRIVATE_BYTES)

    def public(self, private: bytes) -> bytes:
        return sm2.public(private)

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        secret = secrets.token_bytes(32)
        return sm2.encrypt(public, secret), secret + public

    def decapsulate(self, private: bytes, encapsulated: bytes) -> bytes:
        return sm2.decrypt(private, encapsulated) + sm2.public(private)

    def ephemeral(self, seed: bytes, public: bytes) -> tuple[int, bytes, bytes]:
        once = self.private(seed)
        point = sm2.public(once)
        return 2 + (point[-1] & 1), point[:32], sm2.shared(once, public) + public

    def agreed(self, mode: int, salt: bytes, private: bytes) -> bytes:
        if mode not in (2, 3):
            raise Damage(f"sealed in mode {mode}, which is not this repository's")
        return sm2.shared(private, sm2.lifted(salt, mode - 2)) + sm2.public(private)


CURVES: Final[dict[str, Curve]] = {c.name: c for c in (X25519(), Sm2())}
_OF_SUITE: Final = {"intl": "x25519", "sm": "sm2"}


def curve(name: str) -> Curve:
    try:
        return CURVES[name]
    except KeyError as unknown:
        raise NewerFormat(
            f"curve {name!r} is not known here", hint=f"known: {', '.join(CURVES)}"
        ) from unknown


def of_suite(name: str) -> Curve:
    """The curve of a suite's own keys; recipients may be on either."""
    return CURVES[_OF_SUITE[name]]
