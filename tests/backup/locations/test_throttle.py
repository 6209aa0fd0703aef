"""A store that is overwhelmed is asked less, one that is dead is left, and nothing is given up too early."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.locations.throttle import CALLS_MAX, PATIENCE, Pace, Paced, Window
from backup.repository.repository import Repository
from backup.sources.files import backup_files
from backup.writer.writer import Writer
from infra.objectstore.memory import MemoryStore
from infra.objectstore.silence import NoConnection
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Refused, Unreachable
from zaibei.kernel.progress import Silent


def steady(clock: SimClock, **more: int) -> Pace:
    return Pace(clock, rng=random.Random(1), **more)


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 64))
def test_the_window_never_leaves_its_bounds(answers: list[bool], most: int) -> None:
    window = Window(size=most, most=most)
    for good in answers:
        before = window
        window = window.answered() if good else window.refused()
        assert 1 <= window.calls <= most
        assert (window.size >= before.size) == good or window.size == before.size
    for _ in range(most * most):
        window = window.answered()
    assert window.calls == most, "it comes all the way back"


def test_a_call_is_repeated_with_growing_pauses_until_the_store_answers(clock: SimClock) -> None:
    pace, tries = steady(clock), list[float]()

    def sometimes() -> str:
        tries.append(clock.monotonic())
        if len(tries) < 7:
            raise Unreachable("503")
        return "answer"

    assert pace.call(sometimes) == "answer"
    pauses = [b - a for a, b in pairwise(tries)]
    assert len(pauses) == pace.pauses == 6
    assert pauses[-1] > 4 * pauses[0]
    assert pace.window.calls < CALLS_MAX


def test_a_store_that_was_never_met_is_not_waited_for_and_one_that_was_is(clock: SimClock) -> None:
    """A wrong port took two minutes without a word; a store that is restarted in the night is still waited for."""
    pace, begun = steady(clock), clock.monotonic()

    def refused() -> None:
        raise NoConnection("connection refused")

    with pytest.raises(NoConnection):
        pace.call(refused)
    assert clock.monotonic() == begun and pace.pauses == 0
    assert pace.call(lambda: 7) == 7
    with pytest.raises(NoConnection):
        pace.call(refused)
    assert clock.monotonic() - begun >= PATIENCE.total_seconds()


def test_a_dead_store_is_left_after_its_patience_and_then_not_waited_for_again(
    clock: SimClock,
) -> None:
    pace, tries = steady(clock), [0]

    def dead() -> None:
        tries[0] += 1
        raise Unreachable("no route")

    with pytest.raises(Unreachable):
        pace.call(dead)
    took = clock.monotonic()
    assert PATIENCE.total_seconds() <= took < PATIENCE.total_seconds() * 1.2
    before = tries[0]
    for _ in range(50):
        with pytest.raises(Unreachable):
            pace.call(dead)
    assert tries[0] == before + 50, "one try each"
    assert clock.monotonic() == took, "and no waiting"
    assert pace.call(lambda: 7) == 7
    with pytest.raises(Unreachable):
        pace.call(dead)
    assert clock.monotonic() > took + PATIENCE.total_seconds() * 0.9, "patience is new"


def test_a_refusal_is_an_answer_and_not_repeated(clock: SimClock) -> None:
    pace, tries = steady(clock), [0]

    def refuses() -> None:
        tries[0] += 1
        raise Refused("not with this identity")

    with pytest.raises(Refused):
        pace.call(refuses)
    assert tries == [1]
    assert pace.pauses == 0


def test_a_crowd_that_fails_together_halves_the_window_once(clock: SimClock) -> None:
    pace, together = steady(clock), threading.Barrier(8)
    first = threading.local()

    def fails_once() -> None:
        if not hasattr(first, "done"):
            first.done = True
            together.wait(10)
            raise Unreachable("503")

    threads = [threading.Thread(target=pace.call, args=(fails_once,)) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(10)
    assert pace.window.size >= CALLS_MAX / 2


@dataclass
class Crowded:
    """A store that answers so many at a time, and 503 to whoever comes besides."""

    inner: MemoryStore
    room: int
    at_once: int = 0
    most: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> str | None:
        with self.lock:
            if self.at_once >= self.room:
                self.refused += 1
                raise Unreachable("503 SlowDown")
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        try:
            threading.Event().wait(0.002)  # a moment in which others come
            return self.inner.create(key, data, retain_until=retain_until)
        finally:
            with self.lock:
                self.at_once -= 1


def test_a_backup_into_a_crowded_vault_is_slowed_and_complete(
    repo: Repository, clock: SimClock, some_files: Path
) -> None:
    assert isinstance(repo.store, MemoryStore)
    crowded = Crowded(repo.store, room=1)
    store = Paced(crowded, steady(clock))
    writer = Writer(replace(repo, store=store), rng=random.Random(2), pack_bytes=32 << 10)
    (outcome,) = backup_files([some_files], [writer], clock=clock, progress=Silent())
    assert outcome.snapshot is not None
    assert outcome.snapshot.content.complete
    assert crowded.refused > 0, "it was crowded"
    assert store.pace.pauses >= crowded.refused


def test_a_vault_that_stays_dead_is_left_behind_and_told_while_the_other_commits(
    make: Callable[..., Repository], clock: SimClock, some_files: Path
) -> None:
    good, bad = make("site-b"), make("site-c")

    class Dies:
        def __getattr__(self, name: str) -> object:
            return getattr(bad.store, name)

        def create(self, key: str, data: bytes, **more: object) -> str | None:
            if key.startswith("packs/"):
                raise Unreachable("site-c: no route to host")
            return bad.store.create(key, data)

    dead = replace(bad, store=Paced(Dies(), steady(clock)))  # type: ignore[arg-type]
    writers = [Writer(good, rng=random.Random(1)), Writer(dead, rng=random.Random(2))]
    outcomes = backup_files([some_files], writers, clock=clock, progress=Silent())
    assert outcomes[0].snapshot is not None
    assert outcomes[1].snapshot is None
    assert "no route" in (outcomes[1].error or "")
    assert clock.monotonic() < timedelta(minutes=10).total_seconds(), "not waited for call by call"
