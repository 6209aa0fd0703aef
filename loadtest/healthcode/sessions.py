"""Check who asks: a session names one person, or one duty, and is signed by the identity service.

The service holds the public key alone: whoever takes it over can read sessions and make none. Logging in is the
identity service's business (统一身份认证); here its key lies with the operator, where drills and load come from.
"""

import base64
import binascii
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Usage

CITIZEN: Final = "citizen"  # shows and registers for the one person that it names
COLLECTOR: Final = "collector"  # a sampling station: registers for anybody, sees nobody's code
LIFE: Final = timedelta(hours=8)
_SCHEME: Final = "Bearer "
_MOST_BYTES: Final = 600
_MOST_KEPT: Final = 20_000  # checked signatures, so that the next request costs a look


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    subject: str
    role: str
    expires: datetime

    def may_show(self, person: str) -> bool:
        return self.role == CITIZEN and self.subject == person

    def may_register(self, person: str) -> bool:
        return self.role == COLLECTOR or self.may_show(person)


class Issuer:
    """The identity service's private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def from_file(cls, path: Path) -> "Issuer":
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as gone:
            raise Usage(f"{path}: no key of sessions: {gone.strerror}") from gone
        except ValueError as garbled:
            raise Damage(f"{path} is not a private key") from garbled
        if not isinstance(key, Ed25519PrivateKey):
            raise Damage(f"{path} is not an Ed25519 private key")
        return cls(key)

    def issue(self, subject: str, *, role: str, now: datetime) -> str:
        body = {"sub": subject, "role": role, "exp": int((now + LIFE).timestamp())}
        said = _b64(orjson.dumps(body))
        token = said + b"." + _b64(self._key.sign(said))
        assert len(token) <= _MOST_BYTES, "a session that the service would refuse unread"
        return token.decode()


class Sessions:
    """What the service asks of each request."""

    def __init__(self, public: Ed25519PublicKey, clock: Clock) -> None:
        self._public = public
        self._clock = clock
        self._kept: OrderedDict[str, Who] = OrderedDict()

    @classmethod
    def from_file(cls, path: Path, clock: Clock) -> "Sessions":
        key = load_pem_public_key(path.read_bytes())
        if not isinstance(key, Ed25519PublicKey):
            raise Damage(f"{path} is not an Ed25519 public key")
        return cls(key, clock)

    def who(self, header: str | None) -> Who | None:
        """From the Authorization header. None: nobody that we know."""
        if header is None or not header.startswith(_SCHEME) or len(header) > _MOST_BYTES:
            return None
        token = header.removeprefix(_SCHEME)
        found = self._kept.get(token)
        if found is None:
            found = self._checked(token)
            if found is None:
                return None
            self._kept[token] = found
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        if found.expires <= self._clock.now():
            self._kept.pop(token, None)
            return None
        return found

    def _checked(self, token: str) -> Who | None:
        said, _, signature = token.encode(errors="replace").partition(b".")
        try:
            self._public.verify(_unb64(signature), said)
            body = orjson.loads(_unb64(said))
            return Who(
                subject=str(body["sub"]),
                role=str(body["role"]),
                expires=datetime.fromtimestamp(body["exp"], self._clock.now().tzinfo),
            )
        except (InvalidSignature, ValueError, KeyError, TypeError, OverflowError, binascii.Error):
            return None


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _unb64(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
