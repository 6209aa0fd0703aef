"""Rotates the root key: wraps a new one for every recipient that has not been revoked.

Signatures made later with the old keys are rejected. It may die at any call and be started again.
What was sealed before stays readable; `backup.keys.reseal` re-encrypts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from backup.crypto import signed
from backup.crypto.keyring import Epoch, Kdf, Keyring, new_root
from backup.crypto.trust import Authority, KeyEpoch, Settled
from backup.errors import WrongKey
from backup.format import epoch as epoch_format
from backup.format import forget_statement, mark, recipient, snapshot
from backup.keys import recipients as members
from backup.keys.reseal import put_snapshot
from backup.repository import access as key_access
from backup.repository.access import read_access
from backup.repository.repository import Repository
from zaibei.kernel.errors import Busy, Damage, Refused

STATEMENTS: Final = (forget_statement.PREFIX, mark.PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """`repository` seals in the new epoch. `dropped`: recipients that could not come along. `unread`: revocations that
    could not be read, and what is wrong: whom they let out came along."""

    repository: Repository
    epoch: int
    carried: int
    hosts: int
    dropped: tuple[str, ...]
    unread: tuple[str, ...]


def begin(
    repo: Repository,
    *,
    why: str,
    passphrases: Sequence[str] = (),
    kdf: Kdf | None = None,
) -> Begun:
    """`passphrases`: of recipients without a public half, who else drop out. Raises Refused when nobody could
    open the next epoch, Busy when another rotation was first.

    The keys go first: until the epoch is announced they are nothing, and then everybody's is there.
    """
    repo.keys.require_root()
    signed.text(why, what="--why")
    found = read_access(repo.store, repo.config, clock=repo.clock)
    old = repo.keys
    if found.authority.newest.epoch != old.epoch:
        raise Busy(f"{repo.name}: the keys were rotated meanwhile", hint="open it again")
    along, hosts, stranded = members.to_carry(found, epoch=old.epoch)
    who = [h.body for h in along]
    dropped = []
    for one in stranded:
        said = _opens(one.body, passphrases, old)
        if said is None:
            dropped.append(str(one.body.get("name") or one.id))
            continue
        who.append(
            recipient.passphrase_later(
                said,
                suite=old.suite,
                repository=old.repository,
                kdf=kdf or Kdf(),
                name=str(one.body.get("name", "")),
            )
        )
    if not who:
        raise Refused(
            f"{repo.name}: nobody could open the next epoch",
            hint="give the passphrase again, or let in somebody with a key: zaibei backup key add",
        )
    new = _next(old, found.authority)
    bodies = [
        recipient.wrapped(
            new.root, body, suite=new.suite, repository=new.repository, epoch=new.epoch
        )
        for body in who
    ]
    bodies += [{**h.body, "epoch": new.epoch} for h in hosts]
    for body in bodies:
        data = signed.sign("key", body, new.signer)
        repo.create(f"{key_access.KEYS}{new.suite.digest(data)}", data)
    settled = Settled(snapshots=max(repo.present(), default=0), statements=_statements(repo))
    data = epoch_format.encode(old, new, settled=settled, why=why, at=repo.clock.now().isoformat())
    if not repo.create_if_absent(epoch_format.key_of(new.epoch), data):
        raise Busy(f"{repo.name}: another rotation was first", hint="open the repository again")
    ring = _announced(old, new, data)
    rotated = replace(repo, keys=ring)
    _take_in_late(repo, rotated, after=settled.snapshots)
    return Begun(
        repository=rotated,
        epoch=ring.epoch,
        carried=len(who),
        hosts=len(hosts),
        dropped=tuple(dropped),
        unread=unread_in(found),
    )


def unread_in(found: key_access.Access) -> tuple[str, ...]:
    return tuple(bad.message for bad in found.statements.damage.values())


def _next(old: Keyring, authority: Authority) -> Keyring:
    number = old.epoch + 1
    one = Epoch.of_root(new_root(), suite=old.suite, repository=old.repository, number=number)
    reign = KeyEpoch(epoch=number, signer=one.public)
    return Keyring.of_epochs(
        [*old.epochs.values(), one],
        suite=old.suite,
        authority=replace(authority, reigns=(*authority.reigns, reign)),
    )


def _announced(old: Keyring, new: Keyring, data: bytes) -> Keyring:
    """`new` as everybody sees it from now on."""
    before = new.authority.reigns[:-1]
    reign = epoch_format.decode(data, before=before[-1], repository=old.repository, suite=old.suite)
    return replace(new, authority=replace(new.authority, reigns=(*before, reign)))


def _opens(body: signed.Body, passphrases: Sequence[str], keys: Keyring) -> str | None:
    for said in passphrases:
        try:
            recipient.unwrap(body, said, suite=keys.suite)
        except WrongKey:
            continue
        return said
    return None


def _statements(repo: Repository) -> dict[str, str]:
    """What the old signer had said: what it says later is not believed."""
    found = read_access(repo.store, repo.config, clock=repo.clock)
    certificates = [h.key for h in found.held if h.kind == recipient.WRITER]
    said = [s.key for prefix in STATEMENTS for s in repo.listed(prefix)]
    # Of revocations only what was read: whoever is left behind for one that is lost later must have been.
    said += sorted(found.statements.whole)
    return {key: repo.keys.suite.digest(repo.read(key)) for key in (*said, *certificates)}


def _take_in_late(old: Repository, new: Repository, *, after: int) -> None:
    """A run that committed between our look at the snapshots and the announcement meant well: the new signer
    vouches for it. Only now: what the old keys sign later may be a thief's."""
    for sequence in old.present():
        if sequence > after:
            data = old.read(snapshot.key_of(sequence))
            try:
                snapshot.decode(old.keys, data, sequence=sequence)
            except Damage:
                continue
            put_snapshot(new, sequence, data)
