"""Backup, forget, gc, copy and heal in any order, with deaths and passing time: after every step each committed
snapshot that is not forgotten comes back byte for byte. And a walk through every storage call of each of them.

`ZAIBEI_CAMPAIGN=N` makes the walk whole and the machine N times as long (`make campaign-backup`).
"""

import os
import random
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backup.crypto.keyring import Kdf
from backup.errors import Incomplete
from backup.format.snapshot import Content
from backup.format.tree import Node, Type
from backup.integrity.heal import heal
from backup.integrity.verify import verify
from backup.keys import rotation
from backup.lifecycle.forget import forget
from backup.lifecycle.gc_mark import mark
from backup.lifecycle.gc_sweep import sweep
from backup.lifecycle.replicate import replicate
from backup.repository.init import create_repository
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.sources.fanout import Fanout
from backup.writer.pack_health import Level
from backup.writer.writer import Writer
from infra.objectstore.contract import Stat
from infra.objectstore.memory import MemoryStore
from infra.objectstore.mortal import Died, Mortal
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage, ZaibeiError
from zaibei.kernel.progress import Silent

FAST = Kdf(memory_kib=64, iterations=1, lanes=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CAMPAIGN = int(os.environ.get("ZAIBEI_CAMPAIGN", "0"))
Files = dict[str, bytes]
Truth = dict[int, Files]


def of(repo: Repository, store: object) -> Repository:
    return Repository(store, repo.clock, repo.config, repo.keys)  # type: ignore[arg-type]


def memory(repo: Repository) -> MemoryStore:
    assert isinstance(repo.store, MemoryStore)
    return repo.store


def twin(store: MemoryStore) -> MemoryStore:
    """The same vault, to be spoilt."""
    other = MemoryStore(clock=store.clock, name=store.name)
    other._keys = {key: list(held) for key, held in store._keys.items()}
    other._made = store._made
    return other


def pieces(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 700):
        yield data[at : at + 700]


def back_up(writers: Iterable[Writer], files: Files, clock: SimClock) -> list[int | None]:
    with Fanout(list(writers), Silent()) as out:
        for path, data in sorted(files.items()):
            out.add(Node(path=path.encode(), type=Type.FILE, mode=0o644, mtime_ns=0), pieces(data))
        outcomes = out.commit(
            Content(
                kind="files",
                label="",
                host=socket.gethostname(),
                started=clock.now(),
                finished=clock.now(),
                tree=(),
                entries=0,
                size_bytes=0,
                complete=True,
            )
        )
    return [o.snapshot.sequence if o.snapshot else None for o in outcomes]


def writer_of(repo: Repository) -> Writer:
    return Writer(repo, rng=random.Random(1), pack_bytes=3000)


def read_back(repo: Repository) -> Truth:
    found: Truth = {}
    chain = repo.snapshots()
    with Reader(repo) as reader:
        for one in chain:
            found[one.sequence] = {
                n.path.decode(): b"".join(reader.read_all(n.blobs)) for n in reader.nodes(one)
            }
    return found


def sound(repo: Repository) -> list[str]:
    return verify(repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage


def make(clock: SimClock, name: str, suite: str = "intl") -> Repository:
    store = MemoryStore(clock=clock, name=name)
    return create_repository(store, "x", clock=clock, suite_name=suite, kdf=FAST)


def some_days(clock: SimClock, repos: list[Repository]) -> list[Truth]:
    """Three nights into each; of the first night half is changed in the second."""
    truth: list[Truth] = [{} for _ in repos]
    for night in range(3):
        files = {
            f"f{n}": random.Random(n if n % 2 else 100 * night + n).randbytes(1500)
            for n in range(6)
        }
        numbers = back_up([writer_of(r) for r in repos], files, clock)
        for at, number in enumerate(numbers):
            assert number is not None
            truth[at][number] = files
        clock.sleep(DAY)
    return truth


class Case:
    """Two vaults, made ready for one step, and the step."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.clock = SimClock()
        self.b, self.c = make(self.clock, "site-b"), make(self.clock, "site-c")
        self.truth = some_days(self.clock, [self.b, self.c])[0]
        self.files = {"new": random.Random(77).randbytes(4000), **self.truth[3]}
        if step in ("mark", "sweep"):
            forget(self.b, [1, 2], why="by hand")
            del self.truth[1], self.truth[2]
            self.clock.sleep(DAY)
        if step == "sweep":
            mark(self.b, Silent(), rng=random.Random(1))
            self.clock.sleep(DAY)
        if step == "heal":
            store = memory(self.b)
            packs = sorted(store.list("packs/"), key=lambda s: s.key)
            store.remove(packs[0].key, version=packs[0].version)
            flipped = bytearray(store.read(packs[1].key))
            flipped[200] ^= 1
            store.corrupt(packs[1].key, bytes(flipped))
            lost = next(store.list("index/"))
            store.remove(lost.key, version=lost.version)
        self.whole = memory(self.b), SimClock(self.clock.wall, self.clock.elapsed_s)
        self.into = make(self.clock, "third", "sm")

    def fresh(self) -> tuple[Repository, Repository]:
        """What the step works on, as it was before."""
        self.clock.elapsed_s = self.whole[1].elapsed_s
        return of(self.b, twin(self.whole[0])), of(self.into, twin(memory(self.into)))

    def run(self, repo: Repository, into: Repository) -> None:
        match self.step:
            case "backup":
                back_up([writer_of(repo)], self.files, self.clock)
            case "mark":
                mark(repo, Silent(), rng=random.Random(1))
            case "sweep":
                assert sweep(repo, repo.store, Silent()).complete
            case "copy":
                assert replicate(repo, into, Silent(), rng=random.Random(1)).complete
            case "heal":
                assert heal(repo, self.c, Silent(), rng=random.Random(1)).complete

    def check(self, repo: Repository, into: Repository, where: str) -> None:
        """`repo` holds what it held and perhaps the new one; a copy holds nothing that is not true."""
        found = read_back(repo)
        assert self.truth.items() <= found.items(), where
        assert all(files == self.files for n, files in found.items() if n not in self.truth), where
        for files in read_back(into).values():
            assert files in self.truth.values(), where


def walk(step: str, *, after: bool, every: int) -> int:
    """Die at each call of the step, then look, then let the next run finish. Returns the deaths."""
    case = Case(step)
    deaths = 0
    for last in range(1, 1000):
        if last % every and last > 3:
            continue
        repo, into = case.fresh()
        target = into if step == "copy" else repo
        mortal = of(target, Mortal(memory(target), last, after=after))
        try:
            case.run(repo if step == "copy" else mortal, mortal if step == "copy" else into)
        except Died:
            deaths += 1
        else:
            case.check(repo, into, f"{step}: it lived through {last} calls")
            return deaths
        where = f"{step}: death {'after' if after else 'before'} call {last}"
        if step != "heal":
            case.check(repo, into, where)
        case.clock.sleep(4 * HOUR)  # the dead run has fallen silent
        case.run(repo, into)
        case.check(repo, into, f"{where}, then the next run")
        assert not sound(repo), where
        if step == "copy":
            assert list(read_back(into).values())[-1] == case.truth[3], where
    pytest.fail("the step never lived: the bound of this walk is too small")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", ["backup", "mark", "sweep", "copy", "heal"])
def test_a_death_at_any_storage_call_loses_nothing_and_the_next_run_finishes(
    step: str, after: bool
) -> None:
    assert walk(step, after=after, every=1 if CAMPAIGN else 6) >= 3


class Lifecycle(RuleBasedStateMachine):
    """The model is a dict of files for each snapshot of each vault."""

    @initialize()
    def begin(self) -> None:
        self.clock = SimClock()
        self.vaults = [make(self.clock, "site-b"), make(self.clock, "site-c", "sm")]
        self.third = make(self.clock, "third")
        self.truth: list[Truth] = [{}, {}]
        self.copied: list[Files] = []
        self.files: Files = {"f0": b"first" * 200}
        self.slow: tuple[int, Writer, Files] | None = None

    @rule(name=st.integers(0, 5), seed=st.integers(0, 6), size=st.integers(1, 2500))
    def write(self, name: int, seed: int, size: int) -> None:
        # Few seeds: the same bytes come back, also after they have become garbage.
        self.files = {**self.files, f"f{name}": random.Random(seed).randbytes(size)}

    @rule()
    def remove(self) -> None:
        if len(self.files) > 1:
            self.files = dict(list(self.files.items())[1:])

    @rule()
    def backup(self) -> None:
        self.clock.sleep(timedelta(minutes=1))
        numbers = back_up([writer_of(v) for v in self.vaults], self.files, self.clock)
        for truth, number in zip(self.truth, numbers, strict=True):
            assert number is not None
            truth[number] = self.files

    @precondition(lambda self: self.slow is None)
    @rule(at=st.integers(0, 1))
    def begin_slowly(self, at: int) -> None:
        """A writer that has read the marks and the index, and takes its time."""
        self.slow = at, writer_of(self.vaults[at]), self.files

    @precondition(lambda self: self.slow is not None)
    @rule(dies=st.booleans())
    def end_slowly(self, dies: bool) -> None:
        assert self.slow is not None
        (at, writer, files), self.slow = self.slow, None
        if dies:
            return
        try:
            (number,) = back_up([writer], files, self.clock)
        except Incomplete as why:
            assert any(word in str(why) for word in ("so long", "is in the index and not")), why
        else:
            assert number is not None
            self.truth[at][number] = files

    @rule(at=st.integers(0, 1), last=st.integers(1, 40), after=st.booleans())
    def die_in_a_backup(self, at: int, last: int, after: bool) -> None:
        before = self.vaults[at].tip()
        mortal = Mortal(memory(self.vaults[at]), last, after=after)
        with suppress(Died, ZaibeiError):
            back_up([writer_of(of(self.vaults[at], mortal))], self.files, self.clock)
        now = self.vaults[at].tip()
        if now != before and now is not None:  # it was committed, and nobody heard of it
            self.truth[at][now.sequence] = self.files

    @rule(at=st.integers(0, 1), which=st.integers(0, 20))
    def forget(self, at: int, which: int) -> None:
        known = sorted(self.truth[at])[:-1]
        if known:
            gone = known[which % len(known)]
            forget(self.vaults[at], [gone], why="by hand")
            del self.truth[at][gone]

    @rule(hours=st.sampled_from([1, 5, 13, 25]))
    def time_passes(self, hours: int) -> None:
        self.clock.sleep(hours * HOUR)

    @rule(at=st.integers(0, 1))
    def mark(self, at: int) -> None:
        mark(self.vaults[at], Silent(), rng=random.Random(1))

    @rule(at=st.integers(0, 1))
    def sweep(self, at: int) -> None:
        assert sweep(self.vaults[at], self.vaults[at].store, Silent()).complete

    @rule(at=st.integers(0, 1), last=st.integers(1, 60), after=st.booleans(), which=st.booleans())
    def die_in_a_collection(self, at: int, last: int, after: bool, which: bool) -> None:
        repo = self.vaults[at]
        mortal = of(repo, Mortal(memory(repo), last, after=after))
        try:
            if which:
                mark(mortal, Silent(), rng=random.Random(1))
            else:
                sweep(mortal, mortal.store, Silent())
        except Died:
            pass

    @rule()
    def copy(self) -> None:
        done = replicate(self.vaults[0], self.third, Silent(), rng=random.Random(1))
        assert done.complete
        self.copied += [self.truth[0][theirs] for theirs in sorted(done.snapshots)]

    @precondition(lambda self: self.slow is None and self.vaults[0].keys.epoch < 4)
    @rule(at=st.integers(0, 1))
    def rotate(self, at: int) -> None:
        """A new root; what the old one sealed and said until now still counts."""
        done = rotation.begin(self.vaults[at], why="stolen", passphrases=("x",), kdf=FAST)
        self.vaults[at] = done.repository

    @precondition(lambda self: self.truth[0] and self.slow is None)
    @rule(which=st.integers(0, 1 << 16), at=st.integers(0, 1 << 16), flip=st.booleans())
    def lose_and_heal(self, which: int, at: int, flip: bool) -> None:
        """Only what the other vault has too can come back from it. `which` and `at` turn round: how many objects there
        are, and how large, is the threads' luck, and what is drawn must not depend on that."""
        theirs = [one.content.started for one in self.vaults[1].snapshots()]
        if any(one.content.started not in theirs for one in self.vaults[0].snapshots()):
            return
        store = memory(self.vaults[0])
        able: list[Stat] = [*store.list("packs/"), *store.list("index/")]
        hit = able[which % len(able)]
        if flip:
            spoilt = bytearray(store.read(hit.key))
            spoilt[at % hit.size_bytes] ^= 1
            store.corrupt(hit.key, bytes(spoilt))
        else:
            store.remove(hit.key, version=hit.version)
        done = heal(self.vaults[0], self.vaults[1], Silent(), rng=random.Random(1))
        assert done.complete, done.unhealed
        for old, new in done.copied.items():
            self.truth[0][new] = self.truth[0].pop(old)

    @invariant()
    def everything_comes_back(self) -> None:
        if not hasattr(self, "vaults"):
            return
        for repo, truth in zip(self.vaults, self.truth, strict=True):
            assert read_back(repo) == truth, repo.name
        assert list(read_back(self.third).values()) == self.copied

    def teardown(self) -> None:
        """A verification finds nothing wrong, and with time and two collections no garbage is left."""
        for repo in getattr(self, "vaults", ()):
            assert not sound(repo)
            self.clock.sleep(2 * DAY)
            for _ in range(2):
                mark(repo, Silent(), rng=random.Random(1))
                self.clock.sleep(2 * DAY)
                sweep(repo, repo.store, Silent())
            assert not list(repo.store.list("marks/"))
            assert not sound(repo)


Lifecycle.TestCase.settings = settings(
    max_examples=12 * max(1, CAMPAIGN),
    stateful_step_count=14,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestLifecycle = Lifecycle.TestCase


def test_the_walk_would_see_a_loss() -> None:
    """The proof of the proof: a vault that lost a pack is not called whole."""
    case = Case("backup")
    repo, into = case.fresh()
    store = memory(repo)
    lost = max(store.list("packs/"), key=lambda s: s.size_bytes)
    store.remove(lost.key, version=lost.version)
    with pytest.raises((AssertionError, Damage)):
        case.check(repo, into, "lost")
