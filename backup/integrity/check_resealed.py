"""Opens every copy that a rotation re-encrypted.

A copy is read only when its original is missing or damaged. Without this check a bad copy would go
unnoticed until it is the last one left.
"""

from collections.abc import Collection, Mapping

from backup.format import forget_statement, snapshot, wal_segment
from backup.format.chain_link import Link
from backup.format.forget_statement import Forgotten
from backup.format.snapshot import Snapshot
from backup.hints import CLEAR_COPY, COPY_HAS_ORIGINAL
from backup.integrity.report import Finding, Report
from backup.repository.repository import Repository
from backup.repository.resealed import WORKERS, Copy, copy_of, open_log, open_snapshot, there, where
from infra.objectstore.contract import NotThere
from zaibei.kernel.errors import Damage
from zaibei.kernel.prefetch import ahead


def told(repo: Repository, out: Report, key: str, bad: Damage, *, by_content: bool = False) -> None:
    """Damage of what was read for `key`, under the name of the object that it is in."""
    stat = where(repo, key)
    one = None if stat is None else copy_of(stat.key)
    if one is None:
        out.found(key, bad, by_content=by_content)
        return
    found = out.found(one.key, bad, by_content=by_content)
    found.lost = f"what stands for {one.of}, which is gone"


def passed_over(
    out: Report, key: str, passed: Mapping[str, Damage], *, by_content: bool = False
) -> None:
    """What was read for `key` in vain, before something opened."""
    for name, bad in passed.items():
        found = out.found(name, bad, by_content=by_content)
        found.lost = f"nothing while a copy of {key} opens"
        found.mend = COPY_HAS_ORIGINAL if name == key else CLEAR_COPY


def check_snapshots(
    repo: Repository,
    out: Report,
    chain: Mapping[int, Snapshot],
    gone: Mapping[int, Forgotten],
) -> None:
    """Each copy says what its original says, or what the chain says of one that is gone."""
    links = {s: f.link for s, f in gone.items()} | {s: one.link for s, one in chain.items()}
    originals = {s.key for s in repo.listed(snapshot.PREFIX)}
    every = there(repo, snapshot.PREFIX)
    read = _read_already(every, originals)
    for one in every:
        sequence = snapshot.sequence_of(one.of)
        if one in read and sequence not in gone and sequence not in chain:
            continue  # the look at the chain read it, and told
        try:
            held = open_snapshot(repo, one)
            if held != chain.get(sequence, held):
                raise Damage(f"{repo.name}: {one.key} is not what its original is")
            if (why := why_not_linked(held.link, links)) is not None:
                raise Damage(f"{repo.name}: {one.key}: {why}")
        except Damage as bad:
            if isinstance(bad.__cause__, NotThere):
                continue  # swept meanwhile
            if sequence in gone and gone[sequence].why in (
                forget_statement.LOST,
                forget_statement.HEALED,
            ):
                out.note(f"{one.key} is damaged, and a statement says that the snapshot is")
                continue
            opens = sequence in chain or (sequence in gone and one.of in originals)
            _spare(out.found(one.key, bad), one, opens=opens)


def check_log(
    repo: Repository, out: Report, *, told: Collection[str], lost: Collection[str]
) -> None:
    """Every copy that was not read in place of its original. `told`: damage of these was; `lost`: names under
    which nothing opens."""
    originals = {s.key for s in repo.listed(wal_segment.PREFIX)}
    every = there(repo, wal_segment.PREFIX)
    read = _read_already(every, originals)
    rest = [one for one in every if one not in read and one.key not in told]
    for one, done in ahead(rest, lambda c: open_log(repo, c), workers=WORKERS):
        try:
            out.bytes_read += done.result()
        except Damage as bad:
            if not isinstance(bad.__cause__, NotThere):
                found = out.found(one.key, bad, by_content=True)
                _spare(found, one, opens=one.of not in lost)


def why_not_linked(held: Link, links: Mapping[int, Link]) -> str | None:
    """Digest and previous against what the chain says, as far as it says anything. Pure."""
    own, before, after = (links.get(held.sequence + n) for n in (0, -1, 1))
    digest = (own and own.digest) or (after and after.previous)
    previous = (own and own.previous) or (before and before.digest)
    if digest not in (None, held.digest):
        return "not the digest of its original"
    if previous not in (None, held.previous) or (
        (held.previous is None) != (held.sequence == snapshot.FIRST)
    ):
        return "does not follow the snapshot before it"
    return None


def _read_already(every: list[Copy], originals: set[str]) -> set[Copy]:
    """Of each original that is gone the newest copy."""
    newest: dict[str, Copy] = {}
    for one in every:
        if one.of not in originals and (one.of not in newest or newest[one.of].epoch < one.epoch):
            newest[one.of] = one
    return set(newest.values())


def _spare(found: Finding, one: Copy, *, opens: bool) -> None:
    if opens:
        found.lost = f"nothing while {one.of} opens"
        found.mend = CLEAR_COPY
    else:
        found.lost = f"what would stand for {one.of}, which does not open"
