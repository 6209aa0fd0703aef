"""DSSE envelopes with ECDSA P-256: the statement's bytes and a signature over their pre-authentication form.

DSSE does not sign `keyid`. That is why the whole envelope, not the statement, is the leaf of the log.
"""

import base64
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from zaibei.kernel.errors import Damage

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_FORM = re.compile(
    rb'\{"payload":"(?P<payload>[A-Za-z0-9+/=]*)","payloadType":"application/vnd\.in-toto\+json",'
    rb'"signatures":\[\{"keyid":"(?P<keyid>[0-9a-f]{64})","sig":"(?P<sig>[A-Za-z0-9+/=]*)"\}\]\}'
)


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
    form = _FORM.fullmatch(envelope)
    if form is None:
        raise Damage("not a DSSE envelope with one signature, in its one form")
    named = form["keyid"].decode()
    if named != keyid:
        raise Damage(f"an envelope is signed by key {named:.16}, not by {keyid:.16}")
    payload, signature = _decoded(form["payload"]), _decoded(form["sig"])
    try:
        key.verify(signature, pae(payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as bad:
        raise Damage("the signature of an envelope does not hold") from bad
    return payload


def _decoded(text: bytes) -> bytes:
    """base64 that has one spelling: its last character may hold bits that no decoder looks at."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as bad:
        raise Damage("an envelope holds what is not base64") from bad
    if base64.b64encode(raw) != text:
        raise Damage("an envelope is not written in its one form")
    return raw


def _encode(payload: bytes, keyid: str, signature: bytes) -> bytes:
    return b'{"payload":"%s","payloadType":"%s","signatures":[{"keyid":"%s","sig":"%s"}]}' % (
        base64.b64encode(payload),
        PAYLOAD_TYPE.encode(),
        keyid.encode(),
        base64.b64encode(signature),
    )
