"""Adds and revokes recipients and write-only hosts of one repository.

A revocation is a signed statement. A revoked recipient still holds the keys it held: only a
rotation takes future backups from it, and only a finished rotation takes the past ones.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from backup import hints
from backup.crypto import signed
from backup.crypto.host_key import HostKey
from backup.crypto.identity import Identity
from backup.crypto.kem import of_suite
from backup.crypto.keyring import Kdf
from backup.crypto.trust import FIRST_EPOCH
from backup.format import recipient, revocation, snapshot
from backup.format.recipient import ESCROW, WRITER
from backup.format.revocation import Revocation
from backup.hints import MEND_KEY
from backup.repository import access as key_access
from backup.repository.access import HeldKey, read_access
from backup.repository.repository import Repository
from zaibei.kernel.errors import Damage, Refused, Usage

_FORMATS: Final = (1, 2)
# Kind and name lie side by side in the canonical form, so that they are found also where the rest of it is broken.
_SAYS: Final = re.compile(rb'"kind":"([^"\\]{1,32})"(?:,"name":"([^"\\]{1,200})")?')


class State(StrEnum):
    SOUND = "sound"
    NEWER = "newer"  # of a format or kind that this zaibei does not know
    STRANGER = "stranger"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHolder:
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

    who: KeyHolder
    until: int
    changes: bool


def members(repo: Repository) -> list[KeyHolder]:
    """Everybody who was ever let in, by kind and name."""
    return _members(read_access(repo.store, repo.config, clock=repo.clock))


def everything(repo: Repository) -> tuple[list[KeyHolder], list[Other]]:
    """With what is there and lets nobody in: one of these may be the key that somebody counts on."""
    found = read_access(repo.store, repo.config, clock=repo.clock)
    return _members(found), list(_others(repo, found))


def _others(repo: Repository, found: key_access.Access) -> Iterator[Other]:
    for key, bad in found.damage.items():
        kind, name = _said(repo, key)
        yield Other(
            object=key, state=State.DAMAGED, kind=kind, name=name, why=bad.message, mend=MEND_KEY
        )
    for key, bad in found.statements.damage.items():
        yield Other(
            object=key,
            state=State.DAMAGED,
            kind="revocation",
            name=None,
            why=bad.message,
            mend=hints.MEND_REVOCATION,
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


def _members(found: key_access.Access) -> list[KeyHolder]:
    newest: dict[str, HeldKey] = {}
    for one in found.held:
        if one.id not in newest or newest[one.id].epoch < one.epoch:
            newest[one.id] = one
    out = [
        KeyHolder(
            object=one.key,
            state=_state(one),
            id=one.id,
            kind=one.kind,
            name=str(one.body.get("name", "")),
            curve=one.body.get("curve"),
            epoch=one.epoch,
            opens=one.kind in recipient.OPENING
            and _state(one) is State.SOUND
            and one.epoch == found.authority.newest.epoch,
            carried=recipient.can_be_carried(one.body),
            revoked=found.revoked.get(one.id),
        )
        for one in newest.values()
    ]
    return sorted(out, key=lambda m: (m.kind, m.name, m.id))


def _state(one: HeldKey) -> State:
    known = one.kind in (*recipient.OPENING, WRITER) and one.body.get("format") in _FORMATS
    return State.SOUND if known else State.NEWER


def add_passphrase(
    repo: Repository, said: str, *, name: str, kdf: Kdf | None = None
) -> signed.Body:
    repo.keys.require_root()
    keys, name = repo.keys, signed.text(name, what="the name")
    if keys.epoch == FIRST_EPOCH:
        body = recipient.passphrase(
            keys.root,
            said,
            suite=keys.suite,
            repository=keys.repository,
            kdf=kdf or Kdf(),
            name=name,
        )
        return _put(repo, body)
    who = recipient.passphrase_later(
        said, suite=keys.suite, repository=keys.repository, kdf=kdf or Kdf(), name=name
    )
    return _put(repo, _wrapped(repo, who))


def add_key(repo: Repository, *, curve: str, public: bytes, name: str) -> signed.Body:
    """`curve` is the kind: x25519 or sm2. Raises Damage for what is no public key."""
    repo.keys.require_root()
    name = signed.text(name, what="the name")
    who = recipient.keyed(curve, curve_name=curve, public=public, name=name)
    return _put(repo, _wrapped(repo, who))


def add_escrow(repo: Repository, *, threshold: int, shares: int, name: str) -> list[str]:
    """A recipient whose private key is nowhere but in the words that come back, one string a share. They are
    not stored: whoever calls prints them once."""
    from backup.crypto import escrow  # noqa: PLC0415 — word lists are slow to load

    repo.keys.require_root()
    name = signed.text(name, what="the name")
    mine = Identity.new(of_suite(repo.config.suite).name)
    words = escrow.split(mine.private, threshold=threshold, shares=shares)
    who = recipient.keyed(ESCROW, curve_name=mine.curve, public=mine.public, name=name)
    who["escrow"] = {"threshold": threshold, "shares": shares}
    _put(repo, _wrapped(repo, who))
    return words


def add_host(repo: Repository, *, name: str, file: Path | None = None) -> HostKey:
    """A certificate for a machine that may write and not read. The key is for that machine alone; with `file` it is
    saved before anybody is asked to trust it."""
    repo.keys.require_root()
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


def find(repo: Repository, id_: str) -> KeyHolder:
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
    repo.keys.require_root()
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


def _why_not_until(who: KeyHolder, newest: int, until: int) -> str | None:
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
        for key, data in revocation.state(repo.keys, said):
            repo.create(key, data)
    return done


def to_carry(
    found: key_access.Access, *, epoch: int
) -> tuple[list[HeldKey], list[HeldKey], list[HeldKey]]:
    """Who goes along to the next epoch: recipients, hosts, and recipients that cannot without their secret."""
    alive = [h for h in found.held if h.epoch == epoch and h.id not in found.revoked]
    hosts = [h for h in alive if h.kind == WRITER]
    opening = [h for h in alive if h.kind in recipient.OPENING]
    along = [h for h in opening if recipient.can_be_carried(h.body)]
    return along, hosts, [h for h in opening if not recipient.can_be_carried(h.body)]


def _wrapped(repo: Repository, who: signed.Body) -> signed.Body:
    keys = repo.keys
    return recipient.wrapped(
        keys.root, who, suite=keys.suite, repository=keys.repository, epoch=keys.epoch
    )


def _put(repo: Repository, body: signed.Body) -> signed.Body:
    repo.keys.require_root()
    data = signed.sign("key", body, repo.keys.signer)
    key = f"{key_access.KEYS}{repo.keys.suite.digest(data)}"
    repo.create(key, data)
    return body
