"""What snapshots need is found whole, each once, and never less when a listing cannot be read."""

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup.errors import NewerFormat
from backup.format import tree
from backup.format.tree import Node, Type
from backup.index.id_set import IdSet
from backup.repository.reachable import ids_of, reachable
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.run import run_files
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Silent

ids = st.binary(min_size=32, max_size=32)


@given(st.lists(st.lists(ids, max_size=20), max_size=5), ids)
@settings(deadline=None)
def test_an_id_set_is_a_sorted_set(batches: list[list[bytes]], other: bytes) -> None:
    one, truth = IdSet(), set[bytes]()
    for batch in batches:
        one.update(b"".join(batch))
        truth |= set(batch)
        assert list(one) == sorted(truth)
    assert len(one) == len(truth)
    assert all(i in one for i in truth)
    assert (other in one) == (other in truth)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=30), st.lists(ids, max_size=6))))
def test_ids_are_found_in_any_listing_that_can_be_written(
    files: list[tuple[bytes, list[bytes]]],
) -> None:
    nodes = [
        Node(path=p, type=Type.FILE, mode=0o600, mtime_ns=0, size_bytes=1, blobs=tuple(b))
        for p, b in files
    ]
    raw = b"".join(line for n in nodes for line in tree.encode(n))
    assert ids_of(raw) == b"".join(i for _, blobs in files for i in blobs)


def test_an_entry_of_a_later_type_is_refused_and_not_taken_for_empty() -> None:
    with pytest.raises(NewerFormat):
        ids_of(b'{"type":"hologram","parts":"AAAA"}\n')


@pytest.mark.parametrize("raw", [b"{", b'{"blobs":"AAAA"}', b'{"blobs":7}', b'{"more":"*"}', b"7"])
def test_a_listing_that_cannot_be_read_is_damage_and_not_empty(raw: bytes) -> None:
    with pytest.raises(Damage):
        ids_of(raw)


def test_what_is_reachable_is_what_the_listings_name(
    repo: Repository, some_files: Path, clock: SimClock, rng: random.Random
) -> None:
    run_files([some_files], [repo], clock, rng, Silent())
    (some_files / "later").write_bytes(rng.randbytes(5000))
    run_files([some_files], [repo], clock, rng, Silent())
    first, second = repo.snapshots()
    with Reader(repo) as reader:
        wanted = {
            one.sequence: {*one.content.tree, *(b for n in reader.nodes(one) for b in n.blobs)}
            for one in (first, second)
        }
        assert set(reachable(repo, [first], Silent(), reader=reader)) == wanted[1]
        both = reachable(repo, [first, second], Silent())
        assert set(both) == wanted[1] | wanted[2]
        assert reader.catalogue.lacking(both).count == 0
        dead = reachable(repo, [second], Silent())
        live = {x.pack: x for x in reader.catalogue.liveness(dead)}
        assert sum(x.blobs - x.live_blobs for x in live.values()) == len(wanted[1] - wanted[2])


def test_a_lost_listing_stops_the_search(
    make: Callable[..., Repository], some_files: Path, clock: SimClock, rng: random.Random
) -> None:
    repo = make()
    assert isinstance(repo.store, MemoryStore)
    run_files([some_files], [repo], clock, rng, Silent())
    snapshots = repo.snapshots()
    with Reader(repo) as reader:
        pack = reader.catalogue.locations(snapshots[0].content.tree[0])[0].pack
    repo.store.remove(f"packs/{pack[:2]}/{pack}")
    with pytest.raises(Damage):
        reachable(repo, snapshots, Silent())


def test_ids_added_one_by_one_weigh_what_they_are() -> None:
    rng, count = random.Random(3), 100_000
    one = IdSet()
    tracemalloc.start()
    try:
        for _ in range(count):
            one.add(rng.randbytes(32))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * 32 * count
    assert len(one) == count
