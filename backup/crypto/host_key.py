"""The key file of a write-only host, and how such a host seals objects that it cannot open.

A host holds the key for blob ids, the public half of the repository's newest epoch, and a signing
key of its own with a certificate in the vault. It agrees on a key for each object with a fresh
ephemeral key and that public half, and forgets it when the object is written: a stolen key file
opens nothing written before.
"""

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from backup.crypto.kem import of_suite
from backup.crypto.keyring import Keyring
from backup.crypto.suite import Suite, suite
from backup.crypto.trust import Authority
from backup.errors import Taken, WriteOnly
from zaibei.kernel import persontext
from zaibei.kernel.errors import Usage
from zaibei.kernel.state import write_atomic

_WRITES: Final = "this host may write and not read"
_READS: Final = "open the repository with a recipient's key: --password-file or --identity-file"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """The file, mode 0600. `signer` and `epoch` are where its trust in the vault begins."""

    name: str
    repository: bytes
    suite: str
    ids: str
    epoch: int
    signer: bytes
    box: bytes
    id: bytes = field(repr=False)
    sign: bytes = field(repr=False)

    @classmethod
    def new(cls, keys: Keyring, *, name: str) -> "HostKey":
        if not name:
            raise Usage("a host has a name")
        return cls(
            name=name,
            repository=keys.repository,
            suite=keys.suite.name,
            ids=keys.suite.ids,
            epoch=keys.epoch,
            signer=keys.public,
            box=keys.box,
            id=keys.id,
            sign=secrets.token_bytes(32),
        )

    @property
    def public(self) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.sign).public_key().public_bytes_raw()

    def save(self, file: Path) -> None:
        if file.exists():
            raise Taken(f"{file} is there already", hint="another name; it is not overwritten")
        text = {
            "format": 1,
            "name": self.name,
            "repository": self.repository.hex(),
            "suite": self.suite,
            "ids": self.ids,
            "epoch": self.epoch,
            "signer": self.signer.hex(),
            "box": self.box.hex(),
            "id": self.id.hex(),
            "sign": self.sign.hex(),
        }
        write_atomic(file, json.dumps(text, indent=1) + "\n", mode=0o600)

    @classmethod
    def load(cls, file: Path) -> "HostKey":
        """Raises Usage for a file that others can read: it would be everybody's key."""
        try:
            if os.stat(file).st_mode & 0o077:  # noqa: PTH116 — follows links, as the open does
                raise Usage(f"{file} can be read by others", hint=f"chmod 600 {file}")
            text = json.loads(persontext.read(file))
            if text["format"] != 1:
                raise Usage(f"{file}: format {text['format']}", hint="use a newer zaibei")
            chosen = suite(text["suite"], text.get("ids", ""))
            return cls(
                name=str(text["name"]),
                suite=chosen.name,
                ids=chosen.ids,
                epoch=int(text["epoch"]),
                **{
                    part: bytes.fromhex(text[part])
                    for part in ("repository", "signer", "box", "id", "sign")
                },
            )
        except FileNotFoundError as gone:
            raise Usage(f"{file}: no such host key file") from gone
        except (KeyError, TypeError, ValueError) as bad:
            raise Usage(f"{file}: not a host key file") from bad


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRing(Keyring):
    """Seals like a keyring, and opens nothing."""

    host: HostKey
    sealing_to: bytes = field(repr=False)

    @classmethod
    def of_host(cls, host: HostKey, *, authority: Authority) -> "HostRing":
        newest = authority.newest
        chosen: Suite = suite(host.suite, host.ids)
        return cls(
            suite=chosen,
            repository=host.repository,
            id=host.id,
            epochs={},
            authority=authority,
            host=host,
            sealing_to=newest.box or host.box,
        )

    @property
    def signer(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.host.sign)

    @property
    def writer(self) -> bytes | None:
        return self.host.public

    @property
    def box(self) -> bytes:
        return self.sealing_to

    def fresh(self, hedge: bytes) -> tuple[int, bytes, bytes]:
        mixed = self.suite.mac(self.id, b"salt", secrets.token_bytes(32) + hedge)
        seed = self.suite.derive(mixed, salt=b"", info=b"zaibei/ephemeral", length=48)
        return of_suite(self.suite.name).ephemeral(seed, self.sealing_to)

    @property
    def root(self) -> bytes:
        raise WriteOnly(_WRITES, hint=_READS)

    def require_root(self) -> None:
        raise WriteOnly(_WRITES, hint=_READS)

    def secret(self, mode: int, epoch: int, salt: bytes) -> bytes:
        raise WriteOnly(_WRITES, hint=_READS)
