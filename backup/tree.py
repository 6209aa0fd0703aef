"""The listing of a snapshot: one JSON line an entry, in blobs of whole lines, in the order they were read.

Names are bytes: UTF-8 where it is, hex where it is not. A file of very many blobs goes on in `more` lines,
so that no line and no tree blob outgrows its bound.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from backup.suite import ID_BYTES
from zaibei.kernel.errors import Damage

LINE_BLOBS_MAX: Final = 4096
TREE_BYTES: Final = 512 << 10  # a tree blob is closed when it holds this much
NAME_BYTES_MAX: Final = 64 << 10


class Type(StrEnum):
    FILE = "file"
    DIRECTORY = "dir"
    LINK = "link"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One entry. `path` is relative, `/`-separated, never with `.` or `..` parts."""

    path: bytes
    type: Type
    mode: int
    mtime_ns: int
    uid: int = 0
    gid: int = 0
    size_bytes: int = 0
    target: bytes = b""  # of a link
    blobs: tuple[bytes, ...] = ()


def why_unsafe(path: bytes) -> str | None:
    """Why a restore must not touch this name; None when it may."""
    parts = path.split(b"/")
    if not path or b"\0" in path:
        return "empty or with a NUL"
    if len(path) > NAME_BYTES_MAX:
        return "too long"
    if any(p in (b"", b".", b"..") for p in parts):
        return "absolute or climbing out"
    return None


def encode(node: Node) -> Iterator[bytes]:
    line: dict[str, Any] = {
        **_text("path", node.path),
        "type": node.type.value,
        "mode": node.mode,
        "mtime_ns": node.mtime_ns,
        "uid": node.uid,
        "gid": node.gid,
    }
    if node.type is Type.LINK:
        line |= _text("target", node.target)
    if node.type is Type.FILE:
        line |= {"size": node.size_bytes, "blobs": _packed(node.blobs[:LINE_BLOBS_MAX])}
    yield _line(line)
    for at in range(LINE_BLOBS_MAX, len(node.blobs), LINE_BLOBS_MAX):
        yield _line({"more": _packed(node.blobs[at : at + LINE_BLOBS_MAX])})


def decode(blobs: Iterable[bytes]) -> Iterator[Node]:
    """Raises Damage for anything that `encode` does not write."""
    open_: Node | None = None
    more: list[bytes] = []
    for raw in blobs:
        for line in raw.splitlines():
            try:
                fields = json.loads(line)
                if "more" in fields:
                    more += _unpacked(fields["more"])
                    continue
                if open_ is not None:
                    yield _whole(open_, more)
                open_, more = _node(fields), []
            except (KeyError, TypeError, ValueError, RecursionError) as bad:
                raise Damage(f"a listing has a line that cannot be read: {bad}") from bad
    if open_ is not None:
        yield _whole(open_, more)
    elif more:
        raise Damage("a listing begins in the middle of a file")


def _whole(node: Node, more: list[bytes]) -> Node:
    if more and node.type is not Type.FILE:
        raise Damage("a listing gives blobs to what is not a file")
    return replace(node, blobs=node.blobs + tuple(more)) if more else node


def _node(fields: dict[str, Any]) -> Node:
    type_ = Type(fields["type"])
    numbers = {k: fields[k] for k in ("mode", "mtime_ns", "uid", "gid")}
    if not all(isinstance(v, int) for v in numbers.values()):
        raise ValueError("a number is not one")
    return Node(
        path=_bytes("path", fields),
        type=type_,
        **numbers,
        target=_bytes("target", fields) if type_ is Type.LINK else b"",
        size_bytes=int(fields["size"]) if type_ is Type.FILE else 0,
        blobs=tuple(_unpacked(fields["blobs"])) if type_ is Type.FILE else (),
    )


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def _text(name: str, value: bytes) -> dict[str, str]:
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_hex": value.hex()}


def _bytes(name: str, fields: dict[str, Any]) -> bytes:
    if name in fields:
        return str(fields[name]).encode()
    return bytes.fromhex(fields[f"{name}_hex"])


def _packed(ids: Iterable[bytes]) -> str:
    return base64.b64encode(b"".join(ids)).decode()


def _unpacked(text: str) -> list[bytes]:
    raw = base64.b64decode(text, validate=True)
    if len(raw) % ID_BYTES:
        raise ValueError("a list of blobs is cut short")
    return [raw[i : i + ID_BYTES] for i in range(0, len(raw), ID_BYTES)]
