"""Removes what cannot be read under a name, version by version: an older version may be whole."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from backup.crypto.seal import Kind, open_whole
from backup.errors import Retired, UnknownHost
from backup.format import snapshot, wal_segment
from backup.format.revocation import _decode
from backup.format.snapshot import Snapshot
from backup.repository.chain import _signed
from backup.repository.repository import Repository
from backup.repository.resealed import (
    WORKERS,
    copy_of,
    open_log,
    open_snapshot,
    read_without,
    there,
)
from backup.repository.vault import retry
from infra.objectstore.contract import Locked, NotThere, ObjectStore
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.prefetch import ahead

_MOST: Final = 16  # of one name, removed in one go


def remove_damaged(
    repo: "Repository",
    deleter: ObjectStore,
    key: str,
    *,
    damaged: Callable[[], bool],
    stays: Callable[[], str | None] = lambda: None,
) -> str | None:
    """Until what is read under the name is whole. Why it was not removed, or None. `damaged` and `stays` look anew each
    time: somebody else may be at it."""
    for _ in range(_MOST):
        try:
            # The version before the look: a whole one that comes meanwhile is another version, and stays.
            version = retry(repo.clock, lambda: repo.store.stat(key)).version
            if not damaged():
                return None
            if (why := stays()) is not None:
                return why
            retry(repo.clock, lambda version=version: deleter.remove(key, version=version))  # type: ignore[misc]
        except NotThere:
            return None
        except (Locked, Refused) as no:
            return no.message
    return f"{_MOST} damaged versions of it were removed, and there are more"


def spare(repo: Repository, chain: Iterable[Snapshot], *, read: bool) -> dict[str, str]:
    """Copies that do not open, or say something else than the chain does, where the name that they are copies of is
    read without them: key -> what is wrong. `read`: those of the log too."""
    known = {one.sequence: one for one in chain}
    every = [*there(repo, snapshot.PREFIX), *(there(repo, wal_segment.PREFIX) if read else ())]
    out = {}
    for one, done in ahead(every, lambda c: _wrong(repo, c.key, known), workers=WORKERS):
        why = done.result()
        if why is not None and read_without(repo, one.of):
            out[one.key] = f"{why}; nothing is lost with it: {one.of} opens"
    return out


def spare_originals(key: str, passed: Mapping[str, Damage]) -> dict[str, str]:
    """The same of an original that was passed over for a copy: what `repair` may remove."""
    bad = passed.get(key)
    # It opens again when the host's certificate is back.
    if bad is None or isinstance(bad, UnknownHost):
        return {}
    return {key: f"{bad.message}; nothing is lost with it: a copy opens"}


def remove_copies(
    repo: Repository,
    deleter: ObjectStore | None,
    found: Iterable[str],
    chain: Iterable[Snapshot],
) -> dict[str, str]:
    """Remove what `spare` found, so that a rotation can make it again, and originals that a copy stands for. What
    stays, and why. Safe to repeat."""
    known = {one.sequence: one for one in chain}
    stay = {}
    for key in found:
        why = "only the deleter can remove it" if deleter is None else None
        if deleter is not None:
            why = _why_copy_stays(repo, deleter, key, known)
        if why is not None:
            stay[key] = why
    return stay


def _why_copy_stays(
    repo: Repository, deleter: ObjectStore, key: str, known: Mapping[int, Snapshot]
) -> str | None:
    one = copy_of(key)

    def stays() -> str | None:
        # Of two that do not open neither may go: the other may be what heal reads.
        if read_without(repo, key if one is None else one.of):
            return None
        return "nothing else opens under its name any more"

    return remove_damaged(
        repo, deleter, key, damaged=lambda: _wrong(repo, key, known) is not None, stays=stays
    )


def _wrong(repo: Repository, key: str, known: Mapping[int, Snapshot]) -> str | None:
    one = copy_of(key)
    try:
        if (key if one is None else one.of).startswith(wal_segment.PREFIX):
            open_whole(repo.keys, Kind.WAL, key, repo.read(key)) if one is None else open_log(
                repo, one
            )
            return None
        held = repo.original(snapshot.sequence_of(key)) if one is None else open_snapshot(repo, one)
    except Damage as bad:
        return None if isinstance(bad.__cause__, NotThere) else bad.message
    return None if held == known.get(held.sequence, held) else "not what its original is"


def remove_revocations(
    repo: "Repository", deleter: ObjectStore | None, found: Iterable[str]
) -> dict[str, str]:
    """Remove what cannot be read. What stays, and why. Safe to repeat."""
    stay = {}
    for key in found:
        why = "only the deleter can remove it" if deleter is None else None
        if deleter is not None:
            why = _why_revocation_stays(repo, deleter, key)
        if why is not None:
            stay[key] = why
    return stay


def _why_revocation_stays(repo: "Repository", deleter: ObjectStore, key: str) -> str | None:
    keys = repo.keys

    def damaged() -> bool:
        try:
            _decode(repo.read(key), key, keys.authority, keys.suite)
        except Retired:
            return False
        except Damage as bad:
            return not isinstance(bad.__cause__, NotThere)
        return False

    return remove_damaged(repo, deleter, key, damaged=damaged)


def remove_strays(
    repo: "Repository", deleter: ObjectStore | None, found: Sequence[int]
) -> dict[str, str]:
    """Remove what still is no snapshot. What stays, and why. Safe to repeat."""
    stay = {}
    for sequence in found:
        key = snapshot.key_of(sequence)
        why: str | None = "only the deleter can remove it"
        if deleter is not None:
            why = remove_damaged(repo, deleter, key, damaged=partial(_unsigned, repo, sequence))
        if why is not None:
            stay[key] = why
    return stay


def _unsigned(repo: "Repository", sequence: int) -> bool:
    return not _signed(repo, sequence)
