"""Verifies a repository in three levels, each including the one before.

`structure`: signatures, chain, index, listings, sizes. `sample`: packs read whole, least recently
read first, within a budget. `full`: every byte of every object. The fourth level is to restore
(`backup.postgres.clean_room`).
"""

import random
from collections.abc import Sequence
from datetime import timedelta

from backup.format import wal_segment
from backup.format.config import CONFIG
from backup.format.snapshot import Snapshot
from backup.index.blob_index import BlobIndex
from backup.integrity import check_leases, check_listings, check_packs, check_resealed
from backup.integrity.check_chain import _chain
from backup.integrity.check_packs import WORKERS, Budget, _contents, _marked, _not_there, _present
from backup.integrity.report import Report
from backup.integrity.unneeded import Unneeded
from backup.repository import index_loading
from backup.repository.access import read_access
from backup.repository.config import read_config
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.wal import archive as wal_archive
from backup.wal import required
from backup.writer.pack_health import Level, PackHealth
from zaibei.kernel.errors import Damage
from zaibei.kernel.prefetch import ahead
from zaibei.kernel.progress import Progress

__all__ = ["Budget", "Level", "Report", "verify"]


def verify(
    repo: Repository,
    level: Level,
    *,
    rng: random.Random,
    progress: Progress,
    budget: Budget | None = None,
    ledger: PackHealth | None = None,
) -> Report:
    """Without a ledger a sample is by lot: nobody remembers what was read before."""
    begun = repo.clock.monotonic()
    out = Report(repository=repo.name, level=level)

    def damaged(key: str, why: Damage) -> None:
        out.found(key, why)

    progress.step(f"{repo.name}: structure")
    _recipients(repo, out)
    chain = _chain(repo, out)
    marked = _marked(repo, out)
    # Nobody misses a marked pack, and so nobody may count on one that is not there.
    held = BlobIndex().load(
        index_loading.segments(repo, damaged, lambda key, why: out.note(f"{key} is marked: {why}")),
        without=_not_there(repo, marked),
    )
    out.packs, out.blobs = held.count()
    bad: set[str] = set()
    with Reader(repo, held) as reader, PackHealth(None) as forgetful:
        own = ledger or forgetful
        unneeded = Unneeded(reader, chain, marked, progress)
        doubted, seen = {one.name for one in own.damaged_packs()}, set[str]()
        there = check_packs.still(_present(repo, held, out, bad, unneeded), doubted, seen)
        if level is Level.STRUCTURE:
            for _ in there:
                pass
        else:
            own.know(there)
        progress.step(f"{repo.name}: listings of {len(chain)} snapshots")
        check_listings.check(reader, chain, out, progress)
        if level is not Level.STRUCTURE:
            seen -= _contents(
                repo, held, own, out, bad, unneeded, rng=rng, progress=progress, budget=budget
            )
        check_packs.told_again(out, own, seen, unneeded, bad)
        _wal(repo, out, whole=level is Level.FULL)
        _needed_log(repo, out, chain)
        if level is Level.FULL:
            check_leases.check(repo, out)
        if bad:
            check_listings.who_needs(reader, chain, bad, out, progress)
        if out.findings and out.packs_unindexed:
            out.note(
                f"{out.packs_unindexed} packs are in no index segment: zaibei backup repair finds them again, and"
                " with them perhaps what is missed here; try that first"
            )
        took = timedelta(seconds=repo.clock.monotonic() - begun)
        own.finish(
            out.findings,
            level=out.level,
            packs_read=out.packs_read,
            bytes_read=out.bytes_read,
            at=repo.clock.now(),
            took=took,
        )
        if level is not Level.STRUCTURE:
            out.coverage = own.coverage(repo.clock.now())
    return out


def _recipients(repo: Repository, out: Report) -> None:
    """Config and every key object, also those that were not needed to open."""
    with out.collecting(CONFIG):
        config = read_config(repo.store, clock=repo.clock)
        if config != repo.config:
            raise Damage(f"{repo.name}: config changed since the repository was opened")
        found = read_access(repo.store, config, clock=repo.clock)
        for key, bad in found.damage.items():
            with out.collecting(key):
                raise bad
        for key, stranger in found.strangers.items():
            out.note(f"{key}: {stranger.why}")
        for key, bad in found.statements.damage.items():
            out.found(key, bad)
        for old in found.statements.retired.values():
            out.note(old.message)
        for key in sorted(found.statements.missing):
            out.note(f"{key} is not there any more; whom a rotation left behind since stays out")


def _needed_log(repo: Repository, out: Report, chain: Sequence[Snapshot]) -> None:
    lacking: list[tuple[Snapshot, str]] = []
    with out.collecting(wal_segment.PREFIX):
        lacking = list(required.lacking(repo, chain))
    for one, why in lacking:
        with out.collecting(one.key):
            raise Damage(
                f"{repo.name}: snapshot {one.sequence} ({one.content.kind}) does not restore: {why}",
                hint="heal it from the other vault; without that, take a new base backup",
            )


def _wal(repo: Repository, out: Report, *, whole: bool) -> None:
    found: list[int] = []
    passed: set[str] = set()
    lost: set[str] = set()
    with out.collecting(wal_segment.PREFIX):
        found = wal_archive.systems(repo)
    for system in found:
        archive = wal_archive.Archive(repo, system)
        with out.collecting(archive.prefix):
            held = archive.items()
            out.wal_objects += len(held)
            for gap in wal_segment.gaps(held):
                with out.collecting(archive.prefix):
                    raise Damage(f"{repo.name}: system {system}: {gap}")
            for item, done in ahead(held if whole else [], archive.look, workers=WORKERS):
                try:
                    one = done.result()
                except Damage as bad:
                    check_resealed.told(repo, out, item.key, bad, by_content=True)
                    lost.add(item.key)
                    continue
                out.bytes_read += len(one.value)
                check_resealed.passed_over(out, item.key, one.passed, by_content=True)
                passed.update(one.passed)
    if whole:
        check_resealed.check_log(repo, out, told=passed, lost=lost)
