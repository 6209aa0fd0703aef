"""Checking a pack. Fails closed: what cannot be checked is a problem, and so is what nobody expected.

Every byte of a pack matters: one spelling for each file, and no file that is not accounted for. The
script `verify.sh` in the pack makes the same checks with sh and openssl; neither trusts the other.
"""

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zaibei.evidence import chosen, folder, keys, log, manifest, note, noted, signers
from zaibei.evidence.archive import unpacked
from zaibei.evidence.record import Entry
from zaibei.evidence.replay import replay
from zaibei.evidence.roll import Roll
from zaibei.kernel.errors import Damage, Usage, ZaibeiError
from zaibei.kernel.printable import printable

_TO_SECOND = len("2026-01-31T08:00:00")  # the part in which times of both lengths are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found. `entries` are checked ones and empty unless everything holds."""

    pack: str
    title: str | None
    origin: str | None
    size: int | None
    root: str | None  # base64, as in the checkpoint
    packed_at: str | None
    newest: str | None  # recorded_at of the newest entry, to the second
    problems: tuple[str, ...]
    notes: tuple[str, ...]  # true and worth knowing; not a fault of the pack
    fingerprints: Mapping[str, str]  # key file -> sha256 of its SubjectPublicKeyInfo
    keys_compared: bool  # with fingerprints that came another way
    witnesses: tuple[str, ...]  # whose keys are among the given fingerprints
    unknown_witnesses: tuple[str, ...]  # fingerprints of other keys that cosigned: anybody's
    cosigned_at: Mapping[str, str]  # of both kinds -> RFC 3339, by the witness's clock
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

    `trusted_fingerprints`: from the signed paper, or from whoever runs the system; each must be met by
    one key of the pack. Without them the keys of the pack are only known to fit the pack. Raises Usage
    for one that cannot be a fingerprint.
    `at_least`: checkpoints `SIZE:ROOT` that were written down earlier; the log of the pack must go on
    from each of them.
    """
    if not pack.exists():
        raise Usage(f"no pack here: {pack}")
    found = _Found(
        trusted=signers.given(trusted_fingerprints),
        earlier=[noted.parse(text) for text in at_least],
    )
    try:
        with unpacked(pack) as place:
            _check(place, found)
    except (ZaibeiError, OSError, ValueError, KeyError, TypeError, IndexError) as bad:
        found.problems.append(
            bad.message if isinstance(bad, ZaibeiError) else printable(f"{bad!r}")
        )
    return found.findings(pack)


@dataclass
class _Found:
    trusted: frozenset[str] | None
    earlier: Sequence[tuple[int, bytes]] = ()
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    cosigned: tuple[signers.Cosignature, ...] = ()
    roll: Roll = field(default_factory=lambda: Roll(drills=(), due=(), notes=()))
    open_intents: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    packed: manifest.Manifest | None = None
    head: note.Checkpoint | None = None
    newest: str | None = None
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
            newest=self.newest,
            problems=tuple(self.problems),
            notes=tuple(self.notes),
            fingerprints=dict(self.fingerprints),
            keys_compared=self.trusted is not None and not self.problems,
            witnesses=() if self.problems else tuple(w for c in self.cosigned if (w := c.witness)),
            unknown_witnesses=tuple(c.key for c in self.cosigned if c.witness is None),
            cosigned_at={c.called: c.at for c in self.cosigned},
            open_intents=tuple(self.open_intents),
            roll=self.roll,
            entries=() if self.problems else tuple(self.entries),
        )


def _check(place: Path, found: _Found) -> None:
    """In the order of trust: keys, manifest, files, head, log, statements, order, chosen entries."""
    log_key = keys.load_ed25519(folder.read(place, "keys/ed25519.pub"))
    signed = note.parse(folder.read(place, manifest.FILE))
    found.packed = packed = manifest.parse(signed.text)
    signers.only_line(signed, packed.log.origin, log_key)
    pack = folder.checked(place, packed)
    public = signers.public_keys(pack)
    found.fingerprints |= {n: keys.fingerprint(pem) for n, pem in public.items()}
    if found.trusted is not None:
        signers.compare(found.fingerprints, found.trusted)

    checkpoint = pack.read(f"log/{log.WHOLE}")
    found.head, found.cosigned = signers.head(checkpoint, public, log_key, found.trusted)
    if found.head != packed.log:
        raise Damage("the manifest and the checkpoint speak of different logs")
    picked = chosen.folders(pack, found.head.size)
    seen = replay(
        pack,
        found.head,
        key=keys.load_p256(public["p256.pub"]),
        keyid=found.fingerprints["p256.pub"],
        keep=picked.keys(),
    )
    found.newest = f"{seen.newest[:_TO_SECOND]}Z" if seen.newest else None
    noted.held_to(seen.leaves, found.earlier)
    found.problems += seen.disorder
    found.open_intents += seen.order.open_intents()
    found.entries += chosen.runs(pack, picked, seen, found.head, checkpoint)
    chosen.schedule(pack, seen)
    found.roll = seen.roll.roll(as_of=packed.packed_at)
    found.notes += [
        *(f"{d} was announced and has no end in this log" for d in found.open_intents),
        *_notes_on_signers(found, public),
        *seen.witnesses.notes({c.key for c in found.cosigned}),
        *_notes_on_times(packed.packed_at, seen.newest, found.cosigned),
        *found.roll.notes,
        *(
            f"{d.drill_id} was recorded as PASS: {'; '.join(text['en'] for text in d.denied)}"
            for d in found.roll.drills
            if d.denied
        ),
    ]
    found.finished = True


def _notes_on_signers(found: _Found, public: Mapping[str, bytes]) -> list[str]:
    notes = []
    if "sm2.pub" not in public:
        notes.append("the checkpoint has no SM2 line")
    notes += [f"cosigned by an unknown key: {c.key}" for c in found.cosigned if c.witness is None]
    if not found.cosigned:
        notes.append("no witness signed the checkpoint")
    elif all(c.witness is None for c in found.cosigned):
        notes.append("no witness whose key was compared signed the checkpoint")
    if found.trusted is None:
        notes.append("the keys were not compared with fingerprints that came another way")
    return notes


def _notes_on_times(
    packed_at: str, newest: str | None, cosigned: Collection[signers.Cosignature]
) -> list[str]:
    """Times that cannot be right as they stand. Clocks differ, so this is a question and not a refusal."""
    packed = packed_at[:_TO_SECOND]
    last = (newest or "")[:_TO_SECOND]
    notes = [f"packed at {packed_at}, before its newest entry of {last}Z"] if packed < last else []
    for one in cosigned:
        if one.at[:_TO_SECOND] < last:
            notes.append(f"{one.called} cosigned at {one.at}, before the newest entry of {last}Z")
        if one.at[:_TO_SECOND] > packed:
            notes.append(f"{one.called} cosigned at {one.at}, after it was packed at {packed_at}")
    return notes
