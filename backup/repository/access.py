"""Opens a keyring: `config` → the chain of epochs → a key object that the secret opens → the roots,
newest first.

What a vault shows without any secret is here too: `authority`. A damaged key object is reported but
does not block other recipients.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from backup.crypto import signed
from backup.crypto.identity import Secret
from backup.crypto.keyring import Epoch, Keyring
from backup.crypto.suite import Suite, suite
from backup.crypto.trust import FIRST_EPOCH, Authority, Host, KeyEpoch
from backup.errors import NewerFormat, Retired, WrongKey
from backup.format import epoch as epoch_format
from backup.format import recipient, revocation
from backup.format.config import Config
from backup.format.revocation import PREFIX, Revocation, _claim, _decode
from backup.repository import unreadable
from backup.repository.vault import Vault
from infra.objectstore.contract import ObjectStore, Stat
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage

KEYS: Final = "keys/"
# Without it nobody knows which keys are retired, so there is no going on as if it were not there.
_NO_EPOCH: Final = (
    "damaged, or left by somebody who may write: --as-of TIME reads the vault as it was, or use the other vault",
    "if the keys were never rotated to it: remove that object, as who may delete",
)


class Shelf(Protocol):
    """What opening needs of a vault."""

    @property
    def name(self) -> str: ...

    def read(self, key: str) -> bytes: ...

    def listed(self, prefix: str) -> list[Stat]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldKey:
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
class Stranger:
    """What is whole under `keys/` and lets nobody in here. `body` is what it says of itself, vouched for by nobody."""

    body: signed.Body
    why: str


def reigns(shelf: Shelf, *, signer: bytes, repository: bytes, suite: Suite) -> tuple[KeyEpoch, ...]:
    """Every epoch, each signed by the one before. Raises Damage for a hole."""
    out = [KeyEpoch(epoch=FIRST_EPOCH, signer=signer)]
    for stat in shelf.listed(epoch_format.PREFIX):
        number = epoch_format.number_of(stat.key)
        if number != out[-1].epoch + 1:
            raise Damage(f"{shelf.name}: epoch {out[-1].epoch + 1} is missing")
        try:
            data = shelf.read(stat.key)
            out.append(
                epoch_format.decode(data, before=out[-1], repository=repository, suite=suite)
            )
        except Damage as bad:
            raise Damage(f"{shelf.name}: {bad.message}", hint=_NO_EPOCH) from bad
    return tuple(out)


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
    if body.get("kind") == recipient.WRITER and epoch < authority.newest.epoch:
        # Who stole an old root can sign a certificate with it, but not date it back.
        try:
            authority.check("key", body, signature, key=key, digest=suite.digest(raw))
        except Retired:
            return body, f"signed with the keys of epoch {epoch}, after they were retired"
    return body, None


def read_access(store: ObjectStore, config: Config, *, clock: Clock) -> "Access":
    """Who may open and who may write, without any secret."""
    return access(
        Vault(store, clock),
        signer=config.signer,
        repository=config.repository,
        suite=suite(config.suite, config.ids),
    )


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


@dataclass(slots=True)
class Access:
    """What `keys/` and `revoked/` say. `damage`: keys that could not be read; `statements` has its own."""

    authority: Authority
    held: list[HeldKey] = field(default_factory=list)
    revoked: dict[str, Revocation] = field(default_factory=dict)
    statements: Statements = field(default_factory=Statements)
    damage: dict[str, Damage] = field(default_factory=dict)  # by key
    strangers: dict[str, "Stranger"] = field(default_factory=dict)  # by key


def access(shelf: Shelf, *, signer: bytes, repository: bytes, suite: Suite) -> Access:
    """Needs no secret. A damaged key object is told, and stops nobody whose own is whole; a damaged revocation stops
    nobody and lets nobody out."""
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
            out.held.append(HeldKey(key=stat.key, body=body))
    out.statements = read(shelf, out.authority, suite)
    for key, damage in out.statements.damage.items():
        unreadable.say(shelf.name, key, damage.message)
    newest = {one.id: one for one in sorted(out.held, key=lambda h: h.epoch)}
    out.revoked = out.statements.by_id | _left_behind(newest.values(), out)
    hosts = {}
    for one in newest.values():
        if one.kind == recipient.WRITER:
            gone = out.revoked.get(one.id)
            public = bytes.fromhex(one.body["public"])
            hosts[public] = Host(
                name=str(one.body["name"]), public=public, until=gone.until if gone else None
            )
    out.authority = Authority(repository=repository, reigns=chain, hosts=hosts)
    return out


def _left_behind(newest: Iterable[HeldKey], found: Access) -> dict[str, Revocation]:
    """Hosts that a rotation did not take along, where the statement why may be one that is lost: a certificate of an
    older epoch would let them in again."""
    said, reigns = found.statements, found.authority.reigns
    out = {}
    for one in newest:
        if one.kind != recipient.WRITER or one.id in said.by_id or one.epoch == len(reigns):
            continue
        settled = reigns[one.epoch].settled  # of the epoch after
        if settled is not None and said.lost(found.authority, epoch=one.epoch):
            out[one.id] = Revocation(
                id=one.id, until=settled.snapshots, why=revocation.LEFT_BEHIND, at=""
            )
    return out


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
    data = shelf.read(epoch_format.key_of(newest.epoch))
    if suite.digest(data) != newest.digest:
        raise Damage(f"{shelf.name}: {epoch_format.key_of(newest.epoch)} changed while it was read")
    before = epoch_format.older(data, ring, epoch=newest.epoch)
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
            return recipient.unwrap(one.body, secret, suite=suite)
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
            recipient.unwrap(one.body, secret, suite=suite)
        except (WrongKey, Damage, NewerFormat):
            continue
        gone = one.id in found.revoked
        raise WrongKey(
            f"{shelf.name}: this key opened epoch {one.epoch}; the keys were rotated since, and it"
            + (" was revoked" if gone else " was not carried along"),
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


def _openable(found: Access, epoch: int) -> Iterator[HeldKey]:
    return (o for o in found.held if o.epoch == epoch and o.kind != recipient.WRITER)


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
