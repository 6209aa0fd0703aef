"""Read the files of a pack: every one against the signed manifest, and none that the format has no place for."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zaibei.evidence import manifest
from zaibei.kernel.errors import Damage
from zaibei.kernel.printable import printable

MAX_CONTROL_BYTES: Final = 64 << 20  # of one file that is not an artefact
_TOP = frozenset({"verify.sh", "VERIFY.en.md", "VERIFY.zh.md"})
_PLACES = frozenset({"keys", "runs", "log", "proofs", "schedule"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A pack whose every file is the one in its manifest."""

    path: Path
    digests: Mapping[str, str]  # path -> sha256, of every file but the manifest

    def read(self, name: str) -> bytes:
        return read(self.path, name)

    def under(self, place: str) -> dict[str, str]:
        return {p: d for p, d in self.digests.items() if p.startswith(place)}


def read(folder: Path, name: str) -> bytes:
    """A file that is not an artefact. Raises Damage when it is not there, or larger than any such file."""
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise Damage(f"missing from the pack: {name}")
    if path.stat().st_size > MAX_CONTROL_BYTES:
        raise Damage(f"{name} is larger than any such file can be")
    return path.read_bytes()


def checked(folder: Path, packed: manifest.Manifest) -> Folder:
    """Every file on disk is in the manifest with its digest, and the other way round."""
    on_disk: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Damage(f"neither a file nor a folder: {printable(name)}")
        if path.is_dir():
            if not any(path.iterdir()):
                raise Damage(f"an empty folder: {printable(name)}")
        elif name != manifest.FILE:
            if "/artifacts/" not in name and path.stat().st_size > MAX_CONTROL_BYTES:
                raise Damage(f"{printable(name)} is larger than any such file can be")
            with path.open("rb") as content:
                on_disk[name] = hashlib.file_digest(content, "sha256").hexdigest()
    for name in sorted(packed.files.keys() | on_disk.keys()):
        if name not in on_disk:
            raise Damage(f"missing from the pack: {name}")
        if name not in packed.files:
            raise Damage(f"not in the manifest: {printable(name)}")
        if on_disk[name] != packed.files[name]:
            raise Damage(f"changed since it was packed: {name}")
    if stray := sorted(p for p in on_disk if not _known_place(p)):
        raise Damage(f"a file that does not belong in a pack: {stray[0]}")
    return Folder(path=folder, digests=on_disk)


def same(due: Mapping[str, str], held: Mapping[str, str]) -> None:
    """Raises Damage unless the files are those that the statements name."""
    for name in sorted(due.keys() | held.keys()):
        if name not in held:
            raise Damage(f"missing from the pack: {name}")
        if name not in due:
            raise Damage(f"no statement names it: {name}")
        if due[name] != held[name]:
            raise Damage(f"not what the statement says: {name}")


def _known_place(name: str) -> bool:
    place, slash, rest = name.partition("/")
    if not slash:
        return name in _TOP
    if place == "keys":
        return rest == "FINGERPRINTS.txt" or rest.endswith(".pub")
    return place in _PLACES
