"""A repository in a vault: made once, opened with a passphrase, read in one direction.

Write order: packs → index segment → snapshot. Read order is the reverse: snapshots are listed before the
index is read, so everything that a listed snapshot needs is in the index that is read after.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

from backup import (
    epochs,
    forgotten,
    names,
    recipients,
    remains,
    resealed,
    signed,
    snapshot,
    unlock,
    unread,
)
from backup import keys as keying
from backup.errors import NewerFormat, NotARepository, Taken, UnknownHost
from backup.forgotten import Forgotten, Link
from backup.keys import Kdf, Keyring
from backup.pack import key_of
from backup.recipients import Secret
from backup.seal import Kind
from backup.snapshot import Snapshot
from backup.suite import IDS_OF_NEW, suite
from backup.vault import ATTEMPTS, Vault, retry
from infra.objectstore.contract import AlreadyThere, NotThere, ObjectStore, Stat
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Busy, Damage, Refused

__all__ = [
    "ATTEMPTS", "CONFIG", "Config", "Repository", "access", "create_repository", "open_repository", "read_config", "retry",
]  # fmt: skip

if TYPE_CHECKING:
    from backup.index import Catalogue, Held, Segment

FORMAT: Final = 1
CONFIG: Final = "config"
T = TypeVar("T")
_OBJECT_BYTES_MAX = 256 << 20
_NO_TIP: Final = (
    "zaibei backup repair states what it was, or that it is lost, and the next run goes on after it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    repository: bytes
    suite: str
    signer: bytes
    created: str
    ids: str = ""  # how the suite names blobs; "" for its first way


@dataclass(frozen=True, slots=True)
class Repository:
    store: ObjectStore
    config: Config
    keys: Keyring
    clock: Clock

    @property
    def name(self) -> str:
        return self.store.name

    def read(self, key: str) -> bytes:
        return Vault(self.store, self.clock).read(key)

    def listed(self, prefix: str) -> list[Stat]:
        return Vault(self.store, self.clock).listed(prefix)

    def forgotten(self, damaged: unread.Damaged | None = None) -> dict[int, Forgotten]:
        """What the signed statements take out of the repository, by sequence. Without `damaged` the first that
        cannot be read raises: for who removes. With it, its snapshots count as not forgotten."""
        return unread.statements(self, damaged)

    def present(self) -> list[int]:
        """Snapshots that are there, forgotten or not; after a rotation perhaps only sealed anew. No strays."""
        from backup import strays  # noqa: PLC0415

        return strays.split(self, [*snapshot.numbers(self.named(snapshot.PREFIX))])[0]

    def named(self, prefix: str) -> list[Stat]:
        """`listed`, where what was sealed anew stands for an original that is gone. In key order."""
        return resealed.named(self, prefix)

    def sequences(self) -> list[int]:
        """Those that are there and not forgotten."""
        # Before the statements: an object is removed long after its statement, so a hole seen here is
        # explained there.
        present = self.present()
        gone = self.forgotten(unread.Told(self))
        return [s for s in present if s not in gone]

    def snapshots(self) -> list[Snapshot]:
        """All that are not forgotten, oldest first, each link of the chain checked. A hole is damage unless
        a statement explains it, or one that cannot be read may do so: then it is told."""
        from backup.which import opening  # noqa: PLC0415 - it imports us

        present = self.present()
        lost = unread.Told(self)
        gone = self.forgotten(lost)
        held = {s: opening(self, s) for s in present if s not in gone}
        links = {s: f.link for s, f in gone.items()} | {s: o.link for s, o in held.items()}
        forgotten.check_chain(
            [links[s] for s in sorted(links)], name=self.name, hole=lost.hole if lost.keys else None
        )
        return [held[s] for s in sorted(held)]

    def snapshot(self, sequence: int) -> Snapshot:
        """Through a copy where the original does not open. Raises Damage when nothing does."""
        return resealed.snapshot_of(self, sequence).value

    def original(self, sequence: int) -> Snapshot:
        data = self.read(snapshot.key_of(sequence))
        return self._knowing(lambda keys: snapshot.decode(keys, data, sequence=sequence))

    def link(self, sequence: int) -> Link:
        """What everybody may know of a snapshot, also who cannot open it."""

        def original() -> Link:
            data = self.read(snapshot.key_of(sequence))
            return self._knowing(lambda keys: snapshot.link_of(keys, data, sequence=sequence))

        return resealed.link_of(self, sequence, original)

    def _knowing(self, check: Callable[[Keyring], T]) -> T:
        try:
            return check(self.keys)
        except UnknownHost:
            # It may have got its certificate after this repository was opened.
            found = access(self.store, self.config, clock=self.clock).authority
            authority = replace(self.keys.authority, hosts=found.hosts)
            return check(replace(self.keys, authority=authority))

    def not_rotated(self) -> None:
        """Raises Busy when the keys that were opened are not the newest any more."""
        if len(self.listed(epochs.PREFIX)) >= self.keys.epoch:
            raise Busy(
                f"{self.name}: the keys were rotated meanwhile",
                hint="run it again: what it wrote is found, not written twice",
            )

    def opened(self, kind: Kind, key: str) -> bytes:
        """What was sealed whole under `key`, or once more after a rotation."""
        return resealed.opened(self, kind, key).value

    def tip(self) -> Link | None:
        """The end of the chain, forgotten or not: what the next snapshot follows. Reads one snapshot."""
        present = self.present()
        gone = self.forgotten(unread.Told(self))
        newest = max((*present, *gone), default=None)
        if newest is None:
            return None
        try:
            link = gone[newest].link if newest in gone else self.link(newest)
        except Damage as bad:
            bad.hints = (*bad.hints, _NO_TIP)
            raise
        if link.digest is None:
            raise Damage(f"{self.name}: nobody knows what snapshot {newest} was", hint=_NO_TIP)
        return link

    def find(self, which: str, *, kind: str | None = None) -> Snapshot:
        """`latest` or a number. The newest may be incomplete: its content says so."""
        from backup.which import find  # noqa: PLC0415 - it imports us

        return find(self, which, kind=kind)

    def catalogue(
        self,
        *,
        without: frozenset[str] = frozenset(),
        damaged: Callable[[str, Damage], None] | None = None,
    ) -> "Catalogue":
        """Every index segment, read now, but for packs that are not to be relied on. The caller closes it.

        `damaged` as in `segments`: for who stores again, or misses loudly, what a bad segment names. Never
        for who deletes.
        """
        from backup import loading  # noqa: PLC0415 - it takes as long to import as a key to derive

        return loading.catalogue(self, without=without, damaged=damaged)

    def segments(self, damaged: Callable[[str, Damage], None] | None = None) -> "Iterator[Segment]":
        """Each index segment, a few read ahead. Without `damaged` the first bad one raises. One that is
        marked is no loss: others name what it names."""
        from backup import loading  # noqa: PLC0415

        return loading.segments(self, damaged)

    def write_segment(self, packs: "Sequence[Held]", *, retain_until: datetime | None) -> int:
        """Packs that are in the vault get their names in the index. Its size."""
        from backup.index import encode_segment  # noqa: PLC0415

        name, sealed = encode_segment(self.keys, packs)
        self.create(f"index/{name}", sealed, retain_until=retain_until)
        return len(sealed)

    def rebuilt_catalogue(
        self, damaged: Callable[[str, Damage], None] | None = None
    ) -> "Catalogue":
        """The same from the packs' own trailers, when segments are lost or damaged: two small reads a pack.
        Without `damaged` the first pack that does not tell raises."""
        from backup import loading  # noqa: PLC0415

        return loading.rebuilt(self, damaged)

    def read_pack(self, name: str, size_bytes: int) -> bytes:
        if size_bytes > _OBJECT_BYTES_MAX:
            raise Damage(f"{self.name}: pack {name} claims {size_bytes} bytes")
        data = self.read(key_of(name))
        if len(data) != size_bytes:
            raise Damage(
                f"{self.name}: pack {name} has {len(data)} bytes and should have {size_bytes}"
            )
        return data

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> None:
        """Write-once, safe to repeat: the same bytes already there are success."""
        if not self.won(key, data, retain_until=retain_until):
            raise Damage(
                f"{self.name}: {key} is there with other bytes",
                hint="another writer, or a damaged object of an earlier run",
            )

    def won(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> bool:
        """`create`, where losing to another writer is an answer: False.

        The store is asked again whether it has what it acknowledged, while the bytes are still at hand:
        an index segment over a lost pack would make every later run rely on it.
        """
        if retain_until is None and key.startswith(names.ALWAYS):
            retain_until = self._as_config()
        for _ in range(ATTEMPTS):
            try:
                retry(self.clock, lambda: self.store.create(key, data, retain_until=retain_until))
            except AlreadyThere:
                return self.read(key) == data
            if self._kept(key, len(data), retain_until):
                return True
        raise Damage(
            f"{self.name}: {key} was acknowledged {ATTEMPTS} times and is not there",
            hint="this store loses what it acknowledges: do not use it as a vault",
        )

    def _as_config(self) -> datetime | None:
        """What opens the repository and explains its chain is locked as long as its config: each locked run extends
        them together, and a statement that came after it must not be the one that can be taken away."""
        try:
            end = retry(self.clock, lambda: self.store.stat(CONFIG)).retain_until
        except NotThere:
            return None
        return end if end is not None and end > retry(self.clock, self.store.now) else None

    def _kept(self, key: str, size_bytes: int, retain_until: datetime | None) -> bool:
        try:
            found = retry(self.clock, lambda: self.store.stat(key))
        except NotThere:
            return False
        if found.size_bytes != size_bytes:
            raise Damage(f"{self.name}: {key} has {found.size_bytes} of {size_bytes} bytes")
        held = found.retain_until
        if retain_until is not None and (
            held is None or held < retain_until.replace(microsecond=0)
        ):
            raise Refused(
                f"{self.name}: {key} was taken with a lock and has none",
                hint=(
                    "this store does not keep its locks: zaibei store probe --role vault",
                    "or this identity may not see them: it needs s3:GetObjectRetention",
                ),
            )
        return True


def create_repository(
    store: ObjectStore,
    passphrase: str,
    *,
    clock: Clock,
    suite_name: str = "intl",
    kdf: Kdf | None = None,
    retain_until: datetime | None = None,
) -> Repository:
    """Raises Taken when there is one, Damage when there was. The key object goes first: without `config` there is
    nothing to open, so a crash between the two leaves only a stray key, which the next `init` does not mind."""
    with suppress(NotThere):
        retry(clock, lambda: store.stat(CONFIG))
        raise Taken(
            f"{store.name}: there is a repository already",
            hint="choose another prefix or directory",
        )
    remains.demand_none(store, clock=clock)
    chosen = suite(suite_name, IDS_OF_NEW.get(suite_name, ""))
    repository = secrets.token_bytes(keying.REPOSITORY_BYTES)
    root = keying.new_root()
    ring = Keyring.of_root(root, suite=chosen, repository=repository)
    recipient = recipients.passphrase(
        root, passphrase, suite=chosen, repository=repository, kdf=kdf or Kdf()
    )
    config = Config(
        repository=repository,
        suite=chosen.name,
        signer=ring.public,
        created=clock.now().isoformat(),
        ids=chosen.ids,
    )
    one = Repository(store, config, ring, clock)
    key = signed.sign("key", recipient, ring.signer)
    where = f"keys/{chosen.digest(key)}"
    one.create(where, key, retain_until=retain_until)
    _demand_write_once(one, where, key)
    body = {"format": FORMAT, "repository": repository.hex(), "suite": config.suite}
    body |= {"signer": config.signer.hex(), "created": config.created}
    body |= {"ids": config.ids} if config.ids else {}
    one.create(CONFIG, signed.sign("config", body, ring.signer), retain_until=retain_until)
    return one


def _demand_write_once(repo: Repository, key: str, data: bytes) -> None:
    """A store that ignores If-None-Match lets one writer undo another, and says 200 to both. Found out here,
    before there is a repository to lose."""
    with suppress(AlreadyThere):
        retry(repo.clock, lambda: repo.store.create(key, b"a second writer"))
        raise Refused(
            f"{repo.name}: it overwrites what must be created once; no repository was made",
            hint="zaibei store probe --role vault tells what else it does not keep",
        )
    if repo.read(key) != data:
        raise Refused(f"{repo.name}: refused a second writer and kept its bytes all the same")


def read_config(store: ObjectStore, *, clock: Clock) -> Config:
    try:
        raw = retry(clock, lambda: store.read(CONFIG))
    except NotThere as none:
        remains.demand_none(store, clock=clock)
        raise NotARepository(
            f"{store.name}: no repository here",
            hint=(
                "zaibei backup init makes one",
                "if there was one: --as-of TIME shows the vault as it was then",
            ),
        ) from none
    try:
        body, signature = signed.parse(raw, what=f"{store.name}: config")
        signer = bytes.fromhex(body["signer"])
        signed.check("config", body, signature, signer, what=f"{store.name}: config")
        # After the signature: a flipped bit in the number is damage, not a newer format.
        if body["format"] != FORMAT:
            raise NewerFormat(
                f"{store.name}: format {body['format']}; this zaibei reads {FORMAT}",
                hint="use a newer zaibei",
            )
        return Config(
            repository=bytes.fromhex(body["repository"]),
            suite=body["suite"],
            signer=signer,
            created=body["created"],
            ids=str(body.get("ids", "")),
        )
    except (KeyError, TypeError, ValueError) as bad:
        raise Damage(f"{store.name}: config lacks a field", hint=remains.LOST_CONFIG) from bad
    except Damage as bad:
        raise Damage(bad.message, hint=remains.LOST_CONFIG) from bad


def open_repository(store: ObjectStore, secret: Secret, *, clock: Clock) -> Repository:
    """With a passphrase or a private key. Raises WrongKey, Damage, NewerFormat, NotARepository."""
    config = read_config(store, clock=clock)
    chosen = suite(config.suite, config.ids)
    found = access(store, config, clock=clock)
    ring = unlock.keyring(Vault(store, clock), found, secret, suite=chosen)
    return Repository(store, config, ring, clock)


def access(store: ObjectStore, config: Config, *, clock: Clock) -> unlock.Access:
    """Who may open and who may write, without any secret."""
    return unlock.access(
        Vault(store, clock),
        signer=config.signer,
        repository=config.repository,
        suite=suite(config.suite, config.ids),
    )
