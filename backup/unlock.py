"""From a secret to a keyring: `config` → the chain of epochs → a key object that the secret opens → the newest
root → the older ones. What a vault shows without any secret is here too: `authority`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from backup import epochs, recipients, signed
from backup.authority import FIRST_EPOCH, Authority, Host, Reign
from backup.errors import NewerFormat, Retired, WrongKey
from backup.keys import Epoch, Keyring
from backup.recipients import Secret
from backup.suite import Suite
from infra.objectstore.contract import Stat
from zaibei.kernel.errors import Damage

KEYS: Final = "keys/"
REVOKED: Final = "revoked/"
_REVOCATION = "revocation"


class Shelf(Protocol):
    """What opening needs of a vault."""

    @property
    def name(self) -> str: ...

    def read(self, key: str) -> bytes: ...

    def listed(self, prefix: str) -> list[Stat]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One object under `keys/`, its signature checked."""

    key: str
    body: signed.Body

    @property
    def epoch(self) -> int:
        return int(self.body["epoch"])

    @property
    def kind(self) -> str:
        return str(self.body.get("kind", ""))

    @property
    def id(self) -> str:
        """How people name a recipient; the same in every epoch that it is carried to."""
        return str(self.body.get("public") or self.key.removeprefix(KEYS))[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    id: str
    until: int  # the last snapshot that a host is believed for
    why: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """What is whole under `keys/` and lets nobody in here. `body` is what it says of itself, vouched for by nobody."""

    body: signed.Body
    why: str


@dataclass(slots=True)
class Access:
    """What `keys/` and `revoked/` say. `damage`: what could not be read."""

    authority: Authority
    held: list[Held] = field(default_factory=list)
    revoked: dict[str, Revocation] = field(default_factory=dict)
    damage: dict[str, Damage] = field(default_factory=dict)  # by key
    strangers: dict[str, "Stranger"] = field(default_factory=dict)  # by key


def reigns(shelf: Shelf, *, signer: bytes, repository: bytes, suite: Suite) -> tuple[Reign, ...]:
    """Every epoch, each signed by the one before. Raises Damage for a hole."""
    out = [Reign(epoch=FIRST_EPOCH, signer=signer)]
    for stat in shelf.listed(epochs.PREFIX):
        number = epochs.number_of(stat.key)
        if number != out[-1].epoch + 1:
            raise Damage(f"{shelf.name}: epoch {out[-1].epoch + 1} is missing")
        out.append(
            epochs.decode(shelf.read(stat.key), before=out[-1], repository=repository, suite=suite)
        )
    return tuple(out)


def access(shelf: Shelf, *, signer: bytes, repository: bytes, suite: Suite) -> Access:
    """Needs no secret. A damaged key object is told, and stops nobody whose own is whole."""
    chain = reigns(shelf, signer=signer, repository=repository, suite=suite)
    out = Access(Authority(repository=repository, reigns=chain))
    for stat in shelf.listed(KEYS):
        try:
            body, why = read_key(shelf, stat.key, out.authority, suite)
        except Damage as bad:
            out.damage[stat.key] = bad
            continue
        if why is not None:
            out.strangers[stat.key] = Stranger(body=body, why=why)
        else:
            out.held.append(Held(key=stat.key, body=body))
    for stat in shelf.listed(REVOKED):
        said = _revocation(shelf.read(stat.key), stat.key, out.authority, suite)
        if said.id not in out.revoked or said.until < out.revoked[said.id].until:
            out.revoked[said.id] = said
    hosts = {}
    for one in out.held:
        if one.kind != recipients.WRITER:
            continue
        gone = out.revoked.get(one.id)
        public = bytes.fromhex(one.body["public"])
        hosts[public] = Host(
            name=str(one.body["name"]), public=public, until=gone.until if gone else None
        )
    out.authority = Authority(repository=repository, reigns=chain, hosts=hosts)
    return out


def read_key(
    shelf: Shelf, key: str, authority: Authority, suite: Suite
) -> tuple[signed.Body, str | None]:
    """A recipient's body, and why it lets nobody in here: it is a stranger's, or what is left of an `init` or a
    rotation that died."""
    what = f"{shelf.name}: {key}"
    raw = shelf.read(key)
    if suite.digest(raw) != key.removeprefix(KEYS):
        raise Damage(f"{what}: its bytes do not have its name")
    body, signature = signed.parse(raw, what=what)
    epoch = body.get("epoch")
    if body.get("repository") != authority.repository.hex() or not isinstance(epoch, int):
        return body, "of another repository"
    if not FIRST_EPOCH <= epoch <= authority.newest.epoch:
        return body, f"of epoch {epoch}, which was never announced"
    try:
        signed.check("key", body, signature, authority.reigns[epoch - 1].signer, what=what)
    except Damage:
        if epoch == FIRST_EPOCH:
            raise
        return body, f"of a rotation to epoch {epoch} that another overtook"
    if body.get("kind") == recipients.WRITER and epoch < authority.newest.epoch:
        # Who stole an old root can sign a certificate with it, but not date it back.
        try:
            authority.check("key", body, signature, key=key, digest=suite.digest(raw))
        except Retired:
            return body, f"signed with the keys of epoch {epoch}, after they were retired"
    return body, None


def keyring(shelf: Shelf, found: Access, secret: Secret, *, suite: Suite) -> Keyring:
    """Raises WrongKey, Damage, NewerFormat. One good key object of the newest epoch is enough."""
    newest = found.authority.newest
    root = _root(shelf, found, secret, suite=suite)
    repository = found.authority.repository
    last = Epoch.of_root(root, suite=suite, repository=repository, number=newest.epoch)
    if last.public != newest.signer:
        raise Damage(f"{shelf.name}: config was signed by somebody else")
    ring = Keyring.of_newest(last, suite=suite, authority=found.authority)
    if newest.epoch == FIRST_EPOCH:
        return ring
    data = shelf.read(epochs.key_of(newest.epoch))
    if suite.digest(data) != newest.digest:
        raise Damage(f"{shelf.name}: {epochs.key_of(newest.epoch)} changed while it was read")
    before = epochs.older(data, ring, epoch=newest.epoch)
    for one, reign in zip(before, found.authority.reigns, strict=False):
        if one.public != reign.signer:
            raise Damage(f"{shelf.name}: the root of epoch {one.number} is not the one that signed")
    return Keyring.of_epochs([*before, last], suite=suite, authority=found.authority)


def _root(shelf: Shelf, found: Access, secret: Secret, *, suite: Suite) -> bytes:
    epoch = found.authority.newest.epoch
    why: list[Damage] = list(found.damage.values())
    newer: list[NewerFormat] = []
    for one in _openable(found, epoch):
        try:
            return recipients.unwrap(one.body, secret, suite=suite)
        except WrongKey:
            continue
        except Damage as bad:
            why.append(bad)
        except NewerFormat as unknown:
            newer.append(unknown)
    if why:
        raise why[0]
    for one in (o for e in range(epoch - 1, 0, -1) for o in _openable(found, e)):
        try:
            recipients.unwrap(one.body, secret, suite=suite)
        except (WrongKey, Damage, NewerFormat):
            continue
        revoked = one.id in found.revoked
        raise WrongKey(
            f"{shelf.name}: this key opened epoch {one.epoch}; the keys were rotated since, and it"
            + (" was revoked" if revoked else " was not carried along"),
            hint="another recipient can let it in again: zaibei backup key add",
        )
    if newer:
        raise newer[0]
    if not any(True for e in range(1, epoch + 1) for _ in _openable(found, e)):
        raise Damage(
            f"{shelf.name}: no key object is there that could open it",
            hint="the vault lost keys/: look for older versions with --as-of, or use the other vault",
        )
    raise WrongKey(
        f"{shelf.name}: the {'passphrase' if isinstance(secret, str) else 'private key'}"
        " opens none of the keys",
        hint="is it the right file?",
    )


def _openable(found: Access, epoch: int) -> Iterator[Held]:
    return (o for o in found.held if o.epoch == epoch and o.kind != recipients.WRITER)


def _revocation(data: bytes, key: str, authority: Authority, suite: Suite) -> Revocation:
    digest = suite.digest(data)
    if key != f"{REVOKED}{digest}":
        raise Damage(f"{key}: its bytes do not have its name")
    body, signature = signed.parse(data, what=key)
    authority.check(_REVOCATION, body, signature, key=key, digest=digest)
    if body.get("format") != 1:
        raise NewerFormat(f"{key}: format {body.get('format')}", hint="use a newer zaibei")
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


def revocation(ring: Keyring, said: Revocation) -> tuple[str, bytes]:
    """Key and bytes of a new statement."""
    body: signed.Body = {
        "format": 1,
        "repository": ring.repository.hex(),
        "id": said.id,
        "until": said.until,
        "why": said.why,
        "at": said.at,
    }
    data = signed.sign(_REVOCATION, body, ring.signer)
    return f"{REVOKED}{ring.suite.digest(data)}", data
