"""Who was let out: `revoked/<digest>`, signed by the root.

Whoever may write to a vault can leave anything under such a name. So what is damaged, or signed by nobody with a right
to, lets nobody out and stops nobody: else one object would keep every recipient from every restore. It is told, and
removed by who may delete.

Nor may a damaged statement let somebody in again. Each is written twice, as two objects; and a rotation notes those
that it saw (`Settled`): where one of these cannot be read any more, whom that rotation left behind stays out.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from backup import signed
from backup.authority import Authority
from backup.errors import Retired
from backup.keys import Keyring
from backup.suite import Suite
from backup.versions import remove_damaged
from infra.objectstore.contract import NotThere, ObjectStore
from zaibei.kernel.errors import Damage

if TYPE_CHECKING:
    from backup.repository import Repository
    from backup.unlock import Shelf

PREFIX: Final = "revoked/"
MEND: Final = (
    "if `zaibei backup key list` shows somebody as let in whom you let out, `key revoke` first;"
    " then zaibei backup repair --confirm NAME removes it, as who may delete"
)
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


@dataclass(slots=True, kw_only=True)
class Statements:
    """`damage`: what is there and cannot be read. `missing`: what a rotation had seen and is not there."""

    by_id: dict[str, Revocation] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)  # keys
    damage: dict[str, Damage] = field(default_factory=dict)  # by key
    retired: dict[str, Retired] = field(default_factory=dict)  # by key
    missing: set[str] = field(default_factory=set)

    def lost(self, authority: Authority, *, epoch: int) -> bool:
        """Whether a statement is lost that may be why the rotation after `epoch` left somebody behind."""
        settled = authority.reigns[epoch].settled  # of the epoch after
        return settled is not None and any(
            key in settled.statements for key in (*self.missing, *self.damage)
        )


def read(shelf: "Shelf", authority: Authority, suite: Suite) -> Statements:
    """Raises NewerFormat for a statement of our own that a later zaibei wrote, and nothing for what is damaged."""
    out = Statements()
    keys = [s.key for s in shelf.listed(PREFIX)]
    for key in keys:
        raw = b""
        try:
            raw = shelf.read(key)
            said = _decode(raw, key, authority, suite)
        except Retired as old:
            out.retired[key] = old  # the word of a key that may be stolen: it lets nobody out
            continue
        except Damage as bad:
            out.damage[key] = Damage(f"{shelf.name}: {bad.message}{_claim(raw)}")
            continue
        out.whole.add(key)
        if said.id not in out.by_id or said.until < out.by_id[said.id].until:
            out.by_id[said.id] = said
    for reign in authority.reigns:
        if reign.settled is not None:
            seen = {k for k in reign.settled.statements if k.startswith(PREFIX)}
            out.missing |= seen.difference(keys)
    return out


def state(ring: Keyring, said: Revocation) -> list[tuple[str, bytes]]:
    """Keys and bytes of a new statement. Raises WriteOnly for a host's ring."""
    ring.demand_root()
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


def clear(repo: "Repository", deleter: ObjectStore | None, found: Iterable[str]) -> dict[str, str]:
    """Remove what cannot be read. What stays, and why. Safe to repeat."""
    stay = {}
    for key in found:
        why = "only the deleter can remove it" if deleter is None else None
        if deleter is not None:
            why = _why_not_removed(repo, deleter, key)
        if why is not None:
            stay[key] = why
    return stay


def _why_not_removed(repo: "Repository", deleter: ObjectStore, key: str) -> str | None:
    keys = repo.keys

    def damaged() -> bool:
        try:
            _decode(repo.read(key), key, keys.authority, keys.suite)
        except Retired:
            return False
        except Damage as bad:
            return not isinstance(bad.__cause__, NotThere)
        return False

    return remove_damaged(repo, deleter, key, damaged=damaged)


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
