"""A consistency point that is kept keeps what it stands on: its base backup, its buckets and trees, and the log."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.format import forget_statement
from backup.format.point import point_of
from backup.format.snapshot import Content, Snapshot, key_of
from backup.integrity.verify import verify
from backup.lifecycle.forget import by_policy, decide, forget
from backup.lifecycle.gc_mark import mark
from backup.lifecycle.gc_sweep import sweep
from backup.lifecycle.replicate import replicate
from backup.lifecycle.retention import Entry, Policy, needed_by_points, plan
from backup.postgres import consistency_point
from backup.postgres.point_checks import bound_snapshot
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.restore.files import restore_files
from backup.run import run_files
from backup.wal import required
from backup.wal.archive import Archive
from backup.wal.expiry import bases
from backup.writer.pack_health import Level
from backup.writer.writer import Writer
from infra.objectstore.contract import ObjectStore, Stat
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.progress import Silent

START, DAY = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=1)
SYSTEM = 7
KEEP_ONE = Policy(last=1)


class Vault:
    """A database's base backups, a bucket, and points over both."""

    def __init__(self, repo: Repository, clock: SimClock) -> None:
        self.repo, self.clock = repo, clock

    def commit(self, kind: str, label: str, facts: dict[str, object]) -> Snapshot:
        self.clock.sleep(DAY)
        writer = Writer(self.repo, rng=random.Random(1))
        now = self.clock.now()
        try:
            return writer.commit(
                Content(
                    kind=kind,
                    label=label,
                    host="h",
                    started=now,
                    finished=now,
                    tree=(),
                    entries=0,
                    size_bytes=0,
                    complete=True,
                    facts=facts,
                )
            )
        finally:
            writer.close()

    def base(self, segment: int) -> Snapshot:
        facts: dict[str, object] = {
            "system_identifier": str(SYSTEM),
            "start_lsn": f"0/{segment << 24:X}",
            "start_timeline": 1,
        }
        return self.commit("postgres", "zaibei", facts)

    def point(self, name: str, base: Snapshot, *bound: Snapshot) -> Snapshot:
        def tie(one: Snapshot) -> dict[str, object]:
            return {
                "sequence": one.sequence,
                "digest": one.digest,
                "kind": one.content.kind,
                "source": "",
                "versions": None,
            }

        facts = {
            "name": name,
            "at": self.clock.now().isoformat(),
            "system_identifier": str(SYSTEM),
            "timeline": 1,
            "lsn": "0/9000000",
            "quiet": False,
            "counted": None,
            "base": tie(base),
            "bound": [tie(b) for b in bound],
        }
        return self.commit(consistency_point.KIND, name, facts)

    def log(self, *segments: int) -> None:
        for segment in segments:
            Archive(self.repo, SYSTEM).put(b"x", epoch=1, timeline=1, segment=segment)

    def held(self) -> list[int | None]:
        return sorted(i.segment for i in Archive(self.repo, SYSTEM).items() if i.segment)

    def gc(self) -> None:
        self.clock.sleep(DAY)
        mark(self.repo, Silent(), rng=random.Random(1))
        self.clock.sleep(DAY)
        assert sweep(self.repo, self.repo.store, Silent()).complete


@pytest.fixture
def vault(repo: Repository, clock: SimClock) -> Vault:
    return Vault(repo, clock)


def test_a_policy_keeps_what_a_kept_point_stands_on_and_says_why(vault: Vault) -> None:
    base, bucket = vault.base(3), vault.commit("bucket", "geo-images", {})
    vault.point("before-migration", base, bucket)
    for segment in (5, 7):
        vault.base(segment)
        vault.commit("bucket", "geo-images", {})
    decisions, said = by_policy(vault.repo, KEEP_ONE)
    kept = {d.entry.sequence: d.keep for d in decisions if d.keep}
    assert sorted(kept) == [1, 2, 3, 6, 7]
    assert kept[1] == kept[2] == ("point before-migration (snapshot 3) stands on it",)
    assert said is not None
    assert [link.sequence for link in said.snapshots] == [4, 5]


def test_the_policy_of_a_job_for_the_database_leaves_the_points_alone(vault: Vault) -> None:
    base = vault.base(3)
    vault.point("old", base)
    vault.point("new", vault.base(5))
    vault.base(7)
    decisions = decide(vault.repo, KEEP_ONE, label="zaibei")
    assert [d.entry.sequence for d in decisions if not d.keep] == []
    assert [d.entry.sequence for d in decide(vault.repo, KEEP_ONE) if not d.keep] == [1, 2]


def test_by_number_the_base_goes_only_together_with_its_point(vault: Vault) -> None:
    base = vault.base(3)
    point = vault.point("p", base)
    vault.base(5)
    for even in (False, True):
        with pytest.raises(Refused, match="consistency point 2 stands on") as refused:
            forget(vault.repo, [1], why="by hand", even_the_last=even)
        assert "forget 1 2" in str(refused.value.hints)
    forget(vault.repo, [1, point.sequence], why="by hand", even_the_last=True)
    assert vault.repo.sequences() == [3]


def test_points_thin_out_and_free_their_bases_and_their_log(vault: Vault) -> None:
    vault.log(3, 4, 5, 6)
    vault.point("first", vault.base(3))
    vault.point("second", vault.base(5))
    vault.gc()
    by_policy(vault.repo, Policy(last=2))
    vault.gc()
    assert vault.held() == [3, 4, 5, 6], "the first point is kept, so its log is"
    by_policy(vault.repo, KEEP_ONE)
    assert vault.repo.sequences() == [3, 4]
    vault.gc()
    assert vault.held() == [5, 6]
    # The snapshot objects are gone, too.
    assert vault.repo.present() == [3, 4]


def test_a_point_made_while_its_base_was_being_forgotten_keeps_it(vault: Vault) -> None:
    base = vault.base(3)
    vault.log(3, 4, 5)
    vault.base(5)
    forget(vault.repo, [1], why="by hand")
    point = vault.point("late", base)
    for _ in range(3):
        vault.gc()
    assert vault.held() == [3, 4, 5]
    assert bound_snapshot(vault.repo, point_of(point), point_of(point).base) == base
    assert not verify(vault.repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage
    forget(vault.repo, [point.sequence], why="by hand", even_the_last=True)
    for _ in range(2):
        vault.gc()
    assert vault.held() == [5]
    assert vault.repo.present() == [2]


def test_a_copied_point_keeps_the_copies_and_finds_them(
    vault: Vault, make: Callable[..., Repository]
) -> None:
    other = make("site-c")
    vault.base(2)
    vault.point("p", vault.base(3))
    vault.base(5)
    replicate(vault.repo, other, Silent(), sequences=[2, 3, 4], rng=random.Random(1))
    point = other.snapshot(2)
    assert bound_snapshot(other, point_of(point), point_of(point).base).sequence == 1
    by_policy(other, KEEP_ONE)
    assert other.sequences() == [1, 2, 3]
    with pytest.raises(Refused):
        forget(other, [1], why="by hand")


def test_the_log_stays_when_the_base_of_a_kept_point_is_lost(vault: Vault) -> None:
    lost, point, newer = (base := vault.base(3)), vault.point("p", base), vault.base(5)
    modified = {key_of(s.sequence): START for s in (lost, point, newer)}
    assert bases([lost, point, newer], modified, system=SYSTEM)
    assert bases([point, newer], modified, system=SYSTEM) is None
    assert bases([point, newer], modified, system=8) == []


def test_what_was_lost_and_said_to_be_lost_is_not_kept_for_a_point(vault: Vault) -> None:
    base = vault.base(3)
    point = vault.point("p", base)
    said = forget_statement.Statement(
        number=1, snapshots=(base.link,), kept=(), why=forget_statement.LOST, at="x"
    )
    vault.repo.create(forget_statement.key_of(1), forget_statement.encode(vault.repo.keys, said))
    vault.base(5)
    for _ in range(2):
        vault.gc()
    assert vault.repo.present() == [2, 3]
    (told,) = verify(vault.repo, Level.FULL, rng=random.Random(1), progress=Silent()).findings
    assert told.object == point.key
    assert "stands on snapshot 1, which is not there" in told.why
    with pytest.raises(Damage):
        bound_snapshot(vault.repo, point_of(point), point_of(point).base)


@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 25),
    last=st.integers(1, 4),
)
def test_no_policy_keeps_a_point_without_what_it_stands_on(seed: int, size: int, last: int) -> None:
    rng = random.Random(seed)
    entries: list[Entry] = []
    for n in range(1, size + 1):
        one = Entry(sequence=n, group=("files", rng.choice("ab"), "h"), dated=START + n * DAY)
        others = [e.sequence for e in entries if not e.stands_on]
        if others and rng.random() < 0.4:
            some = frozenset(rng.sample(others, rng.randint(1, min(3, len(others)))))
            one = replace(one, group=("point", "system 7", "h"), stands_on=some)
        entries.append(one)
    gone = {d.entry.sequence for d in plan(entries, Policy(last=last)) if not d.keep}
    assert needed_by_points(entries, gone) == {}


def test_the_files_under_a_point_come_back_though_they_were_forgotten_meanwhile(
    vault: Vault, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for seed in (1, 2):
        (source / "a").write_bytes(random.Random(seed).randbytes(3000))
        run_files([source], [vault.repo], vault.clock, random.Random(1), Silent())
    tree = vault.repo.snapshot(1)
    base = vault.base(3)
    vault.log(*range(3, 9))
    forget(vault.repo, [1], why="by hand")
    point = point_of(vault.point("p", base, tree))
    for _ in range(3):
        vault.gc()
    found = bound_snapshot(vault.repo, point, point.bound[0])
    with Reader(vault.repo) as reader:
        restore_files(reader, found, tmp_path / "target", progress=Silent())
    assert (tmp_path / "target" / "source" / "a").read_bytes() == random.Random(1).randbytes(3000)
    assert not verify(vault.repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage


def test_a_point_whose_log_lost_an_end_is_not_called_sound(vault: Vault) -> None:
    """Nothing lies between the first segment that is there and the last: only the point knows what is missing."""
    point = vault.point("p", vault.base(3))
    for there, why in (
        ((), "is not there"),
        (range(3, 8), "000000010000000000000008 is not there"),
        (range(4, 9), "000000010000000000000003 is missing"),
    ):
        for stat in list(vault.repo.store.list("wal/")):
            vault.repo.store.remove(stat.key, version=stat.version)
        vault.log(*there)
        report = verify(vault.repo, Level.STRUCTURE, rng=random.Random(1), progress=Silent())
        assert report.damage_count == 1 and why in report.damage[0], report.damage
        assert f"snapshot {point.sequence} (point) does not restore" in report.damage[0]
    vault.log(3)
    assert not verify(vault.repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage


def test_a_base_that_brought_no_log_needs_it_in_the_archive(vault: Vault) -> None:
    names = ["000000010000000000000002", "000000010000000000000004"]
    facts = {"system_identifier": str(SYSTEM), "start_lsn": "0/2000028", "start_timeline": 1}
    vault.commit("postgres", "zaibei", {**facts, "wal": "none", "wal_needed": names})
    vault.log(2, 4)

    def damage() -> list[str]:
        return verify(vault.repo, Level.STRUCTURE, rng=random.Random(1), progress=Silent()).damage

    assert any("000000010000000000000003 of the log are not there" in d for d in damage())
    vault.log(3)
    assert not damage()


class Listened:
    """A store that remembers what it was asked to list."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def list(self, prefix: str = "") -> Iterator[Stat]:
        self.asked.append(prefix)
        return self.inner.list(prefix)


def test_the_log_is_listed_once_for_all_that_need_it(vault: Vault) -> None:
    names = ["000000010000000000000003", "000000010000000000000004"]
    facts = {"system_identifier": str(SYSTEM), "start_lsn": "0/3000028", "start_timeline": 1}
    base = vault.commit("postgres", "zaibei", {**facts, "wal": "none", "wal_needed": names})
    for name in ("p", "q", "r"):
        vault.point(name, base)
    vault.log(*range(3, 10))
    store = Listened(vault.repo.store)
    repo = replace(vault.repo, store=store)  # type: ignore[arg-type]
    chain = vault.repo.snapshots()
    assert list(required.lacking(repo, chain)) == []
    assert store.asked == [f"wal/system={SYSTEM}/"]
