"""Checking a pack. Fails closed: what cannot be checked is a problem, and so is what nobody expected.

Every byte of a pack matters: one spelling for each file, and no file that is not accounted for. The
script `verify.sh` in the pack makes the same checks with sh and openssl; neither trusts the other.
"""

import base64
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from zaibei.evidence import (
    chosen,
    dsse,
    keys,
    kinds,
    log,
    manifest,
    note,
    noted,
    sm2,
    statement,
    tiles,
    tree,
    witness,
)
from zaibei.evidence.archive import unpacked
from zaibei.evidence.files import read
from zaibei.evidence.packing import fingerprints
from zaibei.evidence.record import Entry
from zaibei.evidence.roll import Roll, call_roll
from zaibei.kernel.errors import Damage, Usage, ZaibeiError

_WITNESS = re.compile(r"witness-(?P<name>[A-Za-z0-9_-]+)\.pub")
_TOP = frozenset({"verify.sh", "VERIFY.en.md", "VERIFY.zh.md"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found. `entries` are checked ones and empty unless everything holds."""

    pack: str
    title: str | None
    origin: str | None
    size: int | None
    root: str | None  # base64, as in the checkpoint
    packed_at: str | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]  # true and worth knowing; not a fault of the pack
    fingerprints: Mapping[str, str]  # key file -> sha256 of its SubjectPublicKeyInfo
    keys_compared: bool  # with fingerprints that came another way
    witnesses: tuple[str, ...]  # whose keys are among the given fingerprints
    unknown_witnesses: tuple[str, ...]  # fingerprints of other keys that cosigned: anybody's
    open_intents: tuple[str, ...]
    roll: Roll  # every drill and every schedule of the whole log
    entries: tuple[Entry, ...] = field(repr=False)  # chosen for this pack, in log order

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def noted(self) -> str | None:
        """What to write down on paper, for `--at-least` in later years."""
        return f"{self.size}:{self.root}" if self.root else None


def verify(
    pack: Path,
    *,
    trusted_fingerprints: Collection[str] | None = None,
    at_least: Collection[str] = (),
) -> Findings:
    """Check a pack (folder or .tar.gz). Never raises for what is wrong inside: it says so.

    `trusted_fingerprints`: from the signed paper, or from whoever runs the system. Without them the
    keys of the pack are only known to fit the pack. `at_least`: checkpoints `SIZE:ROOT` that were
    written down earlier; the log of the pack must go on from each of them.
    """
    if not pack.exists():
        raise Usage(f"no pack here: {pack}")
    found = _Found(trusted=trusted_fingerprints, earlier=[noted.parse(text) for text in at_least])
    try:
        with unpacked(pack) as folder:
            _check(folder, found)
    except (ZaibeiError, OSError, ValueError, KeyError, TypeError, IndexError) as bad:
        found.problems.append(bad.message if isinstance(bad, ZaibeiError) else f"{bad!r}")
    return found.findings(pack)


@dataclass
class _Found:
    trusted: Collection[str] | None
    earlier: Sequence[tuple[int, bytes]] = ()
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    witnesses: list[str] = field(default_factory=list)
    unknown_witnesses: list[str] = field(default_factory=list)
    roll: Roll = field(default_factory=lambda: Roll(drills=(), due=(), notes=()))
    open_intents: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    packed: manifest.Manifest | None = None
    head: note.Checkpoint | None = None
    finished: bool = False

    def findings(self, pack: Path) -> Findings:
        assert self.finished or self.problems, "a check that did not finish is not a pass"
        head, packed = self.head, self.packed
        return Findings(
            pack=str(pack),
            title=packed.title if packed else None,
            origin=head.origin if head else None,
            size=head.size if head else None,
            root=base64.b64encode(head.root).decode() if head else None,
            packed_at=packed.packed_at if packed else None,
            problems=tuple(self.problems),
            notes=tuple(self.notes),
            fingerprints=dict(self.fingerprints),
            keys_compared=self.trusted is not None and not self.problems,
            witnesses=() if self.problems else tuple(self.witnesses),
            unknown_witnesses=tuple(self.unknown_witnesses),
            open_intents=tuple(self.open_intents),
            roll=self.roll,
            entries=() if self.problems else tuple(self.entries),
        )


def _check(folder: Path, found: _Found) -> None:
    """In the order of trust: keys, manifest, files, head, log, statements, order, chosen entries."""
    ed25519_pem = read(folder, "keys/ed25519.pub")
    log_key = keys.load_ed25519(ed25519_pem)
    signed = note.parse(read(folder, manifest.FILE))
    found.packed = packed = manifest.parse(signed.text)
    _only_line(signed, packed.log.origin, log_key)
    digests = _digests(folder, packed)
    public = _keys(folder, digests, found)
    p256, keyid = keys.load_p256(public["p256.pub"]), keys.fingerprint(public["p256.pub"])

    checkpoint = read(folder, f"log/{log.WHOLE}")
    found.head = head = _head(checkpoint, public, log_key, found)
    if head != packed.log:
        raise Damage("the manifest and the checkpoint speak of different logs")
    logged = _log(folder, digests, head, key=p256, keyid=keyid)
    noted.held_to(logged, found.earlier)

    steps = [
        kinds.Step(
            index=e.index,
            predicate_type=e.statement.predicate_type,
            drill_id=e.statement.drill_id,
        )
        for e in logged
    ]
    found.problems += kinds.disorder(steps)
    found.open_intents += kinds.open_intents(steps)
    found.notes += [f"{d} was announced and has no end in this log" for d in found.open_intents]
    found.entries += chosen.runs(folder, digests, logged, head, checkpoint)
    picked = frozenset(e.index for e in found.entries)
    found.roll = call_roll(logged, chosen=picked, as_of=packed.packed_at)
    found.notes += found.roll.notes
    found.notes += [
        f"{d.drill_id} was recorded as PASS: {text['en']}"
        for d in found.roll.drills
        for text in d.denied
    ]
    chosen.schedule(folder, digests, logged)
    if stray := sorted(p for p in digests if not _known_place(p)):
        raise Damage(f"a file that does not belong in a pack: {stray[0]}")
    if found.trusted is None:
        found.notes.append("the keys were not compared with fingerprints that came another way")
    found.finished = True


def _only_line(signed: note.Note, origin: str, key: Ed25519PublicKey) -> None:
    if len(signed.signatures) != 1:
        raise Damage("the manifest does not have exactly one signature")
    _ed25519_line(signed.signatures[0], origin, key, signed.text, what="manifest")


def _ed25519_line(
    line: note.SignatureLine, name: str, key: Ed25519PublicKey, text: bytes, *, what: str
) -> None:
    identity = note.key_id(name, note.ED25519, keys.raw_ed25519(key))
    if line.name != name or line.key_id != identity:
        raise Damage(f"the {what} is signed by another key")
    try:
        key.verify(line.signature, text)
    except InvalidSignature as bad:
        raise Damage(f"the signature of the {what} does not hold") from bad


def _digests(folder: Path, packed: manifest.Manifest) -> dict[str, str]:
    """Every file on disk is in the manifest with its digest, and the other way round."""
    on_disk: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Damage(f"neither a file nor a folder: {name}")
        if path.is_dir():
            if not any(path.iterdir()):
                raise Damage(f"an empty folder: {name}")
        elif name != manifest.FILE:
            with path.open("rb") as content:
                on_disk[name] = hashlib.file_digest(content, "sha256").hexdigest()
    for name in sorted(packed.files.keys() | on_disk.keys()):
        if name not in on_disk:
            raise Damage(f"missing from the pack: {name}")
        if name not in packed.files:
            raise Damage(f"not in the manifest: {name}")
        if on_disk[name] != packed.files[name]:
            raise Damage(f"changed since it was packed: {name}")
    return on_disk


def _keys(folder: Path, digests: Mapping[str, str], found: _Found) -> dict[str, bytes]:
    names = [p.removeprefix("keys/") for p in digests if p.startswith("keys/")]
    public = {n: read(folder, f"keys/{n}") for n in names if n.endswith(".pub")}
    for name in public:
        if name not in {"p256.pub", "ed25519.pub", "sm2.pub"} and not _WITNESS.fullmatch(name):
            raise Damage(f"a key that does not belong in a pack: {name}")
    if "p256.pub" not in public:
        raise Damage("missing from the pack: keys/p256.pub")
    if read(folder, "keys/FINGERPRINTS.txt") != fingerprints(public):
        raise Damage("FINGERPRINTS.txt does not tell the fingerprints of the keys")
    found.fingerprints |= {n: keys.fingerprint(pem) for n, pem in public.items()}
    if found.trusted is not None:
        trusted = {f.strip().lower().replace(":", "") for f in found.trusted}
        for name, value in found.fingerprints.items():
            if not _WITNESS.fullmatch(name) and value not in trusted:
                raise Damage(
                    f"{name} has another fingerprint than the ones given: {value}",
                    hint="this pack is not from the holder of those keys",
                )
    return public


def _head(
    checkpoint: bytes, public: Mapping[str, bytes], log_key: Ed25519PublicKey, found: _Found
) -> note.Checkpoint:
    """One line for each key in the pack, in the order of the format; none besides."""
    signed = note.parse(checkpoint)
    head = note.parse_checkpoint(signed.text)
    lines = list(signed.signatures)
    _ed25519_line(lines.pop(0), head.origin, log_key, signed.text, what="checkpoint")
    if "sm2.pub" in public:
        if (
            not lines
            or lines[0].name != head.origin
            or not keys.is_sm2(lines[0], public["sm2.pub"])
        ):
            raise Damage("the checkpoint has no line of the SM2 key")
        reason = sm2.why_not_signed(public["sm2.pub"], signed.text, lines.pop(0).signature)
        if reason:
            raise Damage(reason)
    else:
        found.notes.append("the checkpoint has no SM2 line")
    watching = [m["name"] for n in sorted(public) if (m := _WITNESS.fullmatch(n))]
    if sorted(witness.key_name(w) for w in watching) != sorted(line.name for line in lines):
        raise Damage("the lines of the checkpoint are not those of the keys in the pack")
    for line in lines:
        name = line.name.removeprefix(witness.key_name(""))
        _cosignature(line, keys.load_ed25519(public[f"witness-{name}.pub"]), signed.text)
    _named_witnesses(watching, found)
    return head


def _named_witnesses(watching: Sequence[str], found: _Found) -> None:
    """A witness has a name only when its key is among the given fingerprints.

    The name in the pack is the operator's word: a rewritten log can be cosigned by a new key of any
    name, and only the comparison tells that key from the witness's.
    """
    trusted = {f.strip().lower().replace(":", "") for f in found.trusted or ()}
    for name in watching:
        value = found.fingerprints[f"witness-{name}.pub"]
        if value in trusted:
            found.witnesses.append(name)
        else:
            found.unknown_witnesses.append(value)
            found.notes.append(f"cosigned by an unknown key: {value}")
    if not watching:
        found.notes.append("no witness signed the checkpoint")
    elif not found.witnesses:
        found.notes.append("no witness whose key was compared signed the checkpoint")


def _cosignature(line: note.SignatureLine, key: Ed25519PublicKey, text: bytes) -> None:
    stamp = int.from_bytes(line.signature[:8], "big")
    if line.key_id != witness.cosigner_id(line.name, key):
        raise Damage(f"{line.name} is signed by another key")
    try:
        key.verify(line.signature[8:], witness.cosigned(stamp, text))
    except InvalidSignature as bad:
        raise Damage(f"the signature of {line.name} does not hold") from bad


def _log(
    folder: Path,
    digests: Mapping[str, str],
    head: note.Checkpoint,
    *,
    key: EllipticCurvePublicKey,
    keyid: str,
) -> list[Entry]:
    """Every entry of the log, its signature and its place under the root."""
    raw: list[bytes] = []
    for number, width in tiles.bundles(head.size):
        bundle = read(folder, f"log/{tiles.path('entries', number, width)}")
        raw += tiles.decode_bundle(bundle, width)
    leaves = [tree.leaf_hash(e) for e in raw]
    if tree.root(leaves) != head.root:
        raise Damage("the log is not what its checkpoint signs")
    due = {f"log/{p}" for p in log.wanted(leaves)} | {f"log/{log.WHOLE}"}
    if due != {p for p in digests if p.startswith("log/")}:
        raise Damage("the log has files too many or too few")
    for name, content in tiles.hash_tiles(leaves):
        if read(folder, f"log/{name}") != content:
            raise Damage(f"a tile does not hold the hashes of the log: {name}")
    return [_entry(n, envelope, key=key, keyid=keyid) for n, envelope in enumerate(raw)]


def _entry(index: int, envelope: bytes, *, key: EllipticCurvePublicKey, keyid: str) -> Entry:
    try:
        payload = dsse.unseal(envelope, key=key, keyid=keyid)
        decoded = statement.decode(payload)
    except Damage as bad:
        raise Damage(f"entry {index}: {bad.message}") from bad
    return Entry(
        index=index,
        statement_digest=hashlib.sha256(payload).hexdigest(),
        envelope=envelope,
        payload=payload,
        statement=decoded,
    )


def _known_place(name: str) -> bool:
    folder, slash, rest = name.partition("/")
    if not slash:
        return name in _TOP
    if folder == "keys":
        return rest == "FINGERPRINTS.txt" or rest.endswith(".pub")
    return folder in {"runs", "log", "proofs", "schedule"}
