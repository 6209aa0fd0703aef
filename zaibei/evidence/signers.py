"""Check who signed a pack: its keys, the fingerprints that came another way, and each line of the checkpoint."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from zaibei.evidence import keys, note, sm2, witness
from zaibei.evidence.folder import Folder
from zaibei.evidence.packing import fingerprints
from zaibei.kernel.errors import Damage, Usage

WITNESS = re.compile(r"witness-(?P<name>[A-Za-z0-9_-]+)\.pub")
_OWN = ("ed25519.pub", "p256.pub", "sm2.pub")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosignature:
    witness: (
        str | None
    )  # its name, when its key is among the given fingerprints; else it is anybody's
    key: str  # fingerprint
    at: str  # RFC 3339, by the witness's clock

    @property
    def called(self) -> str:
        return self.witness or self.key


def given(values: Collection[str] | None) -> frozenset[str] | None:
    """The fingerprints a person brought, without colons. Raises Usage for what cannot be one."""
    if values is None:
        return None
    plain = frozenset(v.lower().replace(":", "") for v in values)
    for value in plain:
        if not _HEX.fullmatch(value):
            raise Usage(
                f"not a fingerprint: {value!a}",
                hint="64 hexadecimal digits, as `zaibei evidence keys` prints them",
            )
    return plain


def public_keys(pack: Folder) -> dict[str, bytes]:
    """Each key file, in its one spelling and of the kind its name says. Raises Damage for any other."""
    names = [p.removeprefix("keys/") for p in pack.under("keys/")]
    public = {n: pack.read(f"keys/{n}") for n in names if n.endswith(".pub")}
    for name, pem in public.items():
        if name not in _OWN and not WITNESS.fullmatch(name):
            raise Damage(f"a key that does not belong in a pack: {name}")
        try:
            _load(name, pem)
        except Damage as bad:
            raise Damage(f"keys/{name}: {bad.message}") from bad
    if "p256.pub" not in public:
        raise Damage("missing from the pack: keys/p256.pub")
    if pack.read("keys/FINGERPRINTS.txt") != fingerprints(public):
        raise Damage("FINGERPRINTS.txt does not list the fingerprints of the keys")
    return public


def compare(found: Mapping[str, str], trusted: frozenset[str]) -> None:
    """Raises Damage unless each key has a fingerprint that was given, and each given one is one key's."""
    held = list(found.values())
    for name, value in found.items():
        if not WITNESS.fullmatch(name) and value not in trusted:
            raise Damage(
                f"{name} has another fingerprint than the ones given: {value}",
                hint="this pack is not from the holder of those keys",
            )
    for value in sorted(trusted):
        if held.count(value) != 1:
            raise Damage(
                f"{held.count(value) or 'no'} keys of the pack have the fingerprint {value}",
                hint="each one that is given must be met by one key: is a key missing from the pack?",
            )


def head(
    checkpoint: bytes,
    public: Mapping[str, bytes],
    log_key: Ed25519PublicKey,
    trusted: frozenset[str] | None,
) -> tuple[note.Checkpoint, tuple[Cosignature, ...]]:
    """One line for each key in the pack, in the order of the format; none besides."""
    signed = note.parse(checkpoint)
    found = note.parse_checkpoint(signed.text)
    lines = list(signed.signatures)
    ed25519_line(lines.pop(0), found.origin, log_key, signed.text, what="checkpoint")
    if second := public.get("sm2.pub"):
        if not lines or lines[0].name != found.origin or not keys.is_sm2(lines[0], second):
            raise Damage("the checkpoint has no line of the SM2 key")
        if reason := sm2.why_not_signed(second, signed.text, lines.pop(0).signature):
            raise Damage(reason)
    watching = [m["name"] for n in sorted(public) if (m := WITNESS.fullmatch(n))]
    if sorted(map(witness.key_name, watching)) != sorted(line.name for line in lines):
        raise Damage("the lines of the checkpoint are not those of the keys in the pack")
    return found, _cosignatures(lines, public, signed.text, trusted or frozenset())


def only_line(signed: note.Note, origin: str, key: Ed25519PublicKey) -> None:
    if len(signed.signatures) != 1:
        raise Damage("the manifest does not have exactly one signature")
    ed25519_line(signed.signatures[0], origin, key, signed.text, what="manifest")


def ed25519_line(
    line: note.SignatureLine, name: str, key: Ed25519PublicKey, text: bytes, *, what: str
) -> None:
    identity = note.key_id(name, note.ED25519, keys.raw_ed25519(key))
    if line.name != name or line.key_id != identity:
        raise Damage(f"the {what} is signed by another key")
    try:
        key.verify(line.signature, text)
    except InvalidSignature as bad:
        raise Damage(f"the signature of the {what} does not hold") from bad


def _cosignatures(
    lines: Sequence[note.SignatureLine],
    public: Mapping[str, bytes],
    text: bytes,
    trusted: frozenset[str],
) -> tuple[Cosignature, ...]:
    """A witness has a name only when its key is among the given fingerprints.

    The name in the pack is the operator's word: a rewritten log can be cosigned by a new key of any
    name, and only the comparison tells that key from the witness's.
    """
    found = []
    for line in sorted(lines, key=lambda one: one.name):
        name = line.name.removeprefix(witness.key_name(""))
        pem = public[f"witness-{name}.pub"]
        value = keys.fingerprint(pem)
        at = witness.cosigned_at(line, keys.load_ed25519(pem), text)
        found.append(Cosignature(witness=name if value in trusted else None, key=value, at=at))
    return tuple(found)


def _load(name: str, pem: bytes) -> None:
    if name == "p256.pub":
        keys.load_p256(pem)
    elif name == "sm2.pub":
        keys.check_sm2(pem)
    else:
        keys.load_ed25519(pem)
