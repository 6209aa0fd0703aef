"""Decides whose signature is valid for what, from `config`, `epochs/`, `keys/` and `revoked/`.
Needs no secret.

Each epoch has a signer. When the next epoch begins, everything the old signer signed until then is
recorded (`Settled`). Anything it signs later is rejected: a retired key may have been stolen.
"""

from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from backup.crypto import signed
from backup.errors import NewerFormat, Retired, UnknownHost
from zaibei.kernel.errors import Damage

FIRST_EPOCH: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What older signers are believed for. `snapshots`: the last sequence, 0 when there was none."""

    snapshots: int
    statements: dict[str, str]  # key -> digest


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEpoch:
    """One epoch, as everybody can see it. `box`: the public half that write-only hosts seal to; None for the first
    epoch, where `config` does not say it."""

    epoch: int
    signer: bytes
    box: bytes | None = None
    settled: Settled | None = None
    digest: str | None = None  # of the object that announced it


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A write-only host: its certificate, and until which snapshot it is believed (None: no end)."""

    name: str
    public: bytes
    until: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    repository: bytes
    reigns: tuple[KeyEpoch, ...]  # oldest first
    hosts: dict[bytes, Host] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert [r.epoch for r in self.reigns] == list(
            range(FIRST_EPOCH, FIRST_EPOCH + len(self.reigns))
        )

    @property
    def newest(self) -> KeyEpoch:
        return self.reigns[-1]

    def check(
        self, document: str, body: signed.Body, signature: bytes, *, key: str, digest: str
    ) -> None:
        """A statement under `key`. Raises Retired for one that an old signer made after its time, Damage for any
        other that nobody with a right to signed."""
        epoch = self._signer_of(document, body, signature, what=key)
        if epoch == self.newest.epoch:
            return
        settled = self.reigns[epoch].settled  # of the epoch after
        assert settled is not None, "every epoch after the first says what it found"
        if settled.statements.get(key) != digest:
            raise Retired(f"{key}: signed with the keys of epoch {epoch}, after they were retired")

    def opened(self, document: str, data: bytes, *, key: str, digest: str) -> signed.Body:
        """The body of a statement whose name ends in the digest of its bytes. Raises what `check` raises, and
        NewerFormat."""
        if key.rpartition("/")[2] != digest:
            raise Damage(f"{key}: its bytes do not have its name")
        body, signature = signed.parse(data, what=key)
        self.check(document, body, signature, key=key, digest=digest)
        if body.get("format") != 1:
            raise NewerFormat(f"{key}: format {body.get('format')}", hint="use a newer zaibei")
        return body

    def check_snapshot(
        self, document: str, body: signed.Body, signature: bytes, *, sequence: int, what: str
    ) -> None:
        if "writer" in body:
            self._check_host(document, body, signature, sequence=sequence, what=what)
            return
        epoch = self._signer_of(document, body, signature, what=what)
        if epoch == self.newest.epoch:
            return
        settled = self.reigns[epoch].settled
        assert settled is not None, "every epoch after the first says what it found"
        if sequence > settled.snapshots:
            raise Retired(
                f"{what}: signed with the keys of epoch {epoch}, after they were retired",
                hint="a run that had begun before the rotation, or somebody with the old keys",
            )

    def _check_host(
        self, document: str, body: signed.Body, signature: bytes, *, sequence: int, what: str
    ) -> None:
        try:
            public = bytes.fromhex(body["writer"])
        except (TypeError, ValueError) as bad:
            raise Damage(f"{what}: names no host") from bad
        host = self.hosts.get(public)
        if host is None:
            raise UnknownHost(f"{what}: written by a host without a certificate")
        signed.check(document, body, signature, public, what=what)
        if host.until is not None and sequence > host.until:
            raise Retired(
                f"{what}: written by {host.name!r} after its certificate was revoked",
                hint="zaibei backup key list shows who may write",
            )

    def _signer_of(self, document: str, body: signed.Body, signature: bytes, *, what: str) -> int:
        message = signed.message(document, body)
        for reign in reversed(self.reigns):
            try:
                Ed25519PublicKey.from_public_bytes(reign.signer).verify(signature, message)
            except (InvalidSignature, ValueError):
                continue
            return reign.epoch
        raise Damage(f"{what}: the signature does not fit")
