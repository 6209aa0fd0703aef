"""Collects the ids of all blobs that snapshots need: a set that may be larger than memory.

Everything that decides what may be deleted depends on it, so a listing that cannot be read is an
error and never an empty one.
"""

from binascii import a2b_base64
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import orjson

from backup.crypto.suite import ID_BYTES
from backup.errors import NewerFormat
from backup.format.tree import TYPES
from backup.index.id_set import IdSet
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Progress

if TYPE_CHECKING:
    from backup.format.snapshot import Snapshot
    from backup.repository.reader import Reader
    from backup.repository.repository import Repository


def reachable(
    repo: "Repository",
    snapshots: Iterable["Snapshot"],
    progress: Progress,
    *,
    reader: "Reader | None" = None,
) -> IdSet:
    """Every blob that one of the snapshots needs, listings too. Raises Damage for a listing that it cannot
    read. Pass a `reader` when there is one already: its catalogue is costly to open."""
    from backup.repository.reader import Reader  # noqa: PLC0415 — the index stands on IdSet

    trees = IdSet()
    for one in snapshots:
        trees.update(b"".join(one.content.tree))
    out = IdSet()
    own = reader or Reader(repo)
    try:
        progress.step(f"{repo.name}: {len(trees)} pieces of listings")
        for done, (id_, raw) in enumerate(_read(own, trees), 1):
            out.update(id_)
            out.update(ids_of(raw))
            progress.done(done, len(trees), unit="pieces")
    finally:
        if reader is None:
            own.__exit__()
    return out


def ids_of(listing: bytes) -> bytes:
    """The ids that a piece of a listing names, joined. A piece may begin in the middle of a file."""
    try:
        # One call for the whole piece: a line break cannot be inside a JSON string.
        lines = orjson.loads(b"[" + b",".join(listing.splitlines()) + b"]")
        for line in lines:
            # A later type may name its blobs in a field that we do not look at.
            if "more" not in line and line["type"] not in TYPES:
                raise NewerFormat(
                    f"a listing has an entry of type {line['type']!r}", hint="use a newer zaibei"
                )
        found = b"".join(
            a2b_base64(line[name], strict_mode=True)
            for line in lines
            for name in ("blobs", "more")
            if name in line
        )
    except (KeyError, TypeError, ValueError) as bad:
        raise Damage(f"a listing cannot be read: {bad}") from bad
    if len(found) % ID_BYTES:
        raise Damage("a listing names a blob that is cut short")
    return found


_AT_ONCE: Final = 65_536


def _read(reader: "Reader", trees: IdSet) -> Iterator[tuple[bytes, bytes]]:
    """Each piece once, those of one pack one after the other: else each would fetch its pack anew."""
    some: list[tuple[str, bytes]] = []

    def all_of_them() -> Iterator[tuple[bytes, bytes]]:
        ids = [id_ for _, id_ in sorted(some)]
        yield from zip(ids, reader.read_all(ids), strict=True)

    for id_ in trees:
        places = reader.catalogue.locations(id_)
        some.append((places[0].pack if places else "", id_))
        if len(some) == _AT_ONCE:
            yield from all_of_them()
            some.clear()
    yield from all_of_them()
