"""Read a file of a pack that is being checked: a regular file, and no larger than such a file can be."""

from pathlib import Path

from zaibei.kernel.errors import Damage

MAX_CONTROL_BYTES = 64 << 20  # of one file that is not an artefact


def read(folder: Path, name: str) -> bytes:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise Damage(f"missing from the pack: {name}")
    if path.stat().st_size > MAX_CONTROL_BYTES:
        raise Damage(f"{name} is larger than any such file can be")
    return path.read_bytes()
