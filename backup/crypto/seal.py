"""One sealed object: a header in the clear, then ciphertext. Every object has a key of its own.

    magic 4 │ kind 1 │ suite 1 │ mode 1 │ zero 1 │ epoch 4 │ salt 32 │ commitment 32 │ ciphertext…

Key and commitment are HKDF(secret, salt, header fields ‖ repository); the secret is K_data of the epoch (mode 0)
or what a write-only host agreed with the repository's public half (modes 1 to 3; the salt is its ephemeral key). The commitment is checked before
anything is opened: GCM alone lets one ciphertext open under two keys. The AAD of slot `n` is the header,
the repository, the object's name and `n`: bytes moved to another place, name or repository do not open.
"""

import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from backup.crypto.keyring import SALT_BYTES, Keyring
from backup.crypto.suite import TAG_BYTES, Aead
from zaibei.kernel.errors import Damage

MAGIC: Final = b"ZBO1"
_FIELDS = struct.Struct(">4sBBBBI")
COMMITMENT_BYTES: Final = 32
HEADER_BYTES: Final = _FIELDS.size + SALT_BYTES + COMMITMENT_BYTES
SLOT_MAX: Final = 2**32 - 1


class Kind(IntEnum):
    PACK = 1
    INDEX = 2
    SNAPSHOT = 3
    WAL = 4
    EPOCH = 5


@dataclass(frozen=True, slots=True)
class Seal:
    """The key of one object and what it is bound to."""

    header: bytes
    _aead: Aead
    _bound: bytes

    @classmethod
    def fresh(cls, keys: Keyring, kind: Kind, name: str, *, hedge: bytes) -> "Seal":
        """A new key. `hedge` goes into the salt beside the randomness: a machine restored from its
        own image may draw the same randomness twice, and must not seal two contents under one key."""
        mode, salt, secret = keys.fresh(hedge)
        fields = _FIELDS.pack(MAGIC, kind, keys.suite.code, mode, 0, keys.epoch)
        key, commitment = _derive(keys, secret, fields, salt)
        header = fields + salt + commitment
        return cls(header, keys.suite.aead(key), _binding(header, keys, name))

    @classmethod
    def of(cls, keys: Keyring, kind: Kind, name: str, header: bytes) -> "Seal":
        """The key of an object that exists. Raises Damage when the header is not of this repository."""
        if len(header) < HEADER_BYTES:
            raise Damage(f"{name or kind.name.lower()}: truncated")
        header = bytes(header[:HEADER_BYTES])
        fields, salt = header[: _FIELDS.size], header[_FIELDS.size : _FIELDS.size + SALT_BYTES]
        what = name or kind.name.lower()
        magic, of_kind, code, mode, zero, epoch = _FIELDS.unpack(fields)
        if (magic, of_kind, code, zero) != (MAGIC, kind, keys.suite.code, 0):
            raise Damage(f"{what}: not an object of this kind and repository")
        try:
            secret = keys.secret(mode, epoch, salt)
        except Damage as bad:
            raise Damage(f"{what}: {bad.message}", hint=bad.hints) from bad
        key, commitment = _derive(keys, secret, fields, salt)
        if not hmac.compare_digest(commitment, header[-COMMITMENT_BYTES:]):
            raise Damage(f"{what}: sealed under another key, or damaged")
        return cls(header, keys.suite.aead(key), _binding(header, keys, name))

    def seal(self, slot: int, data: bytes) -> bytes:
        return self._aead.seal(_nonce(slot), data, self._bound + slot.to_bytes(8))

    def open(self, slot: int, data: bytes) -> bytes:
        return self._aead.open(_nonce(slot), data, self._bound + slot.to_bytes(8))


def seal_whole(keys: Keyring, kind: Kind, name: str, data: bytes) -> bytes:
    one = Seal.fresh(keys, kind, name, hedge=keys.blob_id(b"whole", data))
    sealed = one.header + one.seal(0, data)
    if one.open(0, sealed[HEADER_BYTES:]) != data:
        raise Damage(f"{name}: does not open again; the memory of this machine is suspect")
    return sealed


def open_whole(keys: Keyring, kind: Kind, name: str, sealed: bytes) -> bytes:
    if len(sealed) < HEADER_BYTES + TAG_BYTES:
        raise Damage(f"{name}: truncated")
    one = Seal.of(keys, kind, name, sealed)
    try:
        return one.open(0, sealed[HEADER_BYTES:])
    except Damage as bad:
        raise Damage(f"{name}: {bad.message}") from bad


def epoch_of(sealed: bytes) -> int:
    """As the header says, unchecked. Raises Damage when there is none."""
    if len(sealed) < HEADER_BYTES or sealed[: len(MAGIC)] != MAGIC:
        raise Damage("not a sealed object")
    return int(_FIELDS.unpack_from(sealed)[-1])


def _derive(keys: Keyring, secret: bytes, fields: bytes, salt: bytes) -> tuple[bytes, bytes]:
    length = keys.suite.key_bytes + COMMITMENT_BYTES
    info = b"zaibei/object" + fields + keys.repository
    material = keys.suite.derive(secret, salt=salt, info=info, length=length)
    return material[: keys.suite.key_bytes], material[keys.suite.key_bytes :]


def _binding(header: bytes, keys: Keyring, name: str) -> bytes:
    raw = name.encode()
    return header + keys.repository + len(raw).to_bytes(2) + raw


def _nonce(slot: int) -> bytes:
    assert 0 <= slot <= SLOT_MAX, "a nonce is a slot of 32 bits"
    return slot.to_bytes(12)
