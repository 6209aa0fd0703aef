"""Detects a vault that was rolled back, by what this machine saw and by what its sibling vaults
state.

A snapshot states the newest one in every sibling vault at the beginning of its run, so a rollback
is seen from a sibling also when the machine that remembered is lost. The statement is sealed and
signed with the snapshot: whoever rolls one vault back cannot change it in the other. A run states
nothing about itself: its snapshots are committed one after the other, each before it knows of the
next.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from backup.errors import RolledBack
from backup.format.snapshot import Snapshot, key_of
from backup.repository import unreadable
from backup.repository.last_seen import remembered
from backup.repository.repository import Repository
from zaibei.kernel.errors import Damage, ZaibeiError

_ROLLED_BACK: Final = (
    "the vault was rolled back or withholds it: compare with the other vault, and look at deleted versions before"
    " anything is written"
)
_FOR_GOOD: Final = (
    "zaibei backup heal takes it from the other vault; if it is lost for good, zaibei backup repair states that, and"
    " everything goes on from there"
)
FACT: Final = "witness"
LOOK_BACK_MAX: Final = 32  # snapshots without a statement, one after the other, are looked at
Seen = Mapping[str, dict[str, Any]]  # repository id -> what a snapshot says of its newest


def seen(repos: Sequence[Repository]) -> Seen:
    """The newest snapshot of each vault now. A vault that does not answer, or is empty, is left out."""
    found: dict[str, dict[str, Any]] = {}
    for repo in repos:
        with suppress(ZaibeiError):  # its own run says why
            tip = repo.tip()
            if tip is not None and tip.digest is not None:
                found[repo.config.repository.hex()] = {
                    "sequence": tip.sequence,
                    "digest": tip.digest,
                }
    return found


def fact(repo: Repository, all_seen: Seen) -> dict[str, Any]:
    """What a snapshot in `repo` says: of its siblings, not of itself."""
    own = repo.config.repository.hex()
    others = [{"repository": id_, **told} for id_, told in sorted(all_seen.items()) if id_ != own]
    return {FACT: others} if others else {}


def rolled_back(repos: Sequence[Repository]) -> list[str]:
    """Which vaults show less than, or something else than, what a sibling saw in them. One line each."""
    found = []
    by_id = {repo.config.repository.hex(): repo for repo in repos}
    for witness in repos:
        try:
            one = _newest_statement(witness) if len(by_id) > 1 else None
        except ZaibeiError:
            continue  # a witness that cannot be read is said by its own verify
        for told in one.content.facts[FACT] if one else ():
            try:
                sequence, digest = int(told["sequence"]), str(told["digest"])
                sibling = by_id.get(str(told["repository"]))
                if sibling is not None:
                    _check(sibling, sequence, digest)
            except RolledBack as bad:
                assert one is not None
                found.append(f"{bad.message}: {witness.name} saw it before its own {one.sequence}")
            except (KeyError, TypeError, ValueError) as bad:
                found.append(f"{witness.name}: what it says of its siblings cannot be read: {bad}")
            except ZaibeiError as bad:
                found.append(bad.message)
    return found


def _newest_statement(repo: Repository) -> Snapshot | None:
    for sequence in reversed(repo.sequences()[-LOOK_BACK_MAX:]):
        one = repo.snapshot(sequence)
        if one.content.facts.get(FACT):
            return one
    return None


def _check(repo: Repository, sequence: int, digest: str) -> None:
    said = repo.forgotten(unreadable.WarnOnce(repo)).get(sequence)
    if said is not None and said.link.digest in (digest, None):
        return
    try:
        now = repo.keys.suite.digest(repo.read(key_of(sequence)))
    except Damage as gone:
        raise RolledBack(
            f"{repo.name}: snapshot {sequence} was there and is not any more"
        ) from gone
    if now != digest:
        raise RolledBack(f"{repo.name}: snapshot {sequence} is not the one that was written")


def check(repo: Repository, sequences: Sequence[int]) -> None:
    """Raises RolledBack when the vault shows less than it once did, or another snapshot in its place."""
    known = remembered(repo)
    if known is None:
        return
    sequence, digest, epoch = known
    if repo.keys.epoch < epoch:
        # Going on would seal new data under a root that was retired, maybe because it was stolen.
        raise RolledBack(
            f"{repo.name}: epoch {epoch} of the keys was there and is not any more",
            hint="the vault was rolled back or withholds it: compare with the other vault",
        )
    if sequence not in sequences:
        said = repo.forgotten(unreadable.WarnOnce(repo)).get(sequence)
        if said is not None and said.link.digest in (digest, None):
            return
        raise RolledBack(
            f"{repo.name}: snapshot {sequence} was there and is not any more",
            hint=(_ROLLED_BACK, _FOR_GOOD),
        )
    if repo.link(sequence).digest != digest:
        raise RolledBack(
            f"{repo.name}: snapshot {sequence} is not the one that was written",
            hint="somebody put another in its place: compare with the other vault before anything is written",
        )


def lost(repo: Repository) -> RolledBack | None:
    """The same as an answer: for who goes on with what is left, and says so."""
    try:
        if remembered(repo) is not None:
            check(repo, repo.sequences())
    except RolledBack as bad:
        return bad
    except Damage:
        return None  # it is there and does not open: told by whoever reads it
    return None
