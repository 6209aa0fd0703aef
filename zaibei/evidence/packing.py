"""A pack: everything an auditor needs to check some entries of the log without trusting us.

The whole log up to the signed head is in it, not only the chosen entries: a drill that went badly and
was left out of the report is still there to be seen. Chosen entries bring every other entry of the same
drill with them.
"""

import base64
import gzip
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from zaibei.evidence import keys, log, manifest, note, tiles, tree
from zaibei.evidence.kinds import Kind, short
from zaibei.evidence.record import Entry, Evidence
from zaibei.evidence.statement import Subject
from zaibei.kernel.errors import Missing, Usage

PROOF = "c2sp.org/tlog-proof@v1"
_SCRIPT = "verify.sh"
_SHIPPED = (_SCRIPT, "VERIFY.en.md", "VERIFY.zh.md")


def pack(
    evidence: Evidence, *, entries: Sequence[int], artefacts_dir: Path, dest: Path, title: str
) -> Path:
    """Write the folder `dest` and, beside it, `dest`.tar.gz. Returns the folder.

    Raises Missing when an artefact named by a statement is not under `artefacts_dir` with the bytes
    it was recorded with, Usage when `dest` is there already.
    """
    manifest.checked_title(title)
    if dest.exists() or archive_of(dest).exists():
        raise Usage(f"{dest} is already there", hint="a pack is never changed; choose another name")
    checkpoint = evidence.checkpoint()
    head = note.parse_checkpoint(note.parse(checkpoint).text)
    # Somebody may have recorded in between: the pack speaks of what this checkpoint signs.
    logged = evidence.entries()[: head.size]
    chosen = choose(logged, entries)
    files = control_files(
        logged, chosen, checkpoint=checkpoint, public=_public_files(evidence, checkpoint)
    )

    dest.parent.mkdir(parents=True, exist_ok=True)
    # Built under another name and renamed when whole: half a pack is never called a pack.
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}.") as work:
        folder = Path(work, dest.name)
        for name, raw in files.items():
            _write(folder / name, raw)
        for entry in chosen:
            for subject in entry.statement.subject:
                _copy(artefacts_dir, subject, folder / "runs" / run_id(entry) / "artifacts")
        seal(
            folder,
            head=head,
            title=title,
            packed_at=evidence.clock.now().isoformat(timespec="seconds").replace("+00:00", "Z"),
            key=keys.ed25519_private(evidence.directory / "keys"),
        )
        with Path(work, "archive").open("wb") as out:
            archive(folder, out)
        Path(work, "archive").rename(archive_of(dest))
        folder.rename(dest)
    return dest


def choose(logged: Sequence[Entry], wanted: Sequence[int]) -> tuple[Entry, ...]:
    """The wanted entries, and with each of them all entries of the same drill."""
    if not wanted:
        raise Usage("a pack of no entries shows nothing", hint="zaibei evidence log")
    if outside := [n for n in wanted if not 0 <= n < len(logged)]:
        raise Usage(f"no entry {outside[0]}: the log holds {len(logged)}")
    drills = {logged[n].statement.drill_id for n in wanted} - {None}
    return tuple(e for e in logged if e.index in set(wanted) or e.statement.drill_id in drills)


def control_files(
    logged: Sequence[Entry],
    chosen: Sequence[Entry],
    *,
    checkpoint: bytes,
    public: Mapping[str, bytes],
) -> dict[str, bytes]:
    """Every file of the pack but the artefacts and the manifest. Pure."""
    leaves = [tree.leaf_hash(e.envelope) for e in logged]
    files = {f"log/{log.WHOLE}": checkpoint}
    files |= {f"log/{name}": raw for name, raw in tiles.hash_tiles(leaves)}
    for number, width in tiles.bundles(len(logged)):
        held = logged[number * tiles.WIDTH : number * tiles.WIDTH + width]
        bundle = tiles.encode_bundle([e.envelope for e in held])
        files[f"log/{tiles.path('entries', number, width)}"] = bundle
    for entry in chosen:
        run = run_id(entry)
        files[f"runs/{run}/statement.json"] = entry.payload
        files[f"runs/{run}/statement.dsse.json"] = entry.envelope
        files[f"proofs/{run}.txt"] = proof(leaves, entry.index, checkpoint)
    for entry in logged:
        if entry.statement.predicate_type == Kind.SCHEDULE:
            files[f"schedule/{run_id(entry)}.json"] = entry.payload
    files |= {f"keys/{name}": pem for name, pem in public.items()}
    files["keys/FINGERPRINTS.txt"] = fingerprints(public)
    return files | {name: _shipped(name) for name in _SHIPPED}


def run_id(entry: Entry) -> str:
    return f"{entry.index:06d}-{short(entry.statement.predicate_type)}"


def proof(leaves: Sequence[bytes], index: int, checkpoint: bytes) -> bytes:
    """A C2SP tlog-proof: self-contained, to be checked against the log's key alone."""
    lines = [base64.b64encode(h).decode() for h in tree.inclusion(leaves, index)]
    return "\n".join([PROOF, f"index {index}", *lines, "\n"]).encode() + checkpoint


def fingerprints(public: Mapping[str, bytes]) -> bytes:
    return "".join(f"{keys.fingerprint(public[n])}  {n}\n" for n in sorted(public)).encode()


def seal(
    folder: Path, *, head: note.Checkpoint, title: str, packed_at: str, key: Ed25519PrivateKey
) -> None:
    """Sign the manifest over every file that lies in `folder` now."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    found.pop(manifest.FILE, None)
    body = manifest.Manifest(
        title=manifest.checked_title(title),
        log=head,
        packed_at=packed_at,
        files={name: Subject.of(path).sha256 for name, path in found.items()},
    ).encode()
    line = keys.log_line(key, name=head.origin, text=body)
    _write(folder / manifest.FILE, note.Note(text=body, signatures=(line,)).encode())


def archive_of(dest: Path) -> Path:
    return dest.with_name(f"{dest.name}.tar.gz")


def archive(folder: Path, out: IO[bytes]) -> None:
    """The same folder gives the same bytes: sorted names, no owner, no times."""
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            member = tarfile.TarInfo(f"{folder.name}/{name}")
            member.size = path.stat().st_size
            member.mode = 0o755 if name == _SCRIPT else 0o644
            with path.open("rb") as content:
                tar.addfile(member, content)


def _public_files(evidence: Evidence, checkpoint: bytes) -> dict[str, bytes]:
    """The keys whose lines the checkpoint carries."""
    lines = note.parse(checkpoint).signatures
    found = evidence.keys.files()
    if not any(keys.is_sm2(line, evidence.keys.sm2) for line in lines):
        found.pop("sm2.pub", None)
    signed = {line.name for line in lines}
    return found | {
        f"witness-{w.name}.pub": w.public for w in evidence.witnesses if w.key_name in signed
    }


def _copy(source: Path, subject: Subject, target: Path) -> None:
    """By digest, not by name: two drills may both have a ledger.jsonl."""
    place = target / subject.name
    place.parent.mkdir(parents=True, exist_ok=True)
    by_name = source / subject.name
    others = (p for p in sorted(source.rglob(Path(subject.name).name)) if p.is_file())
    for path in (*([by_name] if by_name.is_file() else []), *others):
        shutil.copyfile(path, place)
        # Of the copy, not of the source: a file that grows meanwhile must not get in.
        if Subject.of(place, name=subject.name) == subject:
            return
    raise Missing(
        f"artefact {subject.name} (sha256 {subject.sha256:.16}…) is not under {source}",
        hint="the statement names these bytes; bring back the file it was recorded with",
    )


def _shipped(name: str) -> bytes:
    return resources.files("zaibei.evidence").joinpath("packed", name).read_bytes()


def _write(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    path.chmod(0o755 if path.name == _SCRIPT else 0o644)
