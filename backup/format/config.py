"""The repository's config: id, suite, and the key that signed it."""

from dataclasses import dataclass
from typing import Final

FORMAT: Final = 1
CONFIG: Final = "config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    repository: bytes
    suite: str
    signer: bytes
    created: str
    ids: str = ""  # how the suite names blobs; "" for its first way
