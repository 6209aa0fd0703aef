"""The copies that a rotation sealed, each opened. One is read only when its original is gone or damaged, so nobody
would see its damage before the day on which there is nothing else; that it is there says nothing.
"""

import base64
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from backup import forgotten, resealed, signed, snapshot, wal
from backup.ahead import ahead
from backup.authority import FIRST_EPOCH
from backup.errors import UnknownHost
from backup.findings import Finding, Report
from backup.forgotten import Forgotten, Link
from backup.repository import Repository, retry
from backup.seal import Kind, open_whole, seal_whole
from backup.snapshot import Snapshot
from backup.versions import remove_damaged
from infra.objectstore.contract import NotThere, ObjectStore, Stat
from zaibei.kernel.errors import Damage

WORKERS: Final = 3
# Nothing is ever overwritten, so a damaged copy stands in the way of a whole one.
CLEAR: Final = (
    "zaibei backup repair --confirm NAME removes it, as who may delete (a lock holds it to its end); then"
    " zaibei backup key rotate --resume --confirm NAME"
)
ORIGINAL: Final = (
    "zaibei backup repair --confirm NAME removes it, as who may delete (a lock holds it to its end); the copy is"
    " read in its place"
)
HEAL: Final = "its original does not open either: zaibei backup heal --from OTHER-REPOSITORY"
_KEY = re.compile(rf"{snapshot.RESEALED}(\d{{10}})/((?:{snapshot.PREFIX}|{wal.PREFIX}).+)")


@dataclass(frozen=True, slots=True)
class Copy:
    """What was sealed once more under the root of `epoch`, and the key of its original."""

    epoch: int
    of: str

    @property
    def key(self) -> str:
        return snapshot.resealed_key(self.epoch, self.of)


def there(repo: Repository, prefix: str, *, epoch: int | None = None) -> list[Copy]:
    """Copies of originals under `prefix`, of one epoch or of all that are known."""
    epochs = range(FIRST_EPOCH + 1, repo.keys.epoch + 1) if epoch is None else (epoch,)
    return [
        Copy(e, stat.key.removeprefix(top))
        for e in epochs
        for top in (snapshot.resealed_key(e, ""),)
        for stat in repo.listed(top + prefix)
    ]


def copy_of(key: str) -> Copy | None:
    found = _KEY.fullmatch(key)
    return None if found is None else Copy(int(found[1]), found[2])


def where(repo: Repository, key: str) -> Stat | None:
    """The object that is read for `key`: the original, or the newest copy of one that is gone."""
    for epoch in (None, *range(repo.keys.epoch, FIRST_EPOCH, -1)):
        name = key if epoch is None else snapshot.resealed_key(epoch, key)
        with suppress(NotThere):
            return retry(repo.clock, lambda name=name: repo.store.stat(name))  # type: ignore[misc]
    return None


def open_snapshot(repo: Repository, one: Copy) -> Snapshot:
    """Raises Damage; caused by NotThere when it is gone."""
    return resealed.opened_copy(repo, one.epoch, snapshot.sequence_of(one.of), repo.read(one.key))


def open_log(repo: Repository, one: Copy) -> int:
    """Its size, opened. Raises Damage; caused by NotThere when it is gone."""
    return len(resealed.opened_whole(repo, Kind.WAL, one.epoch, one.of, repo.read(one.key)))


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
        found.mend = ORIGINAL if name == key else CLEAR


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
            if sequence in gone and gone[sequence].why in (forgotten.LOST, forgotten.HEALED):
                out.note(f"{one.key} is damaged, and a statement says that the snapshot is")
                continue
            opens = sequence in chain or (sequence in gone and one.of in originals)
            _spare(out.found(one.key, bad), one, opens=opens)


def check_log(
    repo: Repository, out: Report, *, told: Collection[str], lost: Collection[str]
) -> None:
    """Every copy that was not read in place of its original. `told`: damage of these was; `lost`: names under
    which nothing opens."""
    originals = {s.key for s in repo.listed(wal.PREFIX)}
    every = there(repo, wal.PREFIX)
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


def each(repo: Repository, prefix: str) -> Iterator[tuple[Copy, Damage | None]]:
    """Every copy of the newest epoch, opened: what is wrong with it."""

    def opened(one: Copy) -> None:
        open_snapshot(repo, one) if prefix == snapshot.PREFIX else open_log(repo, one)

    for one, done in ahead(there(repo, prefix, epoch=repo.keys.epoch), opened, workers=WORKERS):
        try:
            done.result()
        except Damage as bad:
            if not isinstance(bad.__cause__, NotThere):
                yield one, bad
        else:
            yield one, None


def spare(repo: Repository, chain: Iterable[Snapshot], *, read: bool) -> dict[str, str]:
    """Copies that do not open, or say something else than the chain does, where the name that they are copies of is
    read without them: key -> what is wrong. `read`: those of the log too."""
    known = {one.sequence: one for one in chain}
    every = [*there(repo, snapshot.PREFIX), *(there(repo, wal.PREFIX) if read else ())]
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


def clear(
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
            why = _why_not_removed(repo, deleter, key, known)
        if why is not None:
            stay[key] = why
    return stay


def _why_not_removed(
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
        if (key if one is None else one.of).startswith(wal.PREFIX):
            open_whole(repo.keys, Kind.WAL, key, repo.read(key)) if one is None else open_log(
                repo, one
            )
            return None
        held = repo.original(snapshot.sequence_of(key)) if one is None else open_snapshot(repo, one)
    except Damage as bad:
        return None if isinstance(bad.__cause__, NotThere) else bad.message
    return None if held == known.get(held.sequence, held) else "not what its original is"


def read_without(repo: Repository, of: str) -> bool:
    """Whether something opens under the name of this original: something else than what does not."""
    try:
        if of.startswith(wal.PREFIX):
            repo.opened(Kind.WAL, of)
        else:
            repo.snapshot(snapshot.sequence_of(of))
    except Damage:
        return False
    return True


def carried(repo: Repository, one: Copy) -> bytes:
    """A copy of a snapshot under an older root, sealed once more: there is no original that could be."""
    keys, name = repo.keys, snapshot.resealed_key(repo.keys.epoch, one.of)
    open_snapshot(repo, one)
    body, _ = signed.parse(repo.read(one.key), what=one.key)
    plain = open_whole(keys, Kind.SNAPSHOT, one.key, base64.b64decode(body["sealed"]))
    sealed = base64.b64encode(seal_whole(keys, Kind.SNAPSHOT, name, plain)).decode()
    return signed.sign("resealed", {**body, "epoch": keys.epoch, "sealed": sealed}, keys.signer)


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
        found.mend = CLEAR
    else:
        found.lost = f"what would stand for {one.of}, which does not open"
