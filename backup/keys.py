"""From a passphrase to the keys that seal. A root of 32 random bytes is all a repository knows;
recipients (today: passphrases) each wrap it in a key object of their own, so that a recipient comes and
goes without touching data.
"""

import base64
import hmac
import secrets
from dataclasses import asdict, dataclass
from typing import Final

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from backup.errors import NewerFormat, WrongKey
from backup.signed import Body
from backup.suite import MAC_KEY_BYTES, NONCE_BYTES, Suite
from zaibei.kernel.errors import Damage, Usage

ROOT_BYTES: Final = 32
REPOSITORY_BYTES: Final = 16
EPOCH: Final = 1  # of the root; rotation draws the next
_COMMIT_BYTES = 32
_MEMORY_KIB_MAX = 4 << 20  # a key object may not ask for more than 4 GiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Kdf:
    """Argon2id (RFC 9106). The default takes a third of a second and 64 MiB."""

    memory_kib: int = 64 << 10
    iterations: int = 3
    lanes: int = 4

    def stretch(self, passphrase: str, salt: bytes, length: int) -> bytes:
        if not 0 < self.memory_kib <= _MEMORY_KIB_MAX:
            raise Damage(f"a key object asks for {self.memory_kib} KiB of memory")
        return Argon2id(
            salt=salt,
            length=length,
            iterations=self.iterations,
            lanes=self.lanes,
            memory_cost=self.memory_kib,
        ).derive(passphrase.encode())


@dataclass(frozen=True, slots=True)
class Keyring:
    """What a process that may read and write holds, derived from the root once."""

    suite: Suite
    repository: bytes
    data: bytes
    id: bytes
    signer: Ed25519PrivateKey
    epoch: int = EPOCH

    @classmethod
    def of_root(cls, root: bytes, *, suite: Suite, repository: bytes) -> "Keyring":
        def derived(purpose: str, length: int) -> bytes:
            info = f"zaibei/{purpose}/epoch={EPOCH}".encode()
            return suite.derive(root, salt=repository, info=info, length=length)

        return cls(
            suite=suite,
            repository=repository,
            data=derived("data", 32),
            id=derived("id", MAC_KEY_BYTES),
            signer=Ed25519PrivateKey.from_private_bytes(derived("sign", 32)),
        )

    def blob_id(self, domain: bytes, data: bytes) -> bytes:
        return self.suite.mac(self.id, domain, data)

    @property
    def chunk(self) -> int:
        """The seed of content-defined cuts, 63 bits, never 0. It comes from the key of ids: who may name
        blobs may cut them, and both stay or go together, because a new one of either ends deduplication."""
        raw = self.suite.mac(self.id, b"chunk/seed", b"")
        return max(1, int.from_bytes(raw[:8]) >> 1)

    @property
    def public(self) -> bytes:
        return self.signer.public_key().public_bytes_raw()


def new_root() -> bytes:
    return secrets.token_bytes(ROOT_BYTES)


def wrap(root: bytes, passphrase: str, *, suite: Suite, repository: bytes, kdf: Kdf) -> Body:
    """The body of a key object. Signed by the caller, so that nobody adds a recipient unseen."""
    if not passphrase:
        raise Usage("the passphrase is empty", hint="put at least one line into the password file")
    salt = secrets.token_bytes(32)
    body: Body = {
        "format": 1,
        "kind": "passphrase",
        "repository": repository.hex(),
        "suite": suite.name,
        "epoch": EPOCH,
        "kdf": {"name": "argon2id", "salt": salt.hex(), **asdict(kdf)},
    }
    key, commitment = _split(kdf.stretch(passphrase, salt, suite.key_bytes + _COMMIT_BYTES), suite)
    body["commitment"] = commitment.hex()
    # The key comes from a fresh salt and seals this once: a nonce of zeros is not reused.
    sealed = suite.aead(key).seal(bytes(NONCE_BYTES), root, rfc8785.dumps(body))
    return {**body, "sealed": base64.b64encode(sealed).decode()}


def unwrap(body: Body, passphrase: str, *, suite: Suite) -> bytes:
    """The root. Raises WrongKey when the passphrase is another's, Damage when it is ours and the rest
    does not fit (the commitment tells the two apart)."""
    try:
        if body["kind"] != "passphrase" or body["format"] != 1:
            raise NewerFormat(f"a recipient of kind {body['kind']!r} cannot be opened here")
        given = body["kdf"]
        kdf = Kdf(
            memory_kib=given["memory_kib"], iterations=given["iterations"], lanes=given["lanes"]
        )
        salt, wanted = bytes.fromhex(given["salt"]), bytes.fromhex(body["commitment"])
        sealed = base64.b64decode(body["sealed"], validate=True)
    except (KeyError, TypeError, ValueError) as bad:
        raise Damage("a key object lacks a field") from bad
    key, commitment = _split(kdf.stretch(passphrase, salt, suite.key_bytes + _COMMIT_BYTES), suite)
    if not hmac.compare_digest(commitment, wanted):
        raise WrongKey(
            "the passphrase opens none of the repository's keys",
            hint="is it the right password file?",
        )
    aad = rfc8785.dumps({k: v for k, v in body.items() if k != "sealed"})
    return suite.aead(key).open(bytes(NONCE_BYTES), sealed, aad)


def _split(material: bytes, suite: Suite) -> tuple[bytes, bytes]:
    return material[: suite.key_bytes], material[suite.key_bytes :]
