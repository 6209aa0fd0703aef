"""An append-only log in a folder (C2SP tlog-tiles): entry bundles, hash tiles, one signed checkpoint.

Order for the crash: an entry is true once its bundle is on disk under its name; then the hash tiles,
then the checkpoint that signs them. Whatever lies beyond the checkpoint after a crash is a whole entry
(bundles are written under another name and renamed), and the next writer signs it. Anything *less*
than what the checkpoint signs is damage, and nothing is ever appended to a damaged log.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zaibei.evidence import note, tiles, tree
from zaibei.kernel.errors import Damage, Usage
from zaibei.kernel.state import write_atomic

Sign = Callable[[note.Checkpoint], bytes]  # a whole signed note over the checkpoint
WHOLE = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What the folder holds now: the signed head, and every entry, perhaps some not signed yet."""

    head: note.Checkpoint
    entries: tuple[bytes, ...]
    leaves: tuple[bytes, ...]


def create(directory: Path, *, origin: str, sign: Sign) -> None:
    """A log of no entries. The checkpoint of nothing is signed too: a missing one is then damage."""
    if not (directory / WHOLE).exists():
        refuse_orphans(directory)
        empty = note.Checkpoint(origin=origin, size=0, root=tree.EMPTY_ROOT)
        write_atomic(directory / WHOLE, sign(empty))


def refuse_orphans(directory: Path) -> None:
    """Entries without a checkpoint are not a new log."""
    if any(directory.glob("tile/**/*")) and not (directory / WHOLE).exists():
        raise Damage(
            f"{directory} has entries and no checkpoint",
            hint="bring the checkpoint back from a witness or a pack; do not start a new log here",
        )


def read(directory: Path) -> Contents:
    """Raises Damage when the entries are not those that the checkpoint signed.

    Signatures are the business of the caller: this reads what the folder says.
    """
    try:
        head = note.parse_checkpoint(note.parse((directory / WHOLE).read_bytes()).text)
    except FileNotFoundError as gone:
        raise Damage(f"{directory} has no checkpoint") from gone
    entries: list[bytes] = []
    for number in range(-(-max(head.size, 1) // tiles.WIDTH) + 1):
        held = _bundle(directory, number, due=min(tiles.WIDTH, head.size - number * tiles.WIDTH))
        entries += held
        if len(held) < tiles.WIDTH:
            break
    if len(entries) < head.size:
        raise Damage(f"the log holds {len(entries)} entries; its checkpoint signs {head.size}")
    leaves = tuple(tree.leaf_hash(e) for e in entries)
    if tree.root(leaves[: head.size]) != head.root:
        raise Damage(f"the log is not what its checkpoint signs ({head.size} entries)")
    return Contents(head=head, entries=tuple(entries), leaves=leaves)


def append(directory: Path, contents: Contents, entry: bytes) -> Contents:
    """Make the entry durable. It is signed by `publish`, or by the next writer after a crash here."""
    if len(entry) > tiles.MAX_ENTRY_BYTES:
        raise Usage(
            f"an entry of {len(entry)} bytes is too long for the log ({tiles.MAX_ENTRY_BYTES})",
            hint="put the long series into an artefact and name it in `subject`",
        )
    entries = (*contents.entries, entry)
    number = (len(entries) - 1) // tiles.WIDTH
    held = entries[number * tiles.WIDTH :]
    write_atomic(directory / tiles.path("entries", number, len(held)), tiles.encode_bundle(held))
    leaves = (*contents.leaves, tree.leaf_hash(entry))
    return Contents(head=contents.head, entries=entries, leaves=leaves)


def publish(directory: Path, contents: Contents, *, sign: Sign) -> Contents:
    """Hash tiles, then the checkpoint, then the partial files that nobody needs any more."""
    size = len(contents.leaves)
    head = note.Checkpoint(origin=contents.head.origin, size=size, root=tree.root(contents.leaves))
    for name, raw in tiles.hash_tiles(contents.leaves, since=contents.head.size):
        write_atomic(directory / name, raw)
    write_atomic(directory / WHOLE, sign(head))
    _sweep(directory, wanted(contents.leaves))
    return Contents(head=head, entries=contents.entries, leaves=contents.leaves)


def wanted(leaves: Sequence[bytes]) -> frozenset[str]:
    """The files a log of these leaves consists of, besides the checkpoint."""
    hashes = {name for name, _ in tiles.hash_tiles(leaves)}
    bundles = {tiles.path("entries", n, width) for n, width in tiles.bundles(len(leaves))}
    return frozenset(hashes | bundles)


def _bundle(directory: Path, number: int, *, due: int) -> list[bytes]:
    """The widest whole bundle of this number.

    Wider than due: written just before a crash. A wider one that is cut off (a disk that lied about
    flushing) is a torn tail and is passed over, as long as what was signed is there.
    """
    full = directory / tiles.path("entries", number)
    widths = [int(p.name) for p in full.with_name(f"{full.name}.p").glob("*") if p.name.isdigit()]
    if full.exists():
        widths.append(tiles.WIDTH)
    for width in sorted(widths, reverse=True):
        name = tiles.path("entries", number, width)
        try:
            return tiles.decode_bundle((directory / name).read_bytes(), width)
        except Damage:
            if width <= due:
                raise
    return []


def _sweep(directory: Path, keep: frozenset[str]) -> None:
    for path in directory.glob("tile/**/*"):
        if path.is_file() and str(path.relative_to(directory)) not in keep:
            path.unlink()
    for folder in directory.glob("tile/**/*.p"):
        with suppress(OSError):  # not empty
            folder.rmdir()
