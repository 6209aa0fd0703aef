"""The object `revoked/<digest>`: a signed statement that a recipient or host lost access.

Anyone with write access can leave an object under such a name. One that is damaged, or signed by a
key without the right to, has no effect: otherwise one object would keep every recipient from every
restore. It is reported, and the deleter removes it.

A damaged statement must not restore access either. Each one is written twice, as two objects, and a
rotation records the ones that it saw (`Settled`): where one of these cannot be read any more,
everyone whom that rotation left behind stays revoked.
"""

import re
from dataclasses import dataclass
from typing import Final

from backup.crypto import signed
from backup.crypto.keyring import Keyring
from backup.crypto.suite import Suite
from backup.crypto.trust import Authority
from zaibei.kernel.errors import Damage

PREFIX: Final = "revoked/"
LEFT_BEHIND: Final = (
    "a rotation left it behind; the statement that said why cannot be read any more"
)
_DOCUMENT: Final = "revocation"
_COPIES: Final = 2  # of each statement: one that rots lets nobody in again
_CLAIM: Final = re.compile(rb'"id":"([0-9a-f]{1,16})"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    id: str
    until: int  # the last snapshot that a host is believed for
    why: str
    at: str


def state(ring: Keyring, said: Revocation) -> list[tuple[str, bytes]]:
    """Keys and bytes of a new statement. Raises WriteOnly for a host's ring."""
    ring.require_root()
    body: signed.Body = {
        "format": 1,
        "repository": ring.repository.hex(),
        "id": said.id,
        "until": said.until,
        "why": said.why,
        "at": said.at,
    }
    # Two names, because two bodies.
    bodies = [body, *({**body, "copy": n} for n in range(2, _COPIES + 1))]
    made = [signed.sign(_DOCUMENT, one, ring.signer) for one in bodies]
    return [(f"{PREFIX}{ring.suite.digest(data)}", data) for data in made]


def _decode(data: bytes, key: str, authority: Authority, suite: Suite) -> Revocation:
    body = authority.opened(_DOCUMENT, data, key=key, digest=suite.digest(data))
    if body.get("repository") != authority.repository.hex():
        raise Damage(f"{key}: a statement of another repository")
    try:
        return Revocation(
            id=str(body["id"]),
            until=int(body["until"]),
            why=str(body["why"]),
            at=str(body["at"]),
        )
    except (KeyError, TypeError, ValueError) as bad:
        raise Damage(f"{key}: {bad}") from bad


def _claim(raw: bytes) -> str:
    """For a person, who may remember. Nothing acts on it: anybody can write it."""
    found = _CLAIM.search(raw)
    return (
        f"; it says that {found[1].decode()} was let out, and nobody vouches for that"
        if found
        else ""
    )
