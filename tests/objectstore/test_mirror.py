"""What a client is told when one of two stores is gone, late, or holds something else."""

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from infra.objectstore.contract import AlreadyThere
from infra.objectstore.memory import Fault, MemoryStore
from infra.objectstore.mirror import Conflict, Mirror
from zaibei.config.model import SiteLoss
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Unreachable


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


def two(clock: SimClock) -> dict[str, MemoryStore]:
    return {n: MemoryStore(clock=clock, name=n) for n in ("site-a", "site-b")}


def test_an_acknowledged_object_is_on_both_stores(clock: SimClock) -> None:
    stores = two(clock)
    with Mirror(stores=stores, clock=clock) as mirror:
        ack = mirror.create("k", b"bytes")

    assert (ack.copies, ack.missing, ack.degraded) == (2, (), False)
    assert all(s.read("k") == b"bytes" for s in stores.values())
    assert ack.versions == {n: s.stat("k").version for n, s in stores.items()}


def test_a_lost_store_is_named_in_the_acknowledgement_and_left_alone_for_a_while(
    clock: SimClock,
) -> None:
    stores = two(clock)
    stores["site-b"].faults = {1: Fault.BEFORE}
    with Mirror(stores=stores, clock=clock, cool_down=timedelta(seconds=5)) as mirror:
        first = mirror.create("one", b"1")
        second = mirror.create("two", b"2")
        clock.sleep(timedelta(seconds=6))
        third = mirror.create("three", b"3")

    assert [(a.copies, a.missing) for a in (first, second, third)] == [
        (1, ("site-b",)),
        (1, ("site-b",)),
        (2, ()),
    ]
    assert stores["site-b"].log == [("create", "one"), ("create", "three")]


def test_with_block_nothing_is_acknowledged_and_after_the_first_loss_nothing_is_written(
    clock: SimClock,
) -> None:
    stores = two(clock)
    stores["site-b"].faults = {1: Fault.BEFORE}
    with Mirror(stores=stores, clock=clock, on_site_loss=SiteLoss.BLOCK) as mirror:
        for key in ("one", "two"):
            with pytest.raises(Unreachable):
                mirror.create(key, b"x")
    assert [s.key for s in stores["site-a"].list()] == ["one"]


def test_repeating_an_unanswered_write_is_a_success_when_the_bytes_are_the_same(
    clock: SimClock,
) -> None:
    stores = two(clock)
    stores["site-b"].faults = {1: Fault.AFTER}  # written, and nobody was told
    with Mirror(stores=stores, clock=clock, cool_down=timedelta(0)) as mirror:
        assert mirror.create("k", b"same").copies == 1
        assert mirror.create("k", b"same").copies == 2


def test_other_bytes_under_the_key_are_never_counted_as_a_copy(clock: SimClock) -> None:
    stores = two(clock)
    stores["site-b"].create("k", b"theirs")
    with Mirror(stores=stores, clock=clock) as mirror, pytest.raises(Conflict) as told:
        mirror.create("k", b"ours")
    assert "site-a took these bytes, site-b holds others" in told.value.message
    assert stores["site-b"].read("k") == b"theirs"

    with Mirror(stores=stores, clock=clock) as mirror, pytest.raises(AlreadyThere) as lost:
        mirror.create("k", b"a third")
    assert not isinstance(lost.value, Conflict)


def test_when_nobody_answers_nothing_is_acknowledged(clock: SimClock) -> None:
    stores = two(clock)
    for store in stores.values():
        store.faults = {1: Fault.BEFORE}
    with Mirror(stores=stores, clock=clock) as mirror, pytest.raises(Unreachable):
        mirror.create("k", b"x")


class Hanging(MemoryStore):
    """Answers when it is let go, not before."""

    release = threading.Event()

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> str | None:
        self.release.wait(30)
        return super().create(key, data, retain_until=retain_until)


@pytest.fixture
def hanging(clock: SimClock) -> Iterator[Hanging]:
    store = Hanging(clock=clock, name="site-b")
    yield store
    store.release.set()


def test_a_store_that_hangs_costs_one_deadline_not_the_acknowledgement(
    clock: SimClock, hanging: Hanging
) -> None:
    stores = {"site-a": MemoryStore(clock=clock, name="site-a"), "site-b": hanging}
    with Mirror(stores=stores, clock=clock, deadline=timedelta(milliseconds=50)) as mirror:
        assert mirror.create("k", b"x").missing == ("site-b",)
        hanging.release.set()
