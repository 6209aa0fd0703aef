"""DSSE envelopes with ECDSA P-256: the statement's bytes and a signature over their pre-authentication form.

DSSE does not sign `keyid`. That is why the whole envelope, not the statement, is the leaf of the log.
"""

import base64
import binascii
import json

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from zaibei.kernel.errors import Damage

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def pae(payload: bytes) -> bytes:
    """Pre-authentication encoding: lengths first, so that nothing can move between type and body."""
    return b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE),
        PAYLOAD_TYPE.encode(),
        len(payload),
        payload,
    )


def seal(payload: bytes, *, key: ec.EllipticCurvePrivateKey, keyid: str) -> bytes:
    return _encode(payload, keyid, key.sign(pae(payload), ec.ECDSA(hashes.SHA256())))


def unseal(envelope: bytes, *, key: ec.EllipticCurvePublicKey, keyid: str) -> bytes:
    """The payload, once its signature holds. Raises Damage."""
    try:
        body = json.loads(envelope)
        (signed,) = body["signatures"]
        payload = base64.b64decode(body["payload"], validate=True)
        signature = base64.b64decode(signed["sig"], validate=True)
        named = signed["keyid"]
    except (ValueError, KeyError, TypeError, binascii.Error) as bad:
        raise Damage("not a DSSE envelope with one signature") from bad
    if named != keyid:
        raise Damage(f"an envelope is signed by key {named!s:.16}, not by {keyid:.16}")
    if _encode(payload, keyid, signature) != envelope:
        raise Damage("an envelope is not written in its one form")
    try:
        key.verify(signature, pae(payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as bad:
        raise Damage("the signature of an envelope does not hold") from bad
    return payload


def _encode(payload: bytes, keyid: str, signature: bytes) -> bytes:
    return rfc8785.dumps(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": keyid, "sig": base64.b64encode(signature).decode()}],
        }
    )
