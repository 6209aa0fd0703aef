"""Checks a signed permission to see tables unmasked: one snapshot, its tables, a person, a purpose,
an end.

DSSE over an in-toto statement, signed with ECDSA P-256 by a key that this machine was told to
trust. Anything that is not exactly that leaves everything masked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from backup.format.snapshot import Snapshot
from zaibei.evidence import dsse, keys, statement
from zaibei.kernel.errors import Damage, Missing, Refused, Usage
from zaibei.kernel.state import state_dir

KIND: Final = "urn:zaibei:authorisation/v1"
_FIELDS = {"repository", "sequence", "snapshot", "tables", "person", "purpose", "from", "until"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorisation:
    repository: str  # id in hex
    sequence: int
    snapshot: str  # digest
    tables: tuple[str, ...]  # database.schema.table, with `*`
    person: str
    purpose: str
    since: datetime
    until: datetime
    signer: str  # fingerprint of the key


def trusted_keys() -> list[bytes]:
    """Public keys (PEM) of those who may authorise: `backup/authorisers/*.pub` of the state directory."""
    return [p.read_bytes() for p in sorted((state_dir() / "backup" / "authorisers").glob("*.pub"))]


def sign(
    snapshot: Snapshot,
    *,
    repository: bytes,
    tables: Sequence[str],
    person: str,
    purpose: str,
    since: datetime,
    until: datetime,
    key: ec.EllipticCurvePrivateKey,
) -> bytes:
    """The envelope. Raises Usage for a request that says nothing."""
    if snapshot.content.kind != "postgres":
        raise Usage(f"snapshot {snapshot.sequence} holds {snapshot.content.kind}, not postgres")
    if not tables or not person.strip() or not purpose.strip():
        raise Usage("an authorisation names tables, a person and a purpose")
    if until <= since:
        raise Usage("an authorisation that ends before it begins")
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    payload = statement.encode(
        KIND,
        {
            "repository": repository.hex(),
            "sequence": snapshot.sequence,
            "snapshot": snapshot.digest,
            "tables": list(tables),
            "person": person,
            "purpose": purpose,
            "from": since.isoformat(),
            "until": until.isoformat(),
        },
    )
    return dsse.seal(payload, key=key, keyid=keys.fingerprint(public))


def checked(
    envelope: bytes,
    snapshot: Snapshot,
    *,
    repository: bytes,
    trusted: Sequence[bytes],
    now: datetime,
) -> Authorisation:
    """Raises Refused with the reason when it is not leave for this snapshot, now, by somebody we trust."""
    found, signer = _opened(envelope, trusted)
    said = found.predicate
    if found.predicate_type != KIND or set(said) != _FIELDS:
        raise Refused(f"the signed statement is {found.predicate_type}, not an authorisation")
    try:
        tables = tuple(said["tables"])
        if not all(isinstance(t, str) for t in tables):
            raise TypeError("a table is not a name")
        out = Authorisation(
            repository=str(said["repository"]),
            sequence=int(said["sequence"]),
            snapshot=str(said["snapshot"]),
            tables=tables,
            person=str(said["person"]),
            purpose=str(said["purpose"]),
            since=datetime.fromisoformat(said["from"]).astimezone(UTC),
            until=datetime.fromisoformat(said["until"]).astimezone(UTC),
            signer=signer,
        )
    except (TypeError, ValueError) as odd:
        raise Refused(f"the authorisation is not of its form: {odd}") from odd
    if (why := why_not(out, snapshot, repository=repository, now=now)) is not None:
        raise Refused(f"not authorised: {why}", hint="without it the room is masked")
    return out


def why_not(
    one: Authorisation, snapshot: Snapshot, *, repository: bytes, now: datetime
) -> str | None:
    """Why it does not hold here and now. Pure."""
    if one.repository != repository.hex():
        return "it is for another repository"
    if (one.sequence, one.snapshot) != (snapshot.sequence, snapshot.digest):
        return f"it is for snapshot {one.sequence}, this is snapshot {snapshot.sequence}"
    if now < one.since:
        return f"it begins at {one.since.isoformat()}"
    if now >= one.until:
        return f"it ended at {one.until.isoformat()}"
    return None


def private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError as gone:
        raise Missing(f"{path}: no such key") from gone
    except (ValueError, TypeError) as odd:
        raise Usage(f"{path}: not a private key without a passphrase, in PEM") from odd
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Usage(f"{path}: not a P-256 key")
    return key


def _opened(envelope: bytes, trusted: Sequence[bytes]) -> tuple[statement.Statement, str]:
    if not trusted:
        raise Refused(
            "nobody is trusted to authorise here",
            hint="--authorised-by FILE, or put the public key into backup/authorisers of the state directory",
        )
    why: Damage | None = None
    for pem in trusted:
        keyid = keys.fingerprint(pem)
        try:
            payload = dsse.unseal(envelope, key=keys.load_p256(pem), keyid=keyid)
            return statement.decode(payload), keyid
        except Damage as bad:
            why = bad
    assert why is not None, "at least one key was tried"
    raise Refused(f"not authorised: {why.message}", hint="is the signer's public key trusted here?")
