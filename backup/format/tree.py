"""The listing of a snapshot: one JSON line an entry, in blobs of whole lines, in the order they
were read.

Names are bytes: UTF-8 where possible, hex otherwise. A file of very many blobs continues in `more`
lines, so that no line and no tree blob outgrows its bound. Fields are only ever added. An entry of
an unknown type was written by a later zaibei and is refused, because leaving it out would be a
silent hole.
"""

import binascii
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import orjson

from backup.crypto.suite import ID_BYTES
from backup.errors import NewerFormat
from zaibei.kernel.errors import Damage

LINE_BLOBS_MAX: Final = 4096
TREE_BYTES: Final = 512 << 10  # a tree blob is closed when it holds this much
NAME_BYTES_MAX: Final = 64 << 10
XATTR_BYTES_MAX: Final = 1 << 20  # of one entry, names and values
ID_MAX: Final = 2**32 - 2  # of an owner; the next one means "leave it as it is"
MODE_MAX: Final = 0o7777
SIZE_MAX: Final = 2**63 - 1
RDEV_MAX: Final = (2**12 - 1, 2**20 - 1)  # what Linux gives a major and a minor
HOLES_MAX: Final = 8192  # of one file; a file of more is read as if it had none
Extent = tuple[int, int]  # offset, length


class Type(StrEnum):
    FILE = "file"
    DIRECTORY = "dir"
    LINK = "link"
    FIFO = "fifo"
    SOCKET = "socket"
    CHAR = "char"
    BLOCK = "block"
    OBJECT = "object"  # a version of an S3 key: its path is the key, as it is
    MARKER = "marker"  # a delete marker of an S3 key


TYPES: Final = {t.value: t for t in Type}
_DATA: Final = frozenset((Type.FILE, Type.OBJECT))
_DEVICES: Final = frozenset((Type.CHAR, Type.BLOCK))
OBJECTS: Final = frozenset((Type.OBJECT, Type.MARKER))


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """What a bucket says of one version of a key. `meta`: content-type and user metadata, by header."""

    version: str | None
    etag: str
    latest: bool
    meta: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One entry. `path` is relative, `/`-separated, never with `.` or `..` parts (a key may be anything).

    `blobs` are the data without the holes: `size_bytes` is theirs and the holes' together. An entry with
    `hard` is one more name of the file at that path; its blobs are there all the same, so that it can be
    restored without the other. `ctime_ns` and `inode` 0: not known. `torn`: it changed while it was read."""

    path: bytes
    type: Type
    mode: int
    mtime_ns: int
    uid: int = 0
    gid: int = 0
    size_bytes: int = 0
    target: bytes = b""  # of a link
    blobs: tuple[bytes, ...] = ()
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    hard: bytes = b""
    holes: tuple[Extent, ...] = ()
    rdev: tuple[int, int] = (0, 0)  # major, minor
    ctime_ns: int = 0
    device: int = 0
    inode: int = 0
    object: Object | None = None
    torn: bool = False

    @property
    def data_bytes(self) -> int:
        """What the blobs hold together."""
        return self.size_bytes - sum(length for _, length in self.holes)


def why_unsafe(path: bytes) -> str | None:
    """Why a restore must not touch this name; None when it may."""
    if not path or b"\0" in path:
        return "empty or with a NUL"
    if len(path) > NAME_BYTES_MAX:
        return "too long"
    if any(p in (b"", b".", b"..") for p in path.split(b"/")):
        return "absolute or climbing out"
    return None


def segments(node: Node) -> list[Extent]:
    """Where the data of a file is, between its holes."""
    found, at = [], 0
    for offset, length in node.holes:
        if offset > at:
            found.append((at, offset - at))
        at = offset + length
    if at < node.size_bytes:
        found.append((at, node.size_bytes - at))
    return found


def encode(node: Node, blobs: Sequence[bytes] | None = None) -> Iterator[bytes]:
    """`blobs`: instead of the node's own, whose ids are another vault's or not known yet."""
    if blobs is None:
        blobs = node.blobs
    line: dict[str, Any] = _text("path", node.path)
    line |= {
        "type": node.type.value,
        "mode": node.mode,
        "mtime_ns": node.mtime_ns,
        "uid": node.uid,
        "gid": node.gid,
    }
    if node.type is Type.LINK:
        line |= _text("target", node.target)
    if node.type in _DATA:
        line |= {"size": node.size_bytes, "blobs": _packed(blobs[:LINE_BLOBS_MAX])}
    if node.holes:
        line["holes"] = node.holes
    if node.hard:
        line |= _text("hard", node.hard)
    if node.type in _DEVICES:
        line["rdev"] = node.rdev
    if node.xattrs:
        line |= _attributes(node.xattrs)
    if node.inode:
        line |= {"ctime_ns": node.ctime_ns, "dev_ino": (node.device, node.inode)}
    if node.torn:
        line["torn"] = True
    if (about := node.object) is not None:
        line["object"] = {"version": about.version, "etag": about.etag, "latest": about.latest}
        if about.meta:
            line["object"]["meta"] = dict(about.meta)
    yield _line(line)
    for at in range(LINE_BLOBS_MAX, len(blobs), LINE_BLOBS_MAX):
        yield _line({"more": _packed(blobs[at : at + LINE_BLOBS_MAX])})


def decode(blobs: Iterable[bytes]) -> Iterator[Node]:
    """Raises Damage for anything that `encode` does not write, NewerFormat for an unknown type."""
    open_: Node | None = None
    more: list[bytes] = []
    for raw in blobs:
        for line in raw.splitlines():
            try:
                fields = orjson.loads(line)
                if "more" in fields:
                    more += _unpacked(fields["more"])
                    continue
                if open_ is not None:
                    yield _whole(open_, more)
                open_, more = _node(fields), []
            except (KeyError, TypeError, ValueError, AttributeError) as bad:
                raise Damage(f"a listing has a line that cannot be read: {bad}") from bad
    if open_ is not None:
        yield _whole(open_, more)
    elif more:
        raise Damage("a listing begins in the middle of a file")


def _whole(node: Node, more: list[bytes]) -> Node:
    if not more:
        return node
    if node.type not in _DATA:
        raise Damage("a listing gives blobs to what is not a file")
    return replace(node, blobs=node.blobs + tuple(more))


def _node(fields: dict[str, Any]) -> Node:
    type_ = TYPES.get(fields["type"])
    if type_ is None:
        raise NewerFormat(
            f"a listing has an entry of type {fields['type']!a}", hint="use a newer zaibei"
        )
    mode, mtime_ns, uid, gid = fields["mode"], fields["mtime_ns"], fields["uid"], fields["gid"]
    # A bool is an int, and no number. In one line: this is asked of every entry of every listing.
    if not (type(mode) is type(mtime_ns) is type(uid) is type(gid) is int):
        raise ValueError("a number is not one")
    path = _bytes("path", fields)
    # What no system call takes: a restore would end with an error of the language, and its entry unnamed.
    if not (0 <= uid <= ID_MAX and 0 <= gid <= ID_MAX and 0 <= mode <= MODE_MAX):
        raise ValueError(f"{os.fsdecode(path)!a}: owner {uid}:{gid}, mode {mode}: out of range")
    data = type_ is Type.FILE or type_ is Type.OBJECT
    plain = type_ is Type.DIRECTORY or type_ is Type.FILE
    extra = {} if plain and len(fields) == (8 if data else 6) else _extra(fields, type_)
    if extra and (why := _impossible(extra)) is not None:
        raise ValueError(f"{os.fsdecode(path)!a}: {why}")
    if b"\0" in path and type_ not in OBJECTS:
        raise ValueError(f"{os.fsdecode(path)!a}: a NUL in a name")
    if data:
        if not 0 <= (size := _number(fields["size"])) <= SIZE_MAX:
            raise ValueError(f"{os.fsdecode(path)!a}: size {size}: out of range")
        extra["size_bytes"] = size
        extra["blobs"] = tuple(_unpacked(fields["blobs"]))
    return Node(
        path=path,
        type=type_,
        mode=mode,
        mtime_ns=mtime_ns,
        uid=uid,
        gid=gid,
        **extra,
    )


def _extra(fields: dict[str, Any], type_: Type) -> dict[str, Any]:
    """The fields that most entries lack."""
    found: dict[str, Any] = {}
    if type_ is Type.LINK:
        found["target"] = _bytes("target", fields)
    if "ctime_ns" in fields:
        found["ctime_ns"] = _number(fields["ctime_ns"])
        found["device"], found["inode"] = map(_number, fields["dev_ino"])
    if "xattrs" in fields or "xattrs_hex" in fields:
        named = [(n.encode(), v) for n, v in fields.get("xattrs", {}).items()]
        named += [(bytes.fromhex(n), v) for n, v in fields.get("xattrs_hex", {}).items()]
        found["xattrs"] = tuple(sorted((n, _raw(v)) for n, v in named))
    if type_ is not Type.DIRECTORY and ("hard" in fields or "hard_hex" in fields):
        found["hard"] = _bytes("hard", fields)
    if fields.get("torn") is True:
        found["torn"] = True
    if type_ is Type.FILE and "holes" in fields:
        found["holes"] = _holes(fields["holes"], _number(fields["size"]))
    if type_ in _DEVICES:
        major, minor = map(_number, fields["rdev"])
        found["rdev"] = (major, minor)
    if type_ in OBJECTS:
        found["object"] = _object(fields["object"])
    return found


def _impossible(extra: dict[str, Any]) -> str | None:
    """What no system call takes, of the fields that most entries lack."""
    if b"\0" in extra.get("target", b"") or b"\0" in extra.get("hard", b""):
        return "a NUL in what it links to"
    if any(b"\0" in name for name, _ in extra.get("xattrs", ())):
        return "a NUL in an attribute's name"
    major, minor = extra.get("rdev", (0, 0))
    if not (0 <= major <= RDEV_MAX[0] and 0 <= minor <= RDEV_MAX[1]):
        return f"device {major}:{minor}: out of range"
    return None


def _holes(pairs: Any, size: int) -> tuple[Extent, ...]:
    """Rising, apart, inside the file: anything else would write one byte of a blob twice or nowhere."""
    found, at = [], -1
    for offset, length in pairs:
        if not (_number(offset) > at and _number(length) > 0 and offset + length <= size):
            raise ValueError("holes overlap or leave the file")
        found.append((offset, length))
        at = offset + length
    return tuple(found)


def _object(said: dict[str, Any]) -> Object:
    version, etag, latest = said["version"], said["etag"], said["latest"]
    meta = tuple(sorted(said.get("meta", {}).items()))
    texts = (etag, *(t for pair in meta for t in pair), *(() if version is None else (version,)))
    if type(latest) is not bool or not all(type(t) is str for t in texts):
        raise ValueError("an object is described in other than text")
    return Object(version=version, etag=etag, latest=latest, meta=meta)


def _attributes(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, dict[str, str]]:
    text, other = {}, {}
    for name, value in pairs:
        said = binascii.b2a_base64(value, newline=False).decode()
        try:
            text[name.decode()] = said
        except UnicodeDecodeError:
            other[name.hex()] = said
    return {k: v for k, v in (("xattrs", text), ("xattrs_hex", other)) if v}


def _line(fields: dict[str, Any]) -> bytes:
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def _number(value: Any) -> int:
    if type(value) is not int:  # a bool is an int, and no size
        raise ValueError("a number is not one")
    return value


def _text(name: str, value: bytes) -> dict[str, str]:
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_hex": value.hex()}


def _bytes(name: str, fields: dict[str, Any]) -> bytes:
    if (text := fields.get(name)) is not None:
        raw: bytes = text.encode()
        return raw
    return bytes.fromhex(fields[f"{name}_hex"])


def _packed(ids: Iterable[bytes]) -> str:
    return binascii.b2a_base64(b"".join(ids), newline=False).decode()


def _raw(text: str) -> bytes:
    # `strict_mode` passes an empty text and refuses everything that base64 does not write.
    return binascii.a2b_base64(text, strict_mode=True)


def _unpacked(text: str) -> list[bytes]:
    raw = _raw(text)
    if len(raw) == ID_BYTES:
        return [raw]
    if len(raw) % ID_BYTES:
        raise ValueError("a list of blobs is cut short")
    return [raw[i : i + ID_BYTES] for i in range(0, len(raw), ID_BYTES)]
