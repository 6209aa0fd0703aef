"""Signed notes (C2SP signed-note): a text, a blank line, and signature lines that several keys may add.

Checkpoints, witness cosignatures and the manifest of a pack are such notes. Parsing is strict: one
spelling for every note, so that there is no byte in it that could change unseen.
"""

import base64
import hashlib
import re
from dataclasses import dataclass

from zaibei.kernel.errors import Damage

ED25519 = b"\x01"
COSIGNATURE = b"\x04"
SM2_SM3 = b"\xff" + b"urn:zaibei:sm2-sm3/v1"  # 0xff and a long name: the range for own algorithms
MAX_SIGNATURES = 32
MAX_SIZE = 1_000_000  # entries of a log; the same in `packed/verify.sh`
SECOND = (
    "[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){2}"
)
_ORIGIN = re.compile(r"[A-Za-z0-9:./_-]+")
_DASH = "— "


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureLine:
    name: str
    key_id: bytes  # 4 bytes; tells the key apart, proves nothing
    signature: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    text: bytes  # with its final newline, without the blank line
    signatures: tuple[SignatureLine, ...]

    def encode(self) -> bytes:
        return self.text + b"\n" + "".join(map(str, self.signatures)).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The body of a log's head: origin, number of entries, root."""

    origin: str
    size: int
    root: bytes

    def encode(self) -> bytes:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()


def key_id(name: str, kind: bytes, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + kind + public).digest()[:4]


def parse(raw: bytes) -> Note:
    """Raises Damage for anything that this module would not have written itself."""
    try:
        text, blank, tail = raw.decode().partition("\n\n")
    except UnicodeDecodeError as bad:
        raise Damage("a signed note is not UTF-8") from bad
    if not blank or not tail.endswith("\n"):
        raise Damage("a signed note has no signatures, or its end is missing")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise Damage(f"a signed note has more than {MAX_SIGNATURES} signatures")
    note = Note(text=f"{text}\n".encode(), signatures=tuple(_line(line) for line in lines))
    if note.encode() != raw:
        raise Damage("a signed note is not written in its one form")
    return note


def parse_checkpoint(text: bytes) -> Checkpoint:
    try:
        origin, size, root = text.decode().removesuffix("\n").split("\n")
        head = Checkpoint(origin=origin, size=int(size), root=base64.b64decode(root, validate=True))
    except ValueError as bad:
        raise Damage("the checkpoint is not origin, size and root") from bad
    plain = _ORIGIN.fullmatch(head.origin) and 0 <= head.size <= MAX_SIZE and len(head.root) == 32
    if not plain or head.encode() != text:
        raise Damage("the checkpoint is not written in its one form")
    return head


def _line(line: str) -> SignatureLine:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except ValueError as bad:
        raise Damage("a signature line is not base64") from bad
    if not line.startswith(_DASH) or not name or not space or len(raw) <= 4:
        raise Damage("a signature line is malformed")
    return SignatureLine(name=name, key_id=raw[:4], signature=raw[4:])
