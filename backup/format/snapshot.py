"""One backup: a signed link of a chain. Written last: what no snapshot names was never backed up.

The key is `snapshots/<sequence>`, created with If-None-Match: of two writers one gets the number
and the other takes the next. Each snapshot names the digest of the one before it, so a vault cannot
drop or swap one in the middle unseen; the newest is remembered outside the vault
(`backup.repository.last_seen`). In the clear: repository, sequence, chain. Sealed: everything about
what was backed up.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import rfc8785

from backup.crypto import signed
from backup.crypto.keyring import Keyring
from backup.crypto.seal import Kind, epoch_of, open_whole, seal_whole
from backup.crypto.suite import ID_BYTES
from backup.crypto.trust import FIRST_EPOCH, Authority
from backup.errors import NewerFormat
from backup.format.chain_link import Link
from infra.objectstore.contract import Stat
from zaibei.kernel.errors import Damage

PREFIX: Final = "snapshots/"
RESEALED: Final = "resealed/"
_DOCUMENT = "snapshot"
_AGAIN = "resealed"
FIRST: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a run says about itself. `facts` is the source's own: LSNs, timeline, system identifier."""

    kind: str  # files | postgres
    label: str
    host: str
    started: datetime
    finished: datetime
    tree: tuple[bytes, ...]  # blob ids of the listing, in order
    entries: int
    size_bytes: int
    complete: bool
    problems: tuple[str, ...] = ()  # what could not be read, one line each
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    sequence: int
    digest: str
    previous: str | None  # digest of the one before
    content: Content

    @property
    def key(self) -> str:
        return key_of(self.sequence)

    @property
    def link(self) -> Link:
        return Link(sequence=self.sequence, digest=self.digest, previous=self.previous)


def key_of(sequence: int) -> str:
    return f"{PREFIX}{sequence:010d}"


def numbers(stats: Iterable[Stat]) -> dict[int, Stat]:
    """By number, of what was listed."""
    return {sequence_of(stat.key): stat for stat in stats}


def sequence_of(key: str) -> int:
    tail = key.removeprefix(PREFIX)
    if not (tail.isascii() and tail.isdigit()) or key != key_of(int(tail)):
        raise Damage(f"{key}: not the name of a snapshot")
    return int(tail)


def encode(keys: Keyring, content: Content, *, sequence: int, previous: str | None) -> bytes:
    assert (previous is None) == (sequence == FIRST), "only the first has none before it"
    text = {
        **asdict(content),
        "started": content.started.isoformat(),
        "finished": content.finished.isoformat(),
        "tree": base64.b64encode(b"".join(content.tree)).decode(),
    }
    sealed = seal_whole(keys, Kind.SNAPSHOT, key_of(sequence), rfc8785.dumps(text))
    body: signed.Body = {
        "format": 1,
        "repository": keys.repository.hex(),
        "sequence": sequence,
        "previous": previous,
        "sealed": base64.b64encode(sealed).decode(),
    }
    if keys.writer is not None:
        body["writer"] = keys.writer.hex()
    return signed.sign(_DOCUMENT, body, keys.signer)


def check_link(data: bytes, *, authority: Authority, sequence: int) -> signed.Body:
    """What anybody without a secret can say about a snapshot: signed by one who may, of this repository, in its
    place."""
    what = key_of(sequence)
    body, signature = signed.parse(data, what=what)
    authority.check_snapshot(_DOCUMENT, body, signature, sequence=sequence, what=what)
    if body.get("format") != 1:
        raise NewerFormat(f"{what}: format {body.get('format')}", hint="use a newer zaibei")
    if body.get("repository") != authority.repository.hex() or body.get("sequence") != sequence:
        raise Damage(f"{what}: a snapshot of another repository or place")
    return body


def link_of(keys: Keyring, data: bytes, *, sequence: int) -> Link:
    body = check_link(data, authority=keys.authority, sequence=sequence)
    digest = keys.suite.digest(data)
    return Link(sequence=sequence, digest=digest, previous=body.get("previous"))


def decode(keys: Keyring, data: bytes, *, sequence: int) -> Snapshot:
    what = key_of(sequence)
    body = check_link(data, authority=keys.authority, sequence=sequence)
    return Snapshot(
        sequence=sequence,
        digest=keys.suite.digest(data),
        previous=body["previous"],
        content=_parse(_opened(keys, what, body), what=what),
    )


def sealed_in(data: bytes, sequence: int) -> int:
    """The epoch whose root opens it."""
    body, _ = signed.parse(data, what=key_of(sequence))
    try:
        return epoch_of(base64.b64decode(body["sealed"], validate=True))
    except (KeyError, TypeError, ValueError) as bad:
        raise Damage(f"{key_of(sequence)}: {bad}") from bad


def resealed_key(epoch: int, key: str) -> str:
    """Where the contents of `key`, a snapshot or WAL, are sealed once more under a later root."""
    return f"{RESEALED}{epoch:010d}/{key}"


def reseal(keys: Keyring, data: bytes, *, sequence: int) -> bytes:
    """The same contents under the newest root. The digest of the original is in it, so that the chain can be
    checked without the original."""
    key = key_of(sequence)
    body, _ = signed.parse(data, what=key)
    name = resealed_key(keys.epoch, key)
    sealed = seal_whole(keys, Kind.SNAPSHOT, name, _opened(keys, key, body))
    again: signed.Body = {
        "format": 1,
        "repository": keys.repository.hex(),
        "sequence": sequence,
        "previous": body["previous"],
        "epoch": keys.epoch,
        "digest": keys.suite.digest(data),
        "sealed": base64.b64encode(sealed).decode(),
    }
    return signed.sign(_AGAIN, again, keys.signer)


def decode_resealed(keys: Keyring, data: bytes, *, epoch: int, sequence: int) -> Snapshot:
    """The snapshot as its original was."""
    what = resealed_key(epoch, key_of(sequence))
    link, body = _resealed(keys, data, epoch=epoch, sequence=sequence)
    content = _parse(_opened(keys, what, body), what=what)
    return Snapshot(
        sequence=sequence, digest=str(link.digest), previous=link.previous, content=content
    )


def resealed_link(keys: Keyring, data: bytes, *, epoch: int, sequence: int) -> Link:
    return _resealed(keys, data, epoch=epoch, sequence=sequence)[0]


def _resealed(keys: Keyring, data: bytes, *, epoch: int, sequence: int) -> tuple[Link, signed.Body]:
    what = resealed_key(epoch, key_of(sequence))
    body, signature = signed.parse(data, what=what)
    keys.authority.check_snapshot(_AGAIN, body, signature, sequence=sequence, what=what)
    # Nobody but the root of that epoch seals anew: neither one that it retired nor a host speaks for the past.
    signer = keys.authority.reigns[epoch - FIRST_EPOCH].signer
    signed.check(_AGAIN, body, signature, signer, what=what)
    if body.get("format") != 1:
        raise NewerFormat(f"{what}: format {body.get('format')}", hint="use a newer zaibei")
    place = (keys.repository.hex(), epoch, sequence)
    if (body.get("repository"), body.get("epoch"), body.get("sequence")) != place:
        raise Damage(f"{what}: a snapshot of another repository or place")
    try:
        digest, previous = str(body["digest"]), body["previous"]
    except KeyError as bad:
        raise Damage(f"{what}: {bad}") from bad
    return Link(sequence=sequence, digest=digest, previous=previous), body


def _opened(keys: Keyring, what: str, body: signed.Body) -> bytes:
    try:
        sealed = base64.b64decode(body["sealed"], validate=True)
    except (KeyError, TypeError, ValueError) as bad:
        raise Damage(f"{what}: {bad}") from bad
    return open_whole(keys, Kind.SNAPSHOT, what, sealed)


def _parse(plain: bytes, *, what: str) -> Content:
    try:
        text = json.loads(plain)
        tree = base64.b64decode(text.pop("tree"), validate=True)
        if len(tree) % ID_BYTES:
            raise Damage(f"{what}: its listing is cut short")
        return Content(
            **{
                **text,
                "started": datetime.fromisoformat(text["started"]).astimezone(UTC),
                "finished": datetime.fromisoformat(text["finished"]).astimezone(UTC),
                "tree": tuple(tree[i : i + ID_BYTES] for i in range(0, len(tree), ID_BYTES)),
                "problems": tuple(text["problems"]),
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError) as bad:
        raise Damage(f"{what}: {bad}") from bad
