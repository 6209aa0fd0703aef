"""The keys of the evidence: made once, private parts 0600, never replaced silently.

P-256 signs statements, Ed25519 signs the log's head, SM2 adds a second line to it where `openssl` can.
A key in the same folder as the data proves nothing: fingerprints are compared out of band.

A public key has one spelling, the PEM that `openssl pkey -pubout` writes, and no other is read: of a file that two
parsers read differently, one would take the fingerprint from one key and check signatures with another.
"""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from zaibei.evidence import note, sm2
from zaibei.kernel.errors import Damage, Missing, ToolFailed
from zaibei.kernel.state import write_atomic

_PRIVATE = 0o600
_BEGIN, _END = b"-----BEGIN PUBLIC KEY-----", b"-----END PUBLIC KEY-----"
_PEM_WIDTH = 64
_MAX_PEM_BYTES = 4096
_SM2_FRAME = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d03420004")
_WRITE = "openssl pkey -pubin -in FILE -pubout -out FILE.pub writes it"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKeys:
    """As PEM, by the names they have in a pack."""

    p256: bytes
    ed25519: bytes
    sm2: bytes | None
    sm2_absent: str | None  # why there is no second line

    @property
    def p256_key(self) -> ec.EllipticCurvePublicKey:
        return load_p256(self.p256)

    @property
    def keyid(self) -> str:
        return fingerprint(self.p256)

    def files(self) -> dict[str, bytes]:
        found = {"p256.pub": self.p256, "ed25519.pub": self.ed25519, "sm2.pub": self.sm2}
        return {name: pem for name, pem in found.items() if pem is not None}


def make_ed25519_once(directory: Path) -> None:
    secret = directory / "ed25519.key"
    if not secret.exists():
        write_atomic(secret, _pem(ed25519.Ed25519PrivateKey.generate()), mode=_PRIVATE)


def make_once(directory: Path) -> None:
    """Create what is missing. Safe to repeat after a crash in the middle."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    p256, ed = directory / "p256.key", directory / "ed25519.key"
    make_ed25519_once(directory)
    if not p256.exists():
        write_atomic(p256, _pem(ec.generate_private_key(ec.SECP256R1())), mode=_PRIVATE)
    write_atomic(p256.with_suffix(".pub"), public_pem(p256_private(directory).public_key()))
    write_atomic(ed.with_suffix(".pub"), public_pem(ed25519_private(directory).public_key()))
    second = directory / "sm2.key"
    try:
        if not second.exists():
            write_atomic(second, sm2.new_private_pem(), mode=_PRIVATE)
        write_atomic(second.with_suffix(".pub"), sm2.public_pem(second))
    except (ToolFailed, Missing) as cannot:
        write_atomic(directory / "sm2.absent", f"{cannot.message}\n")


def public(directory: Path) -> PublicKeys:
    """Raises Damage when a key is gone: a new one would not verify what the old one signed."""
    try:
        second = directory / "sm2.pub"
        absent = directory / "sm2.absent"
        return PublicKeys(
            p256=(directory / "p256.pub").read_bytes(),
            ed25519=(directory / "ed25519.pub").read_bytes(),
            sm2=second.read_bytes() if second.exists() else None,
            sm2_absent=None
            if second.exists()
            else absent.read_text().strip()
            if absent.exists()
            else "no SM2 key was made",
        )
    except FileNotFoundError as gone:
        raise Damage(
            f"a key of the evidence is gone: {gone.filename}",
            hint="bring it back from escrow; a new key cannot continue this log",
        ) from gone


def p256_private(directory: Path) -> ec.EllipticCurvePrivateKey:
    key = _private(directory / "p256.key")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def ed25519_private(directory: Path) -> ed25519.Ed25519PrivateKey:
    key = _private(directory / "ed25519.key")
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    return key


def load_p256(pem: bytes) -> ec.EllipticCurvePublicKey:
    key = _load(pem)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Damage("the statement key is not P-256")
    return key


def load_ed25519(pem: bytes) -> ed25519.Ed25519PublicKey:
    key = _load(pem)
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise Damage("the log key is not Ed25519")
    return key


def check_sm2(pem: bytes) -> None:
    """Raises Damage unless it is an SM2 key. That its point is on the curve, `openssl` checks at each use."""
    raw = der(pem)
    if not raw.startswith(_SM2_FRAME) or len(raw) != len(_SM2_FRAME) + 64:
        raise Damage("the second key of the log is not SM2")


def raw_ed25519(key: ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(ser.Encoding.Raw, ser.PublicFormat.Raw)


def der(pem: bytes) -> bytes:
    """SubjectPublicKeyInfo of a public key in its one PEM. Raises Damage for any other spelling of it."""
    lines = pem.split(b"\n")
    if len(pem) > _MAX_PEM_BYTES or lines[0] != _BEGIN or lines[-2:] != [_END, b""]:
        raise Damage(
            f"a public key is not PEM as openssl writes it: {_beginning(pem)}", hint=_WRITE
        )
    try:
        raw = base64.b64decode(b"".join(lines[1:-2]), validate=True)
    except ValueError as bad:
        raise Damage("a public key is not PEM", hint=_WRITE) from bad
    if _pem_of(raw) != pem:
        raise Damage("a public key is not in its one PEM form", hint=_WRITE)
    return raw


def fingerprint(pem: bytes) -> str:
    """sha256 of the SubjectPublicKeyInfo, in hex: what is printed on paper and compared."""
    return hashlib.sha256(der(pem)).hexdigest()


def log_line(key: ed25519.Ed25519PrivateKey, *, name: str, text: bytes) -> note.SignatureLine:
    identity = note.key_id(name, note.ED25519, raw_ed25519(key.public_key()))
    return note.SignatureLine(name=name, key_id=identity, signature=key.sign(text))


def is_sm2(line: note.SignatureLine, public: bytes | None) -> bool:
    return public is not None and line.key_id == note.key_id(line.name, note.SM2_SM3, der(public))


def _private(path: Path) -> object:
    try:
        return ser.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError as gone:
        raise Damage(
            f"a private key of the evidence is gone: {path}", hint="bring it back from escrow"
        ) from gone


def _load(pem: bytes) -> object:
    raw = der(pem)
    try:
        key = ser.load_der_public_key(raw)
        again = key.public_bytes(ser.Encoding.DER, ser.PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm) as bad:
        raise Damage("a public key is of no kind that is used here") from bad
    # The key that checks signatures is the one whose bytes were hashed: a compressed point or a
    # parameter too many is another spelling of the same key.
    if again != raw:
        raise Damage("a public key is not in its one form", hint=_WRITE)
    return key


def _pem_of(raw: bytes) -> bytes:
    text = base64.b64encode(raw)
    lines = [text[at : at + _PEM_WIDTH] for at in range(0, len(text), _PEM_WIDTH)]
    return b"\n".join([_BEGIN, *lines, _END, b""])


def _beginning(pem: bytes) -> str:
    return f"{pem[:30]!a}"


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.NoEncryption())


def public_pem(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
