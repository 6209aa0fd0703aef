"""The manifest of a pack: a signed note that names every other file and its sha256.

It binds what the log does not hold: the documents, the script, the proofs, the keys' file names. The
first line keeps it apart from a checkpoint, which the same key signs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from zaibei.evidence import note
from zaibei.kernel.errors import Damage, Usage

FILE = "MANIFEST"
FORM = "urn:zaibei:pack/v1"
_LINE = re.compile(r"(?P<sha>[0-9a-f]{64})  (?P<path>[A-Za-z0-9._/-]+)")
# Controls, line separators, and what turns the direction of text: the same list in `packed/verify.sh`.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_PACKED_AT = re.compile(f"{note.SECOND}Z")
_MAX_TITLE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    title: str
    log: note.Checkpoint  # the head this pack was made from
    packed_at: str  # RFC 3339
    files: Mapping[str, str]  # path -> sha256

    def encode(self) -> bytes:
        origin, size, root = self.log.encode().decode().split()
        head = [FORM, self.title, f"log {origin} {size} {root}", f"packed {self.packed_at}"]
        return "\n".join(
            [*head, *(f"{self.files[p]}  {p}" for p in sorted(self.files)), ""]
        ).encode()


def checked_title(title: str) -> str:
    if not title.strip(" ") or len(title) > _MAX_TITLE or _UNSEEN.search(title):
        raise Usage(f"not a title: {title!r}", hint=f"one line of at most {_MAX_TITLE} characters")
    return title


def parse(text: bytes) -> Manifest:
    """Raises Damage unless `text` is what `encode` writes."""
    try:
        form, title, head, packed, *lines = text.decode().removesuffix("\n").split("\n")
        word, origin, size, root = head.split(" ")
        found = [_LINE.fullmatch(line) for line in lines]
        manifest = Manifest(
            title=checked_title(title),
            log=note.parse_checkpoint(f"{origin}\n{size}\n{root}\n".encode()),
            packed_at=packed.removeprefix("packed "),
            files={m["path"]: m["sha"] for m in found if m},
        )
    except (ValueError, Usage) as bad:
        raise Damage("the manifest is malformed") from bad
    if not _PACKED_AT.fullmatch(manifest.packed_at):
        raise Damage("the manifest does not say when it was packed, in UTC")
    dots = [p for p in manifest.files if {"", ".", ".."} & set(p.split("/"))]
    if form != FORM or word != "log" or dots or manifest.encode() != text:
        raise Damage("the manifest is not written in its one form")
    return manifest
