"""A signed JSON document: `{"body": {...}, "signature": hex}`. The envelope of every format, for ever.

The signature is Ed25519 over `zaibei/<kind>\\0` and the RFC 8785 form of the body, so config, keys and
snapshots can be checked by anybody who holds the public key in `config`, without any secret.
"""

import json
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from zaibei.kernel.errors import Damage, Usage

Body = dict[str, Any]  # text of a format, parsed field by field where it is used


def sign(kind: str, body: Body, key: Ed25519PrivateKey) -> bytes:
    """Raises Usage for words of a person that are not text."""
    try:
        signature = key.sign(message(kind, body))
    except rfc8785.CanonicalizationError as bad:
        raise Usage(f"not text in UTF-8: {bad}") from bad
    return rfc8785.dumps({"body": body, "signature": signature.hex()})


def text(said: str, *, what: str) -> str:
    """A name or a reason as it was given, before anything is made for it. Raises Usage for bytes that are no text."""
    try:
        said.encode()
    except UnicodeEncodeError as bad:
        raise Usage(f"{what} is not text in UTF-8: {said!r}") from bad
    return said


def parse(data: bytes, *, what: str) -> tuple[Body, bytes]:
    """Body and signature, unchecked. Raises Damage unless `data` is the canonical form of itself:
    no bit of a document may change and still be the document."""
    try:
        outer = json.loads(data)
        if rfc8785.dumps(outer) != data or set(outer) != {"body", "signature"}:
            raise Damage(f"{what}: not a signed document")
        body, signature = outer["body"], bytes.fromhex(outer["signature"])
    except (ValueError, TypeError, KeyError, RecursionError, rfc8785.CanonicalizationError) as bad:
        raise Damage(f"{what}: not a signed document") from bad
    # fromhex takes upper case too; then the text could change under an unchanged signature.
    if not isinstance(body, dict) or outer["signature"] != signature.hex():
        raise Damage(f"{what}: not a signed document")
    return body, signature


def check(kind: str, body: Body, signature: bytes, signer: bytes, *, what: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, message(kind, body))
    except (InvalidSignature, ValueError) as bad:
        raise Damage(f"{what}: the signature does not fit") from bad


def message(kind: str, body: Body) -> bytes:
    return f"zaibei/{kind}\0".encode() + rfc8785.dumps(body)
