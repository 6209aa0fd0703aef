"""Let somebody in, and out again: recipients and write-only hosts of one repository.

Being let out is a signed statement. Who was let out still holds what they held: only a rotation (`rotation`)
takes the future from them, and only a finished one the past.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from backup import recipients, revoked, signed, snapshot, unlock
from backup.authority import FIRST_EPOCH
from backup.curve import of_suite
from backup.host import HostKey
from backup.keys import Kdf
from backup.recipients import ESCROW, WRITER, Identity
from backup.repository import Repository, access
from backup.revoked import Revocation
from backup.unlock import Held
from zaibei.kernel.errors import Damage, Refused, Usage

MEND: Final = (
    "remove that object, as who may delete; then let its owner in again: zaibei backup key add"
)
_FORMATS: Final = (1, 2)
# Kind and name lie side by side in the canonical form, so that they are found also where the rest of it is broken.
_SAYS: Final = re.compile(rb'"kind":"([^"\\]{1,32})"(?:,"name":"([^"\\]{1,200})")?')


class State(StrEnum):
    SOUND = "sound"
    NEWER = "newer"  # of a format or kind that this zaibei does not know
    STRANGER = "stranger"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One recipient or host. `epoch`: the newest that it was let into. `carried`: a rotation needs nobody's
    secret to take it along. `object`: its key object of that epoch."""

    object: str
    state: State
    id: str
    kind: str
    name: str
    curve: str | None
    epoch: int
    opens: bool  # the newest epoch; a host opens nothing
    carried: bool
    revoked: Revocation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """An object under `keys/` that lets nobody in, or under `revoked/` that lets nobody out. `kind` and `name` are
    what it says of itself, as far as it can be read: nobody vouches for them."""

    object: str
    state: State
    kind: str | None
    name: str | None
    why: str
    mend: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """`until`: the last snapshot that counts of a host. Not `changes`: it was let out before, as far or further."""

    who: Member
    until: int
    changes: bool


def members(repo: Repository) -> list[Member]:
    """Everybody who was ever let in, by kind and name."""
    return _members(access(repo.store, repo.config, clock=repo.clock))


def everything(repo: Repository) -> tuple[list[Member], list[Other]]:
    """With what is there and lets nobody in: one of these may be the key that somebody counts on."""
    found = access(repo.store, repo.config, clock=repo.clock)
    return _members(found), list(_others(repo, found))


def _others(repo: Repository, found: unlock.Access) -> Iterator[Other]:
    for key, bad in found.damage.items():
        kind, name = _said(repo, key)
        yield Other(
            object=key, state=State.DAMAGED, kind=kind, name=name, why=bad.message, mend=MEND
        )
    for key, bad in found.statements.damage.items():
        yield Other(
            object=key,
            state=State.DAMAGED,
            kind="revocation",
            name=None,
            why=bad.message,
            mend=revoked.MEND,
        )
    for key, one in found.strangers.items():
        kind, name = (None if (t := one.body.get(f)) is None else str(t) for f in ("kind", "name"))
        yield Other(object=key, state=State.STRANGER, kind=kind, name=name, why=one.why, mend=None)


def _said(repo: Repository, key: str) -> tuple[str | None, str | None]:
    with suppress(Damage):  # gone meanwhile, or its bytes cannot be read at all
        if (found := _SAYS.search(repo.read(key))) is not None:
            kind, name = (None if b is None else b.decode(errors="replace") for b in found.groups())
            return kind, name
    return None, None


def _members(found: unlock.Access) -> list[Member]:
    newest: dict[str, Held] = {}
    for one in found.held:
        if one.id not in newest or newest[one.id].epoch < one.epoch:
            newest[one.id] = one
    out = [
        Member(
            object=one.key,
            state=_state(one),
            id=one.id,
            kind=one.kind,
            name=str(one.body.get("name", "")),
            curve=one.body.get("curve"),
            epoch=one.epoch,
            opens=one.kind in recipients.OPENING
            and _state(one) is State.SOUND
            and one.epoch == found.authority.newest.epoch,
            carried=recipients.can_be_carried(one.body),
            revoked=found.revoked.get(one.id),
        )
        for one in newest.values()
    ]
    return sorted(out, key=lambda m: (m.kind, m.name, m.id))


def _state(one: Held) -> State:
    known = one.kind in (*recipients.OPENING, WRITER) and one.body.get("format") in _FORMATS
    return State.SOUND if known else State.NEWER


def add_passphrase(
    repo: Repository, said: str, *, name: str, kdf: Kdf | None = None
) -> signed.Body:
    repo.keys.demand_root()
    keys, name = repo.keys, signed.text(name, what="the name")
    if keys.epoch == FIRST_EPOCH:
        body = recipients.passphrase(
            keys.root,
            said,
            suite=keys.suite,
            repository=keys.repository,
            kdf=kdf or Kdf(),
            name=name,
        )
        return _put(repo, body)
    who = recipients.passphrase_later(
        said, suite=keys.suite, repository=keys.repository, kdf=kdf or Kdf(), name=name
    )
    return _put(repo, _wrapped(repo, who))


def add_key(repo: Repository, *, curve: str, public: bytes, name: str) -> signed.Body:
    """`curve` is the kind: x25519 or sm2. Raises Damage for what is no public key."""
    repo.keys.demand_root()
    name = signed.text(name, what="the name")
    who = recipients.keyed(curve, curve_name=curve, public=public, name=name)
    return _put(repo, _wrapped(repo, who))


def add_escrow(repo: Repository, *, threshold: int, shares: int, name: str) -> list[str]:
    """A recipient whose private key is nowhere but in the words that come back, one string a share. They are
    not stored: whoever calls prints them once."""
    from backup import escrow  # noqa: PLC0415 — word lists are slow to load

    repo.keys.demand_root()
    name = signed.text(name, what="the name")
    mine = Identity.new(of_suite(repo.config.suite).name)
    words = escrow.split(mine.private, threshold=threshold, shares=shares)
    who = recipients.keyed(ESCROW, curve_name=mine.curve, public=mine.public, name=name)
    who["escrow"] = {"threshold": threshold, "shares": shares}
    _put(repo, _wrapped(repo, who))
    return words


def add_host(repo: Repository, *, name: str, file: Path | None = None) -> HostKey:
    """A certificate for a machine that may write and not read. The key is for that machine alone; with `file` it is
    saved before anybody is asked to trust it."""
    repo.keys.demand_root()
    one = HostKey.new(repo.keys, name=signed.text(name, what="the name"))
    if file is not None:
        one.save(file)
    body: signed.Body = {
        "format": 2,
        "kind": WRITER,
        "name": name,
        "repository": repo.keys.repository.hex(),
        "suite": repo.keys.suite.name,
        "epoch": repo.keys.epoch,
        "public": one.public.hex(),
    }
    _put(repo, body)
    return one


def find(repo: Repository, id_: str) -> Member:
    """By the beginning of an id."""
    found = [m for m in members(repo) if m.id.startswith(id_)] if id_ else []
    if len(found) != 1:
        raise Usage(
            f"{repo.name}: {'several recipients begin with' if found else 'no recipient'} {id_!r}",
            hint="zaibei backup key list shows them",
        )
    return found[0]


def leaving(repo: Repository, id_: str, *, until: int | None = None) -> Leaving:
    """What `revoke` would do. Raises Usage for a bound that it cannot have, Refused rather than leave nobody who
    could open the next epoch, WriteOnly for a host's key."""
    repo.keys.demand_root()
    who, known = find(repo, id_), members(repo)
    tip = repo.tip()
    newest = tip.sequence if tip else snapshot.FIRST - 1
    if until is not None and (why := _why_not_until(who, newest, until)) is not None:
        raise Usage(f"{repo.name}: {why}")
    bound = newest if until is None else until
    if who.revoked is not None and (who.kind != WRITER or who.revoked.until <= bound):
        return Leaving(who=who, until=who.revoked.until, changes=False)
    if who.kind != WRITER and not [
        m for m in known if m.opens and m.revoked is None and m.id != who.id
    ]:
        raise Refused(
            f"{repo.name}: {who.name or who.id} is the last that opens this repository",
            hint="let another in first: zaibei backup key add",
        )
    return Leaving(who=who, until=bound, changes=True)


def _why_not_until(who: Member, newest: int, until: int) -> str | None:
    if who.kind != WRITER:
        return "--until is of a host; a recipient writes nothing of its own"
    # A bound ahead would believe what a thief of the key writes from now on.
    if until > newest:
        return f"--until {until}: the newest snapshot is {newest}, and what comes later is not to be believed"
    if until < 0:
        return f"--until {until} is no snapshot; 0 believes none"
    if who.revoked is not None and until > who.revoked.until:
        return (
            f"it was revoked already, until {who.revoked.until}; that is not taken back:"
            " let the host in anew, with another key"
        )
    return None


def revoke(repo: Repository, id_: str, *, why: str, until: int | None = None) -> Leaving:
    """Safe to repeat, and to say again with a lower bound. `until`: the last snapshot that a host is believed for;
    default is the newest there is. Raises as `leaving`."""
    done = leaving(repo, id_, until=until)
    if done.changes:
        said = Revocation(
            id=done.who.id,
            until=done.until,
            why=signed.text(why, what="--why"),
            at=repo.clock.now().isoformat(),
        )
        for key, data in revoked.state(repo.keys, said):
            repo.create(key, data)
    return done


def to_carry(found: unlock.Access, *, epoch: int) -> tuple[list[Held], list[Held], list[Held]]:
    """Who goes along to the next epoch: recipients, hosts, and recipients that cannot without their secret."""
    alive = [h for h in found.held if h.epoch == epoch and h.id not in found.revoked]
    hosts = [h for h in alive if h.kind == WRITER]
    opening = [h for h in alive if h.kind in recipients.OPENING]
    along = [h for h in opening if recipients.can_be_carried(h.body)]
    return along, hosts, [h for h in opening if not recipients.can_be_carried(h.body)]


def _wrapped(repo: Repository, who: signed.Body) -> signed.Body:
    keys = repo.keys
    return recipients.wrapped(
        keys.root, who, suite=keys.suite, repository=keys.repository, epoch=keys.epoch
    )


def _put(repo: Repository, body: signed.Body) -> signed.Body:
    repo.keys.demand_root()
    data = signed.sign("key", body, repo.keys.signer)
    key = f"{unlock.KEYS}{repo.keys.suite.digest(data)}"
    repo.create(key, data)
    return body
