"""Bodies of the objects under `keys/`: who can open a repository. Pure except for randomness.

Every kind but the oldest has a public half, so that a rotation can wrap the new root for recipients
who are not present: an ordinary passphrase locks a private key, and roots are wrapped to its public
half.
"""

import base64
import hmac
import secrets
from dataclasses import asdict
from typing import Any, Final

import rfc8785

from backup.crypto.identity import Identity, Secret
from backup.crypto.kem import curve, of_suite
from backup.crypto.keyring import Kdf
from backup.crypto.signed import Body
from backup.crypto.suite import NONCE_BYTES, Suite
from backup.crypto.trust import FIRST_EPOCH
from backup.errors import NewerFormat, WrongKey
from zaibei.kernel.errors import Damage, Usage

PASSPHRASE, X25519, SM2, ESCROW, WRITER = "passphrase", "x25519", "sm2", "escrow", "writer"
OPENING: Final = (PASSPHRASE, X25519, SM2, ESCROW)  # the others open nothing
_COMMIT_BYTES = 32
_NO_NONCE = bytes(NONCE_BYTES)  # each of these keys is fresh and seals once
_CARRIED = (
    "kind",
    "name",
    "curve",
    "public",
    "kdf",
    "commitment",
    "half",
    "escrow",
)  # from epoch to epoch


def passphrase(
    root: bytes, said: str, *, suite: Suite, repository: bytes, kdf: Kdf, name: str = ""
) -> Body:
    """The form of the first epoch, which every zaibei reads: the root under Argon2id, and beside it the private
    half of a key that later roots are wrapped to."""
    body, material = _locked(said, suite=suite, repository=repository, kdf=kdf, name=name)
    body |= {"format": 1, "epoch": FIRST_EPOCH}
    key = material[: suite.key_bytes]
    return body | {"sealed": _seal(suite, key, root, body)}


def passphrase_later(said: str, *, suite: Suite, repository: bytes, kdf: Kdf, name: str) -> Body:
    """What `wrapped` needs to let a new passphrase into a later epoch."""
    return _locked(said, suite=suite, repository=repository, kdf=kdf, name=name)[0]


def keyed(kind: str, *, curve_name: str, public: bytes, name: str) -> Body:
    """The same for a public key. Raises Damage for one that is not of its curve."""
    curve(curve_name).encapsulate(public)
    return {"kind": kind, "curve": curve_name, "public": public.hex(), "name": name}


def wrapped(root: bytes, who: Body, *, suite: Suite, repository: bytes, epoch: int) -> Body:
    """A root of any epoch for a recipient with a public half; `who` is an older body of it, or a new one."""
    body = {k: who[k] for k in _CARRIED if k in who} | {
        "format": 2,
        "repository": repository.hex(),
        "suite": suite.name,
        "epoch": epoch,
    }
    encapsulated, secret = curve(who["curve"]).encapsulate(bytes.fromhex(who["public"]))
    key, commitment = _wrapping(secret, encapsulated, suite=suite, repository=repository)
    body["wrap"] = {"encapsulated": encapsulated.hex(), "commitment": commitment.hex()}
    return body | {"sealed": _seal(suite, key, root, body)}


def can_be_carried(body: Body) -> bool:
    return "public" in body


def unwrap(body: Body, secret: Secret, *, suite: Suite) -> bytes:
    """The root. Raises WrongKey when the object is another's, Damage when it is ours and the rest does not fit
    (the commitment tells the two apart), NewerFormat for what this zaibei does not know."""
    try:
        if body["kind"] not in OPENING or body["format"] not in (1, 2):
            raise NewerFormat(f"a recipient of kind {body['kind']!r} cannot be opened here")
        if body["kind"] == PASSPHRASE:
            if not isinstance(secret, str):
                raise WrongKey("a private key does not open what a passphrase locks")
            material = _stretched(body, secret, suite)
            if body["format"] == 1:
                return _open(suite, material[: suite.key_bytes], body)
            secret = _half(body, material, suite)
        if not isinstance(secret, Identity) or secret.curve != body["curve"]:
            raise WrongKey("the recipient is of another kind")
        if secret.public != bytes.fromhex(body["public"]):
            raise WrongKey("the recipient is another")
        encapsulated = bytes.fromhex(body["wrap"]["encapsulated"])
        agreed = curve(secret.curve).decapsulate(secret.private, encapsulated)
        key, commitment = _wrapping(
            agreed, encapsulated, suite=suite, repository=bytes.fromhex(body["repository"])
        )
        if not hmac.compare_digest(commitment, bytes.fromhex(body["wrap"]["commitment"])):
            raise Damage("a key object was wrapped under another key")
        return _open(suite, key, body)
    except (KeyError, TypeError, ValueError, AttributeError) as bad:
        raise Damage("a key object lacks a field") from bad


def _locked(
    said: str, *, suite: Suite, repository: bytes, kdf: Kdf, name: str
) -> tuple[Body, bytes]:
    if not said:
        raise Usage("the passphrase is empty", hint="put at least one line into the password file")
    salt = secrets.token_bytes(32)
    mine = Identity.new(of_suite(suite.name).name)
    body: Body = {
        "kind": PASSPHRASE,
        "repository": repository.hex(),
        "suite": suite.name,
        "kdf": {"name": "argon2id", "salt": salt.hex(), **asdict(kdf)},
        "curve": mine.curve,
        "public": mine.public.hex(),
    }
    if name:
        body["name"] = name
    material = kdf.stretch(said, salt, suite.key_bytes + _COMMIT_BYTES)
    body["commitment"] = material[suite.key_bytes :].hex()
    key = _half_key(material, body, suite)
    sealed = suite.aead(key).seal(_NO_NONCE, mine.private, _half_bound(body))
    body["half"] = base64.b64encode(sealed).decode()
    return body, material


def _stretched(body: Body, said: str, suite: Suite) -> bytes:
    """Raises WrongKey when the passphrase is another's."""
    given: dict[str, Any] = body["kdf"]
    kdf = Kdf(memory_kib=given["memory_kib"], iterations=given["iterations"], lanes=given["lanes"])
    salt, wanted = bytes.fromhex(given["salt"]), bytes.fromhex(body["commitment"])
    material = kdf.stretch(said, salt, suite.key_bytes + _COMMIT_BYTES)
    if not hmac.compare_digest(material[suite.key_bytes :], wanted):
        raise WrongKey(
            "the passphrase opens none of the repository's keys",
            hint="is it the right password file?",
        )
    return material


def _half(body: Body, material: bytes, suite: Suite) -> Identity:
    sealed = base64.b64decode(body["half"], validate=True)
    aead = suite.aead(_half_key(material, body, suite))
    return Identity(curve=body["curve"], private=aead.open(_NO_NONCE, sealed, _half_bound(body)))


def _half_key(material: bytes, body: Body, suite: Suite) -> bytes:
    # Not the key that wraps a root: that one has used its nonce of zeros.
    return suite.derive(
        material[: suite.key_bytes],
        salt=bytes.fromhex(body["public"]),
        info=b"zaibei/half" + bytes.fromhex(body["repository"]),
        length=suite.key_bytes,
    )


def _half_bound(body: Body) -> bytes:
    return rfc8785.dumps({k: body[k] for k in ("repository", "suite", "curve", "public", "kdf")})


def _wrapping(
    secret: bytes, encapsulated: bytes, *, suite: Suite, repository: bytes
) -> tuple[bytes, bytes]:
    material = suite.derive(
        secret,
        salt=encapsulated,
        info=b"zaibei/recipient" + repository,
        length=suite.key_bytes + _COMMIT_BYTES,
    )
    return material[: suite.key_bytes], material[suite.key_bytes :]


def _seal(suite: Suite, key: bytes, root: bytes, body: Body) -> str:
    return base64.b64encode(suite.aead(key).seal(_NO_NONCE, root, rfc8785.dumps(body))).decode()


def _open(suite: Suite, key: bytes, body: Body) -> bytes:
    sealed = base64.b64decode(body["sealed"], validate=True)
    bound = rfc8785.dumps({k: v for k, v in body.items() if k != "sealed"})
    return suite.aead(key).open(_NO_NONCE, sealed, bound)
