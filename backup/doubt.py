"""Which packs of the index must a writer not rely on? Those that this machine knows to be damaged, and those that
are not there. What they held is then stored again, so that a run over a wounded vault is whole, and older
snapshots are mended by it as far as their source is still the same.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from backup import names
from backup.findings import Report
from backup.ledger import Ledger
from backup.pack import key_of
from backup.repository import Repository, retry
from backup.unneeded import Unneeded
from infra.objectstore.contract import NotThere
from zaibei.kernel.errors import Damage

# Ten pages of a listing. A run into a larger vault finds out at its end, and the next one knows (`Ledger.miss`).
LOOKED_MAX: Final = 10_000


def absent(repo: Repository, packs: Iterable[tuple[str, int]]) -> frozenset[str]:
    """Of these those that the vault does not have in their size; none, unasked, when they are too many."""
    wanted = dict(islice(packs, LOOKED_MAX + 1))
    return frozenset() if len(wanted) > LOOKED_MAX else lost(repo, wanted)


def lost(repo: Repository, packs: Mapping[str, int]) -> frozenset[str]:
    """The same of any number."""
    if not packs:
        return frozenset()

    def unlisted() -> dict[str, int]:
        left = dict(packs)
        for stat in names.ours_in(repo.store.list("packs/")):
            name = stat.key.rpartition("/")[2]
            if left.get(name) == stat.size_bytes:
                del left[name]
        return left

    wanted = retry(repo.clock, unlisted)
    # A listing may lag behind: what it does not show is asked for by name before it is called lost.
    return frozenset(name for name, size in wanted.items() if not _there(repo, name, size))


def still(
    there: Iterable[tuple[str, int]], known: Collection[str], seen: set[str]
) -> Iterator[tuple[str, int]]:
    """The same, and which of the known ones passed by."""
    for name, size in there:
        if name in known:
            seen.add(name)
        yield name, size


def told_again(
    out: Report, ledger: Ledger, seen: set[str], unneeded: Unneeded, bad: set[str]
) -> None:
    """What an earlier verification read and found damaged, and this one did not read: a look at the names
    does not make it whole."""
    told = {f.object for f in out.findings}
    for one in ledger.damaged_packs():
        if one.name not in seen or key_of(one.name) in told:
            continue
        if one.name in unneeded:
            out.note(f"{key_of(one.name)} is marked, nobody needs it: {one.why}")
            continue
        out.found(key_of(one.name), Damage(one.why), by_content=True)
        out.note(f"{key_of(one.name)} was found damaged at {one.at}, and not read again since")
        bad.add(one.name)


def _there(repo: Repository, name: str, size_bytes: int) -> bool:
    try:
        return retry(repo.clock, lambda: repo.store.stat(key_of(name))).size_bytes == size_bytes
    except NotThere:
        return False
