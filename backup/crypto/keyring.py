"""Derives the keys that seal from a root of 32 random bytes.

Each epoch has its own root. Recipients (`backup.format.recipient`) wrap the newest, and the newest
leads to the ones before it (`backup.format.epoch`).
"""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from backup.crypto.kem import of_suite
from backup.crypto.suite import MAC_KEY_BYTES, Suite
from backup.crypto.trust import FIRST_EPOCH, Authority, KeyEpoch
from zaibei.kernel.errors import Damage

ROOT_BYTES: Final = 32
REPOSITORY_BYTES: Final = 16
SALT_BYTES: Final = 32
MODE_MAX: Final = 3  # of a sealed object: 0 the root's, 1 x25519, 2 and 3 sm2
# What a key object may ask for: whoever can write one must not be able to hang whoever opens the repository.
_MEMORY_KIB_MAX = 4 << 20
_ITERATIONS_MAX = 64
_LANES_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Kdf:
    """Argon2id (RFC 9106). The default takes a third of a second and 64 MiB."""

    memory_kib: int = 64 << 10
    iterations: int = 3
    lanes: int = 4

    def stretch(self, passphrase: str, salt: bytes, length: int) -> bytes:
        """Raises Damage when the cost is none that a key object may ask for."""
        for asked, most, what in (
            (self.memory_kib, _MEMORY_KIB_MAX, "KiB of memory"),
            (self.iterations, _ITERATIONS_MAX, "iterations"),
            (self.lanes, _LANES_MAX, "lanes"),
        ):
            if not 0 < asked <= most:
                raise Damage(
                    f"a key object asks for {asked} {what} of Argon2id; 1 to {most} may be"
                )
        return Argon2id(
            salt=salt,
            length=length,
            iterations=self.iterations,
            lanes=self.lanes,
            memory_cost=self.memory_kib,
        ).derive(passphrase.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What one root gives."""

    number: int
    root: bytes = field(repr=False)
    data: bytes = field(repr=False)
    box: bytes = field(repr=False)  # private; write-only hosts seal to its public half
    signer: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def of_root(cls, root: bytes, *, suite: Suite, repository: bytes, number: int) -> "Epoch":
        def derived(purpose: str, length: int) -> bytes:
            return derive(root, purpose, length, suite=suite, repository=repository, epoch=number)

        return cls(
            number=number,
            root=root,
            data=derived("data", 32),
            box=of_suite(suite.name).private(derived("box", 48)),
            signer=Ed25519PrivateKey.from_private_bytes(derived("sign", 32)),
        )

    @property
    def public(self) -> bytes:
        return self.signer.public_key().public_bytes_raw()


def derive(
    root: bytes, purpose: str, length: int, *, suite: Suite, repository: bytes, epoch: int
) -> bytes:
    info = f"zaibei/{purpose}/epoch={epoch}".encode()
    return suite.derive(root, salt=repository, info=info, length=length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """What a process that may read and write holds. It seals in the newest epoch and opens any. Ids do not
    change with the epoch: a blob stays the blob it was, also after a rotation."""

    suite: Suite
    repository: bytes
    id: bytes = field(repr=False)
    epochs: Mapping[int, Epoch]
    authority: Authority

    @classmethod
    def of_root(cls, root: bytes, *, suite: Suite, repository: bytes) -> "Keyring":
        """Of a repository that was never rotated."""
        first = Epoch.of_root(root, suite=suite, repository=repository, number=FIRST_EPOCH)
        reign = KeyEpoch(epoch=FIRST_EPOCH, signer=first.public)
        authority = Authority(repository=repository, reigns=(reign,))
        return cls.of_newest(first, suite=suite, authority=authority)

    @classmethod
    def of_newest(cls, newest: Epoch, *, suite: Suite, authority: Authority) -> "Keyring":
        """Only good to open what leads to the others, unless there is one epoch."""
        return cls._of({newest.number: newest}, newest, suite=suite, authority=authority)

    @classmethod
    def of_epochs(cls, epochs: Iterable[Epoch], *, suite: Suite, authority: Authority) -> "Keyring":
        held = {e.number: e for e in epochs}
        assert sorted(held) == [r.epoch for r in authority.reigns], "a root for every epoch"
        return cls._of(held, held[FIRST_EPOCH], suite=suite, authority=authority)

    @classmethod
    def _of(
        cls, held: dict[int, Epoch], stable: Epoch, *, suite: Suite, authority: Authority
    ) -> "Keyring":
        id_ = derive(
            stable.root,
            "id",
            MAC_KEY_BYTES,
            suite=suite,
            repository=authority.repository,
            epoch=stable.number,
        )
        return cls(
            suite=suite,
            repository=authority.repository,
            id=id_,
            epochs=held,
            authority=authority,
        )

    @property
    def epoch(self) -> int:
        return self.authority.newest.epoch

    @property
    def root(self) -> bytes:
        """The newest."""
        return self.epochs[self.epoch].root

    @property
    def signer(self) -> Ed25519PrivateKey:
        return self.epochs[self.epoch].signer

    def require_root(self) -> None:
        """Before anything is written that only the root may say: under a host's signature it is junk, and damage for
        everybody. Raises WriteOnly for a host's ring."""

    @property
    def writer(self) -> bytes | None:
        """The host's public key where a write-only host signs; None for who holds the root."""
        return None

    @property
    def public(self) -> bytes:
        return self.signer.public_key().public_bytes_raw()

    @property
    def box(self) -> bytes:
        """The public half that write-only hosts seal to."""
        return of_suite(self.suite.name).public(self.epochs[self.epoch].box)

    def blob_id(self, domain: bytes, data: bytes) -> bytes:
        return self.suite.mac(self.id, domain, data)

    @property
    def chunk(self) -> int:
        """The seed of content-defined cuts, 63 bits, never 0. It comes from the key of ids: who may name
        blobs may cut them, and both stay or go together, because a new one of either ends deduplication."""
        raw = self.suite.mac(self.id, b"chunk/seed", b"")
        return max(1, int.from_bytes(raw[:8]) >> 1)

    def fresh(self, hedge: bytes) -> tuple[int, bytes, bytes]:
        """Mode and salt of a new object's header, and the secret its key comes from."""
        salt = self.suite.mac(self.id, b"salt", secrets.token_bytes(SALT_BYTES) + hedge)
        return 0, salt, self.epochs[self.epoch].data

    def secret(self, mode: int, epoch: int, salt: bytes) -> bytes:
        """The same secret, for an object that exists. Raises Damage, NewerFormat."""
        held = self.epochs.get(epoch)
        if held is None:
            raise Damage(
                f"sealed in epoch {epoch}, of which no key is here",
                hint="the vault withholds a rotation, or the object is not of this repository",
            )
        if mode == 0:
            return held.data
        if mode > MODE_MAX:
            # Nothing vouches for this byte: it may have flipped as well as be of a later format.
            raise Damage(f"sealed in mode {mode}", hint="damaged, or written by a newer zaibei")
        return of_suite(self.suite.name).agreed(mode, salt, held.box)


def new_root() -> bytes:
    return secrets.token_bytes(ROOT_BYTES)
