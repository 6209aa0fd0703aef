"""Recording: a statement is signed, logged and under a signed head before `record` returns.

One writer at a time, held by a kernel lock for each call; readers need no lock, for files only ever
change by rename.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from zaibei.evidence import dsse, keys, kinds, log, note, sm2, statement, tree
from zaibei.evidence.remote_witness import declared
from zaibei.evidence.statement import RECORDED_AT, Statement, Subject
from zaibei.evidence.witness import Cosigner, cosigned_at, origin_of
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Busy, Damage, Missing, Refused, ToolFailed, Unreachable, Usage
from zaibei.kernel.log import logger
from zaibei.kernel.state import sole, state_dir, write_atomic

WAIT = timedelta(seconds=10)  # for another writer, which needs milliseconds
_STEP = timedelta(milliseconds=20)
_say = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    index: int
    statement_digest: str  # sha256 of the statement's bytes, in hex: the name of this evidence
    envelope: bytes  # DSSE; the leaf of the log
    payload: bytes  # the statement's bytes
    statement: Statement


def default_dir() -> Path:
    return state_dir() / "evidence"


class Evidence:
    """`open` it, then `record`. Nothing is held open between calls."""

    def __init__(self, directory: Path, clock: Clock, witnesses: Sequence[Cosigner]) -> None:
        self.directory = directory
        self.clock = clock
        self.witnesses = tuple(witnesses)
        self.keys = keys.public(directory / "keys")
        self._asks_each = False  # the witnesses, after each record
        self._known: dict[bytes, Entry] = {}  # by leaf hash: what was checked once is checked

    @classmethod
    def open(
        cls, directory: Path, clock: Clock, *, witnesses: Sequence[Cosigner] | None = None
    ) -> Self:
        """Make keys and an empty log the first time; afterwards only read.

        Without `witnesses`: those declared beside the log, which are asked after each record too.
        """
        if not (directory / "log" / log.WHOLE).exists():
            with _writing(directory, clock):
                log.refuse_orphans(directory / "log")
                keys.make_once(directory / "keys")
                log.create(
                    directory / "log",
                    origin=origin_of(keys.public(directory / "keys").ed25519),
                    sign=lambda head: _signed(directory / "keys", head),
                )
        self = cls(directory, clock, declared(directory) if witnesses is None else witnesses)
        self._asks_each = witnesses is None
        return self

    @classmethod
    def existing(cls, directory: Path, clock: Clock) -> Self:
        """For commands that only read: they must not make the keys they are asked about.

        Raises Usage when there is no log yet.
        """
        if not (directory / "log" / log.WHOLE).exists():
            log.refuse_orphans(directory / "log")
            raise Usage(
                f"no evidence here: {directory}",
                hint=(
                    "zaibei evidence init makes the keys and an empty log",
                    "so does the first drill",
                ),
            )
        return cls(directory, clock, declared(directory))

    def record(
        self,
        predicate_type: str,
        predicate: Mapping[str, Any],
        *,
        subject: Sequence[Path | Subject] = (),
    ) -> Entry:
        """Sign and log one statement; `recorded_at` is added to the predicate.

        Raises Refused when it would be out of order (an outcome without its intent), Usage when it
        is not plain JSON or too long, Damage when the log is not what it was.
        """
        if RECORDED_AT in predicate:
            raise Usage(f"{RECORDED_AT} is written here, from the clock")
        stamp = self.clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        named = [s if isinstance(s, Subject) else Subject.of(s) for s in subject]
        payload = statement.encode(predicate_type, {**predicate, RECORDED_AT: stamp}, named)
        key = keys.p256_private(self.directory / "keys")
        envelope = dsse.seal(payload, key=key, keyid=self.keys.keyid)
        with _writing(self.directory, self.clock):
            held = self._finish(log.read(self._log))
            entry = self._entry(len(held.entries), envelope)
            history = [step(e) for e in self._opened(held)]
            if reason := kinds.why_not_next(history, step(entry)):
                raise Refused(f"not recorded: {reason}", hint="record the intent before the drill")
            held = log.append(self._log, held, envelope)
            log.publish(self._log, held, sign=self._sign)
        if self._asks_each and self.witnesses:
            # A witness that saw another history raises here: before a fault is made, at the intent.
            self.checkpoint()
        return entry

    def checkpoint(self) -> bytes:
        """The signed head, with a line of every witness that answers.

        A witness that cannot be reached leaves its line out, unless it signed this same head before. One that *refuses* has seen another
        history: that is raised.
        """
        with _writing(self.directory, self.clock):
            held = self._finish(log.read(self._log))
            signed = note.parse(self._sign(held.head))
            before = note.parse((self._log / log.WHOLE).read_bytes())
            kept = before.signatures if before.text == signed.text else ()
            # Together: one that is gone takes its whole time-out, and a drill waits for it.
            with ThreadPoolExecutor(max(1, len(self.witnesses))) as pool:
                answers = list(pool.map(lambda w: self._cosign(w, held, signed), self.witnesses))
            lines = [
                line
                for w, answer in zip(self.witnesses, answers, strict=True)
                if (line := answer or _earlier(w, kept, signed.text))
            ]
            whole = note.Note(text=signed.text, signatures=(*signed.signatures, *lines)).encode()
            write_atomic(self._log / log.WHOLE, whole)
        return whole

    def entries(self) -> tuple[Entry, ...]:
        """Every entry under the signed head, each signature checked."""
        held = log.read(self._log)
        return self._opened(held)[: held.head.size]

    def entry(self, index: int) -> Entry:
        found = self.entries()
        if not 0 <= index < len(found):
            raise Usage(f"no entry {index}: the log holds {len(found)}")
        return found[index]

    def head(self) -> note.Checkpoint:
        return log.read(self._log).head

    def prove_inclusion(self, index: int) -> list[bytes]:
        held = log.read(self._log)
        return tree.inclusion(held.leaves[: held.head.size], index)

    def prove_consistency(self, old_size: int) -> list[bytes]:
        held = log.read(self._log)
        return tree.consistency(held.leaves[: held.head.size], old_size) if old_size else []

    def fingerprints(self) -> dict[str, str]:
        """Of the log's keys and of its witnesses', by the names they have in a pack."""
        own = self.keys.files() | {f"witness-{w.name}.pub": w.public for w in self.witnesses}
        return {name: keys.fingerprint(pem) for name, pem in own.items()}

    @property
    def _log(self) -> Path:
        return self.directory / "log"

    def _sign(self, head: note.Checkpoint) -> bytes:
        return _signed(self.directory / "keys", head)

    def _finish(self, held: log.Contents) -> log.Contents:
        """Sign what a writer that died had made durable.

        The signature of the old head is checked first: signing on top of a head that somebody wrote
        by hand would make it ours.
        """
        self._check_head()
        if len(held.entries) > held.head.size:
            self._opened(held)  # raises Damage for an entry that is not ours
            held = log.publish(self._log, held, sign=self._sign)
            _say.warning("evidence.finished_after_crash", size=held.head.size)
        return held

    def _check_head(self) -> None:
        seen = note.parse((self._log / log.WHOLE).read_bytes())
        head = note.parse_checkpoint(seen.text)
        key = keys.ed25519_private(self.directory / "keys")
        if keys.log_line(key, name=head.origin, text=seen.text) not in seen.signatures:
            raise Damage("the checkpoint of the log is not signed by the key of the log")

    def _cosign(
        self, witness: Cosigner, held: log.Contents, signed: note.Note
    ) -> note.SignatureLine | None:
        try:
            return witness.ask(
                signed.encode(), lambda old: tree.consistency(held.leaves[: held.head.size], old)
            )
        except (OSError, Busy, Unreachable) as away:
            _say.warning("evidence.witness_absent", witness=witness.name, error=str(away))
            return None

    def _opened(self, held: log.Contents) -> tuple[Entry, ...]:
        for index, (leaf, raw) in enumerate(zip(held.leaves, held.entries, strict=True)):
            if leaf not in self._known or self._known[leaf].index != index:
                self._known[leaf] = self._entry(index, raw)
        return tuple(self._known[leaf] for leaf in held.leaves)

    def _entry(self, index: int, envelope: bytes) -> Entry:
        payload = dsse.unseal(envelope, key=self.keys.p256_key, keyid=self.keys.keyid)
        return Entry(
            index=index,
            statement_digest=hashlib.sha256(payload).hexdigest(),
            envelope=envelope,
            payload=payload,
            statement=statement.decode(payload),
        )


def _earlier(
    witness: Cosigner, kept: Sequence[note.SignatureLine], text: bytes
) -> note.SignatureLine | None:
    """What it signed under this head when it last answered, if that was with the key it has now."""
    for line in kept:
        with suppress(Damage):
            if line.name == witness.key_name:
                cosigned_at(line, keys.load_ed25519(witness.public), text)
                return line
    return None


def step(entry: Entry) -> kinds.Step:
    return kinds.Step(
        index=entry.index,
        predicate_type=entry.statement.predicate_type,
        drill_id=entry.statement.drill_id,
    )


def _signed(directory: Path, head: note.Checkpoint) -> bytes:
    """The head with the log's own lines: Ed25519 always, SM2 where it can be made."""
    text = head.encode()
    lines = [keys.log_line(keys.ed25519_private(directory), name=head.origin, text=text)]
    public = keys.public(directory)
    if public.sm2 is not None:
        try:
            second = directory / "sm2.key"
            lines.append(sm2.line(second, keys.der(public.sm2), name=head.origin, text=text))
        except (ToolFailed, Missing) as cannot:
            _say.warning("evidence.sm2_line_absent", error=cannot.message)
    return note.Note(text=text, signatures=tuple(lines)).encode()


@contextmanager
def _writing(directory: Path, clock: Clock) -> Iterator[None]:
    """The one writer. Another one needs milliseconds, so it is worth a short wait."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline = clock.monotonic() + WAIT.total_seconds()
    while True:
        held = sole(directory / "lock", what="a writer of evidence")
        try:
            held.__enter__()
            break
        except Busy:
            if clock.monotonic() >= deadline:
                raise
            clock.sleep(_STEP)
    try:
        yield
    finally:
        held.__exit__(None, None, None)
