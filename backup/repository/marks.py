"""Reads and writes marks: `marks/<digest>`, signed, readable by anyone who reads the vault.

A mark names packs that no snapshot needs, or whose blobs were repacked, and index segments whose
packs other segments name too. It deletes nothing. From then on no writer relies on a marked pack.
After the grace period, and after another look, the sweep removes what is still not needed. A mark
is removed last: as long as an index segment names a pack that is gone, its mark explains why.
"""

from collections.abc import Callable, Iterable, Sequence

from backup.crypto import signed
from backup.errors import Retired
from backup.format.mark import _DOCUMENT, PREFIX, Mark, _decode, _shared_out, key_of
from backup.repository import unreadable
from backup.repository.vault import OpenVault
from infra.objectstore.contract import NotThere, Stat
from zaibei.kernel.errors import Damage


def standing(
    repo: OpenVault, damaged: Callable[[Stat, Damage], object] | None = None
) -> tuple[Mark, ...]:
    """All of them. One that is taken away while we look is one whose packs are gone. Without `damaged` the first
    that cannot be read raises: for who removes."""
    out = []
    for stat in repo.listed(PREFIX):
        name = stat.key.removeprefix(PREFIX)
        try:
            out.append(_decode(repo.keys, name, repo.read(stat.key), stat.modified))
        except Retired:
            continue  # the word of a key that was retired, maybe because it was stolen, marks nothing
        except Damage as bad:
            if isinstance(bad.__cause__, NotThere):
                continue
            if damaged is None:
                raise unreadable.with_hint(bad) from bad
            damaged(stat, bad)
    return tuple(out)


def write(
    repo: OpenVault,
    *,
    packs: Iterable[str],
    segments: Iterable[str],
    observed: Sequence[int],
    why: str,
) -> int:
    """How many marks it took. Safe to die in the middle: the next run marks what is not marked yet."""
    repo.keys.require_root()
    count = 0
    for some, named in _shared_out(sorted(packs), sorted(segments)):
        body: signed.Body = {
            "format": 1,
            "repository": repo.keys.repository.hex(),
            "packs": list(some),
            "segments": list(named),
            "observed": list(observed),
            "why": why,
            "at": repo.clock.now().isoformat(),
        }
        data = signed.sign(_DOCUMENT, body, repo.keys.signer)
        repo.create(key_of(repo.keys.suite.digest(data)), data)
        count += 1
    return count
