"""Lists what two snapshots do not share, entry by entry. The older listing waits in a private file:
both may be of any length.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from enum import StrEnum

from backup.format.snapshot import Snapshot
from backup.format.tree import Node, Type
from backup.repository.reader import Reader


class Change(StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    CONTENT = "content"  # other bytes, another target or another kind of thing
    ATTRIBUTES = "attributes"  # owner, mode, times, extended attributes


def between(reader: Reader, old: Snapshot, new: Snapshot) -> Iterator[tuple[Change, bytes]]:
    """Raises Damage at the end of a listing that is not whole: what was said until then is true."""
    return differences(reader.nodes(old), reader.nodes(new))


def differences(old: Iterable[Node], new: Iterable[Node]) -> Iterator[tuple[Change, bytes]]:
    """In the order of `new`; what was removed comes last."""
    db = sqlite3.connect("", isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute(
            "CREATE TABLE old (name BLOB PRIMARY KEY, path BLOB, content BLOB, attributes BLOB)"
            " WITHOUT ROWID"
        )
        db.execute("BEGIN")
        db.executemany(
            "INSERT OR REPLACE INTO old VALUES (?, ?, ?, ?)",
            ((_name(n), n.path, _content(n), _attributes(n)) for n in old),
        )
        for node in new:
            name = _name(node)
            was = db.execute("SELECT content, attributes FROM old WHERE name = ?", (name,))
            held = was.fetchone()
            if held is None:
                yield Change.ADDED, node.path
                continue
            db.execute("DELETE FROM old WHERE name = ?", (name,))
            if held[0] != _content(node):
                yield Change.CONTENT, node.path
            elif held[1] != _attributes(node):
                yield Change.ATTRIBUTES, node.path
        for (path,) in db.execute("SELECT path FROM old ORDER BY name"):
            yield Change.REMOVED, path
    finally:
        db.close()


def _name(node: Node) -> bytes:
    # A bucket has a key once for each of its versions.
    version = "" if node.object is None else str(node.object.version)
    return node.path + b"\0" + version.encode()


def _content(node: Node) -> bytes:
    told = (node.type, node.size_bytes, node.target, node.rdev, node.holes, node.hard)
    one = hashlib.blake2b(repr(told).encode(), digest_size=16)
    for id_ in node.blobs:
        one.update(id_)
    return one.digest()


def _attributes(node: Node) -> bytes:
    # A directory's time moves with what is in it, and that is told already.
    mtime_ns = 0 if node.type is Type.DIRECTORY else node.mtime_ns
    told = (node.mode, node.uid, node.gid, mtime_ns, node.xattrs, node.object)
    return hashlib.blake2b(repr(told).encode(), digest_size=16).digest()
