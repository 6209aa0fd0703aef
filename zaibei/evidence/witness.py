"""A witness keeps the last head of a log that it saw and signs a new one only when it continues the old.

It is the answer to an operator who rewrites the log and signs it again: the new log does not continue
what the witness remembers. It lives in a folder of its own, best at another site under other hands;
that the hands are different is an organisation's promise, not something a signature shows.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from zaibei.evidence import keys, note, tree
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.state import sole, write_atomic

_LAST_SECOND = 253_402_300_799  # of the year 9999: a time past it has no RFC 3339 form


class Witness:
    def __init__(
        self,
        directory: Path,
        *,
        name: str,
        log_key: bytes,
        clock: Clock,
        key_directory: Path | None = None,
    ) -> None:
        """`log_key`: the log's Ed25519 key as PEM, brought here by people. It is kept and not changed.

        `key_directory`: where the witness's own key lies, when it watches several logs with one key.
        """
        self.name = name
        self._dir = directory
        self._clock = clock
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with sole(directory / "lock", what=f"the witness {name}"):
            if key_directory is None:
                keys.make_ed25519_once(directory)
            pinned = directory / "log.pub"
            if not pinned.exists():
                write_atomic(pinned, log_key)
            if pinned.read_bytes() != log_key:
                raise Refused(
                    f"witness {name} watches a log with another key",
                    hint="compare fingerprints: zaibei evidence keys",
                )
        self._log_key = keys.load_ed25519(log_key)
        self._key = keys.ed25519_private(key_directory or directory)

    @property
    def key_name(self) -> str:
        return key_name(self.name)

    @property
    def public(self) -> bytes:
        return keys.public_pem(self._key.public_key())

    def last(self) -> note.Checkpoint | None:
        """What it saw last."""
        try:
            raw = (self._dir / "checkpoint").read_bytes()
        except FileNotFoundError:
            return None
        return note.parse_checkpoint(note.parse(raw).text)

    def ask(self, checkpoint: bytes, prove: Callable[[int], Sequence[bytes]]) -> note.SignatureLine:
        """As a witness at another site is asked: it says what it saw, and gets the proof from there."""
        last = self.last()
        size = note.parse_checkpoint(note.parse(checkpoint).text).size
        old = last.size if last else 0
        return self.cosign(checkpoint, prove(old) if 0 < old <= size else [])

    def check(self, checkpoint: bytes) -> None:
        """Raises Damage unless the log's own key signed it."""
        seen = note.parse(checkpoint)
        _check_log_signature(seen, note.parse_checkpoint(seen.text).origin, self._log_key)

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


class Cosigner(Protocol):
    """Whoever signs a head that continues the last one it saw: here in a folder, or at another site."""

    @property
    def name(self) -> str: ...
    @property
    def key_name(self) -> str: ...
    @property
    def public(self) -> bytes: ...
    def ask(self, checkpoint: bytes, prove: Callable[[int], Sequence[bytes]]) -> note.SignatureLine:
        """Raises OSError, Busy or Unreachable when it is away, Refused when it saw another history."""
        ...


def origin_of(log_key: bytes) -> str:
    """The name of a log, from the Ed25519 key it was begun with."""
    return f"urn:zaibei:log:{keys.fingerprint(log_key)[:16]}"


def key_name(witness: str) -> str:
    return f"urn:zaibei:witness:{witness}"


def cosigner_id(name: str, key: ed25519.Ed25519PublicKey) -> bytes:
    return note.key_id(name, note.COSIGNATURE, keys.raw_ed25519(key))


def cosigned(stamp: int, text: bytes) -> bytes:
    """The message of a C2SP cosignature/v1."""
    return b"cosignature/v1\ntime %d\n%s" % (stamp, text)


def cosigned_at(line: note.SignatureLine, key: ed25519.Ed25519PublicKey, text: bytes) -> str:
    """When a witness signed, by its own clock. Raises Damage for a line that is not its key's."""
    stamp = int.from_bytes(line.signature[:8], "big")
    if line.key_id != cosigner_id(line.name, key):
        raise Damage(f"{line.name} is signed by another key")
    try:
        key.verify(line.signature[8:], cosigned(stamp, text))
    except InvalidSignature as bad:
        raise Damage(f"the signature of {line.name} does not hold") from bad
    if stamp > _LAST_SECOND:
        raise Damage(f"the time of {line.name} is none: {stamp}")
    return datetime.fromtimestamp(stamp, UTC).isoformat().replace("+00:00", "Z")


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
