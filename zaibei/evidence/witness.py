"""A witness keeps the last head of a log that it saw and signs a new one only when it continues the old.

It is the answer to an operator who rewrites the log and signs it again: the new log does not continue
what the witness remembers. It lives in a folder of its own, best at another site under other hands;
that the hands are different is an organisation's promise, not something a signature shows.
"""

from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ed25519

from zaibei.evidence import keys, note, tree
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.state import sole, write_atomic


class Witness:
    def __init__(self, directory: Path, *, name: str, log_key: bytes, clock: Clock) -> None:
        """`log_key`: the log's Ed25519 key as PEM, brought here by people. It is kept and not changed."""
        self.name = name
        self._dir = directory
        self._clock = clock
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with sole(directory / "lock", what=f"the witness {name}"):
            secret = directory / "ed25519.key"
            if not secret.exists():
                fresh = ed25519.Ed25519PrivateKey.generate()
                pem = fresh.private_bytes(
                    ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.NoEncryption()
                )
                write_atomic(secret, pem, mode=0o600)
            pinned = directory / "log.pub"
            if not pinned.exists():
                write_atomic(pinned, log_key)
            if pinned.read_bytes() != log_key:
                raise Refused(
                    f"witness {name} watches a log with another key",
                    hint="compare fingerprints: zaibei evidence keys",
                )
        self._log_key = keys.load_ed25519(log_key)
        self._key = keys.ed25519_private(directory)

    @property
    def key_name(self) -> str:
        return key_name(self.name)

    @property
    def public(self) -> bytes:
        return self._key.public_key().public_bytes(
            ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo
        )

    def last(self) -> note.Checkpoint | None:
        """What it saw last."""
        try:
            raw = (self._dir / "checkpoint").read_bytes()
        except FileNotFoundError:
            return None
        return note.parse_checkpoint(note.parse(raw).text)

    def cosign(self, checkpoint: bytes, proof: Sequence[bytes]) -> note.SignatureLine:
        """Sign a head that continues the last one. Raises Damage or Refused and then remembers the old.

        The new head is remembered before the signature leaves: the other order could sign two
        histories across a crash.
        """
        with sole(self._dir / "lock", what=f"the witness {self.name}"):
            seen = note.parse(checkpoint)
            head = note.parse_checkpoint(seen.text)
            _check_log_signature(seen, head.origin, self._log_key)
            if old := self.last():
                reason = _why_not_a_continuation(old, head, proof)
                if reason:
                    raise Refused(
                        f"witness {self.name} does not sign: {reason}",
                        hint="keep both checkpoints: together they prove that the log was rewritten",
                    )
            write_atomic(self._dir / "checkpoint", checkpoint)
            stamp = int(self._clock.now().timestamp())
            return note.SignatureLine(
                name=self.key_name,
                key_id=cosigner_id(self.key_name, self._key.public_key()),
                signature=stamp.to_bytes(8, "big") + self._key.sign(cosigned(stamp, seen.text)),
            )


def key_name(witness: str) -> str:
    return f"urn:zaibei:witness:{witness}"


def cosigner_id(name: str, key: ed25519.Ed25519PublicKey) -> bytes:
    return note.key_id(name, note.COSIGNATURE, keys.raw_ed25519(key))


def cosigned(stamp: int, text: bytes) -> bytes:
    """The message of a C2SP cosignature/v1."""
    return b"cosignature/v1\ntime %d\n%s" % (stamp, text)


def _check_log_signature(seen: note.Note, origin: str, key: ed25519.Ed25519PublicKey) -> None:
    identity = note.key_id(origin, note.ED25519, keys.raw_ed25519(key))
    mine = [s for s in seen.signatures if s.name == origin and s.key_id == identity]
    if not mine:
        raise Damage("the checkpoint is not signed by the key of the log")
    try:
        key.verify(mine[0].signature, seen.text)
    except InvalidSignature as bad:
        raise Damage("the signature of the checkpoint does not hold") from bad


def _why_not_a_continuation(
    old: note.Checkpoint, new: note.Checkpoint, proof: Sequence[bytes]
) -> str | None:
    if new.origin != old.origin:
        return f"another log: {new.origin}, not {old.origin}"
    if new.size < old.size:
        return f"the log went back from {old.size} to {new.size} entries"
    if not tree.is_consistent(
        old_size=old.size,
        old_root=old.root,
        new_size=new.size,
        new_root=new.root,
        proof=proof,
    ):
        return f"the first {old.size} entries are not the ones it saw"
    return None
