"""Checks the first bytes of files against their suffix: does a `.pdf` begin as a PDF does?

Formats that are compressed look like noise before and after an encryption, so their entropy says
nothing. Their first bytes do: encrypting a file from its start destroys them.
"""

import threading
from typing import Final

HEAD_BYTES: Final = 16
WRONG_MAX: Final = 20_000  # remembered by name; the count goes on

_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_OLE = (b"\xd0\xcf\x11\xe0",)
_MAGIC: Final[dict[bytes, tuple[bytes, ...]]] = {
    b"7z": (b"7z\xbc\xaf\x27\x1c",),
    b"bz2": (b"BZh",),
    b"doc": _OLE,
    b"docx": _ZIP,
    b"gif": (b"GIF8",),
    b"gz": (b"\x1f\x8b",),
    b"jar": _ZIP,
    b"jpeg": (b"\xff\xd8\xff",),
    b"jpg": (b"\xff\xd8\xff",),
    b"odt": _ZIP,
    b"ofd": _ZIP,
    b"pdf": (b"%PDF",),
    b"png": (b"\x89PNG\r\n\x1a\n",),
    b"pptx": _ZIP,
    b"rar": (b"Rar!\x1a\x07",),
    b"tgz": (b"\x1f\x8b",),
    b"wasm": (b"\0asm",),
    b"webp": (b"RIFF",),
    b"whl": _ZIP,
    b"woff2": (b"wOF2",),
    b"xls": _OLE,
    b"xlsx": _ZIP,
    b"xz": (b"\xfd7zXZ\0",),
    b"zip": _ZIP,
    b"zst": (b"\x28\xb5\x2f\xfd",),
}


def extension(path: bytes) -> bytes:
    """Lower case, without the dot; empty when the name has none."""
    name = path.rpartition(b"/")[2]
    stem, dot, last = name.rpartition(b".")
    return last.lower() if dot and stem else b""


class MagicCheck:
    """What a run saw. Thread-safe; a lookup and a comparison a file."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wrong: set[bytes] = set()
        self.seen = 0
        self.wrong = 0

    def look(self, path: bytes, first: bytes) -> None:
        known = _MAGIC.get(extension(path))
        if known is None or not first:
            return
        fits = first.startswith(known)
        with self._lock:
            self.seen += 1
            if not fits:
                self.wrong += 1
                if len(self._wrong) < WRONG_MAX:
                    self._wrong.add(path)

    def is_wrong(self, path: bytes) -> bool:
        return path in self._wrong

    def vouched(self, path: bytes) -> bool:
        """A known format that begins as it should: that it does not compress is no news. Where more are wrong than are
        remembered, nobody can say of one that it is not among them."""
        return extension(path) in _MAGIC and path not in self._wrong and self.wrong <= WRONG_MAX
