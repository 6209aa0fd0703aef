"""The two suites of algorithms. A repository has one, chosen at `init`; it is bound into every AAD.

`intl`: AES-256-GCM, keyed BLAKE3 ids (BLAKE2b-256 in the first repositories: `ids` in the config says which),
HKDF-SHA-256, names by SHA-256 (checkable with sha256sum).
`sm` 国密: SM4-GCM, HMAC-SM3 ids, HKDF-SM3, names by SM3 (checkable with `openssl dgst -sm3`).
`sm` is a suite of algorithms, not a certified GM/T 0028 module; its signatures are Ed25519 and its
passphrases Argon2id, because there is no SM password hash. It is as fast as libgcrypt where that is
installed, else as OpenSSL; the bytes are the same.
"""

import hashlib
from typing import Final, Protocol

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from backup.crypto import libgcrypt
from backup.errors import NewerFormat
from zaibei.kernel.errors import Damage

TAG_BYTES = 16
NONCE_BYTES = 12
ID_BYTES = 32
MAC_KEY_BYTES = 32
BLAKE3: Final = "blake3"


class Aead(Protocol):
    """One key. A nonce is used once under it; the caller counts."""

    def seal(self, nonce: bytes, data: bytes, aad: bytes) -> bytes: ...

    def seal_into(self, nonce: bytes, data: bytes, aad: bytes, out: memoryview) -> None:
        """The same into `out`, which has room for exactly the bytes and their tag."""

    def open(self, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        """Raises Damage; no plaintext leaves before its tag was checked."""


class Suite(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def code(self) -> int: ...

    @property
    def ids(self) -> str:
        """How blobs are named, where a suite knows more than one way; "" for its first."""

    @property
    def key_bytes(self) -> int: ...

    def aead(self, key: bytes) -> Aead: ...

    def mac(self, key: bytes, domain: bytes, data: bytes) -> bytes:
        """32 bytes; `domain` keeps ids of different kinds apart."""

    def derive(self, secret: bytes, *, salt: bytes, info: bytes, length: int) -> bytes: ...

    def digest(self, data: bytes) -> str:
        """Hex; how content-named objects are named."""


class _AesGcm:
    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        return self._aead.encrypt(nonce, data, aad)

    def seal_into(self, nonce: bytes, data: bytes, aad: bytes, out: memoryview) -> None:
        self._aead.encrypt_into(nonce, data, aad, out)

    def open(self, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        try:
            return self._aead.decrypt(nonce, data, aad)
        except InvalidTag as bad:
            raise Damage("sealed bytes are not what was sealed") from bad


class _Sm4Gcm:
    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        one = Cipher(algorithms.SM4(self._key), modes.GCM(nonce)).encryptor()
        one.authenticate_additional_data(aad)
        return one.update(data) + one.finalize() + one.tag

    def seal_into(self, nonce: bytes, data: bytes, aad: bytes, out: memoryview) -> None:
        out[:] = self.seal(nonce, data, aad)

    def open(self, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        if len(data) < TAG_BYTES:
            raise Damage("sealed bytes are shorter than a tag")
        tag = data[-TAG_BYTES:]
        one = Cipher(algorithms.SM4(self._key), modes.GCM(nonce, tag)).decryptor()
        one.authenticate_additional_data(aad)
        plain = one.update(memoryview(data)[:-TAG_BYTES])
        try:
            return plain + one.finalize()
        except InvalidTag as bad:
            raise Damage("sealed bytes are not what was sealed") from bad


class Engine(Protocol):
    """Who computes SM3 and SM4-GCM. Thread-safe; the bytes are the standards', whoever it is."""

    @property
    def name(self) -> str: ...

    def sm3(self, data: bytes) -> bytes: ...

    def hmac_sm3(self, key: bytes, *parts: bytes) -> bytes: ...

    def sm4_gcm(self, key: bytes) -> Aead: ...


class OpenSsl:
    """Where there is no libgcrypt."""

    name = "openssl"

    def sm3(self, data: bytes) -> bytes:
        one = hashes.Hash(hashes.SM3())
        one.update(data)
        return one.finalize()

    def hmac_sm3(self, key: bytes, *parts: bytes) -> bytes:
        one = hmac.HMAC(key, hashes.SM3())
        for part in parts:
            one.update(part)
        return one.finalize()

    def sm4_gcm(self, key: bytes) -> Aead:
        return _Sm4Gcm(key)


class Intl:
    name = "intl"
    code = 1
    key_bytes = 32

    def __init__(self, ids: str = "") -> None:
        self.ids = ids

    def aead(self, key: bytes) -> Aead:
        return _AesGcm(key)

    def mac(self, key: bytes, domain: bytes, data: bytes) -> bytes:
        if self.ids == BLAKE3:
            return blake3(domain.ljust(16, b"\0"), key=key).update(data).digest()
        return hashlib.blake2b(data, digest_size=ID_BYTES, key=key, person=domain).digest()

    def derive(self, secret: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
        return HKDF(hashes.SHA256(), length, salt, info).derive(secret)

    def digest(self, data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()


class Sm:
    name = "sm"
    code = 2
    ids = ""
    key_bytes = 16

    def __init__(self, engine: Engine | None = None) -> None:
        self._chosen = engine

    @property
    def engine(self) -> Engine:
        # Asked for at the first use: a process with an `intl` repository loads nothing.
        if self._chosen is None:
            self._chosen = libgcrypt.load() or OpenSsl()
        return self._chosen

    def aead(self, key: bytes) -> Aead:
        return self.engine.sm4_gcm(key)

    def mac(self, key: bytes, domain: bytes, data: bytes) -> bytes:
        return self.engine.hmac_sm3(key, domain.ljust(16, b"\0"), data)

    def derive(self, secret: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
        return HKDF(hashes.SM3(), length, salt, info).derive(secret)

    def digest(self, data: bytes) -> str:
        return self.engine.sm3(data).hex()


_ALL: Final[tuple[Suite, ...]] = (Intl(), Intl(BLAKE3), Sm())
NAMES: Final = ("intl", "sm")
IDS_OF_NEW: Final = {"intl": BLAKE3, "sm": ""}  # of repositories that are made from now on


def suite(name: str, ids: str = "") -> Suite:
    for one in _ALL:
        if (one.name, one.ids) == (name, ids):
            return one
    if name in NAMES:
        raise NewerFormat(
            f"suite {name}: ids by {ids!r} are not known here", hint="use a newer zaibei"
        )
    raise NewerFormat(f"suite {name!r} is not known here", hint=f"known: {', '.join(NAMES)}")
