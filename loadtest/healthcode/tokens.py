"""Signed codes that a gate can check without asking anybody: JWS (RFC 7515) with Ed25519 (RFC 8037).

A code is at most 300 bytes. It ends within 24 hours, and not at the same second as the neighbours':
codes that were all made when the service came back would otherwise all be renewed together.
The subject is a hash of the person's id. That keeps ids out of pictures of codes; it is no secret, since
ids can be counted through.
"""

import base64
import binascii
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from zaibei.kernel.errors import Damage

MOST_BYTES = 300
_JITTER = 5  # up to a fifth of the life is taken off
_SKEW = timedelta(minutes=5)  # clocks of gates


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    subject: str
    colour: str
    version: int
    issued: datetime
    expires: datetime


class Signer:
    """The private key of one site."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()
        self.kid = sha256(self.public).hexdigest()[:16]
        self._head = _b64(orjson.dumps({"alg": "EdDSA", "kid": self.kid}))

    @classmethod
    def from_file(cls, path: Path) -> "Signer":
        key = load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise Damage(f"{path} is not an Ed25519 private key")
        return cls(key)

    def sign(self, code: Code) -> str:
        body = orjson.dumps(
            {
                "sub": code.subject,
                "col": code.colour,
                "ver": code.version,
                "iat": int(code.issued.timestamp()),
                "exp": int(code.expires.timestamp()),
            }
        )
        signed = self._head + b"." + _b64(body)
        token = signed + b"." + _b64(self._key.sign(signed))
        assert len(token) <= MOST_BYTES, "a code that no small square can hold"
        return token.decode()


def subject_of(person: str) -> str:
    return sha256(b"zaibei-health-code/" + person.encode()).hexdigest()[:16]


def expiry(now: datetime, life: timedelta, rng: random.Random) -> datetime:
    """Within `life`, spread over its last fifth."""
    return now + life - life * rng.random() / _JITTER


def verify(
    token: str, *, keys: Mapping[str, bytes], revoked: Mapping[str, int], now: datetime
) -> Code | str:
    """The code, or why it is not good. Needs no database and no network.

    `keys`: public keys by kid; `revoked`: subject to the first version that is good again.
    """
    if len(token) > MOST_BYTES:
        return "too long"
    parts = token.encode(errors="replace").split(b".")
    if len(parts) != 3:
        return "malformed"
    try:
        head = orjson.loads(_unb64(parts[0]))
        signature = _unb64(parts[2])
        body_bytes = _unb64(parts[1])
    except (ValueError, binascii.Error):
        return "malformed"
    # The algorithm is ours to say: a token that chose it could choose a weak one.
    if not isinstance(head, dict) or head.get("alg") != "EdDSA":
        return "malformed"
    key = keys.get(str(head.get("kid")))
    if key is None:
        return "unknown key"
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, parts[0] + b"." + parts[1])
    except InvalidSignature:
        return "bad signature"
    try:
        body = orjson.loads(body_bytes)
        code = Code(
            subject=body["sub"],
            colour=body["col"],
            version=body["ver"],
            issued=datetime.fromtimestamp(body["iat"], now.tzinfo),
            expires=datetime.fromtimestamp(body["exp"], now.tzinfo),
        )
    except (ValueError, KeyError, TypeError):
        return "malformed"
    if code.expires <= now:
        return "expired"
    if code.issued > now + _SKEW:
        return "from the future"
    if code.version < revoked.get(code.subject, 0):
        return "revoked"
    return code


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _unb64(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
