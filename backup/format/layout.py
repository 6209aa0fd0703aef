"""Which names in a vault are ours: the table of objects in docs/design/repository.md, as one
pattern.

Other programs leave files among ours (`.DS_Store`, `lost+found`, a README). They are neither read
nor removed; `verify` reports them. An object under one of our names is ours, whatever it holds.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from infra.objectstore.contract import Stat

_DIGEST = "[0-9a-f]{64}"
_NUMBER = "(?!0{10})[0-9]{10}"
_LATER = "(?!0{9}[01])[0-9]{10}"  # of an epoch that was announced: the first one never is
WAL: Final = re.compile(
    r"wal/system=(?P<system>[0-9]+)/epoch=(?P<epoch>[0-9]+)/timeline=(?P<timeline>[0-9A-F]{8})/"
    r"(?:(?P<history>(?P=timeline)\.history)"
    # Of segments of 16 MiB no more than 256 make a log file.
    r"|(?P<segment>(?P=timeline)[0-9A-F]{8}0{6}[0-9A-F]{2})(?:\.part/(?P<part>[0-9]{6}))?)"
)
_OURS: Final = re.compile(
    rf"""
      config
    | (?: index | keys | marks | revoked )/{_DIGEST}
    | packs/(?P<shelf>[0-9a-f]{{2}})/(?P=shelf)[0-9a-f]{{62}}
    | forgets/{_NUMBER}
    | epochs/{_LATER}
    | (?: resealed/{_LATER}/ )? (?: snapshots/{_NUMBER} | {WAL.pattern} )
    | runs/[0-9a-f]{{32}}/(?: [0-9]{{6}} | end )
    | leases/[0-9a-f]{{32}}/[0-9]{{4}}(?: \.end )?
    """,
    re.VERBOSE,
)
ALWAYS: Final = (
    "keys/",
    "epochs/",
    "revoked/",
    "forgets/",
)  # what opens it, what explains its chain
FOLDERS: Final = (
    "epochs",
    "forgets",
    "index",
    "keys",
    "leases",
    "marks",
    "packs",
    "resealed",
    "revoked",
    "runs",
    "snapshots",
    "wal",
)


def ours(key: str) -> bool:
    return _OURS.fullmatch(key) is not None


def ours_in(stats: Iterable[Stat]) -> Iterator[Stat]:
    """Of a listing; lazily, as it is."""
    return (s for s in stats if ours(s.key))
