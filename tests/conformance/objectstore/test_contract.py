"""What every object store must do, said once and asked of each implementation."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from infra.objectstore.contract import (
    AlreadyThere,
    HeaderedStore,
    Locked,
    NotThere,
    ObjectStore,
    VersionedStore,
)
from zaibei.kernel.errors import Usage

RACERS = 8


def test_what_was_created_is_read_back(store: ObjectStore, rng: random.Random) -> None:
    body = rng.randbytes(100_000)
    store.create("packs/ab/0123", body)

    assert store.read("packs/ab/0123") == body
    assert store.stat("packs/ab/0123").size_bytes == len(body)


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.create("empty", b"")

    assert store.read("empty") == b""
    assert store.read("empty", length=0) == b""
    assert store.read("empty", start=0, length=5) == b""
    assert store.stat("empty").size_bytes == 0


@pytest.mark.parametrize(
    ("start", "length"), [(0, 4), (3, 5), (8, 100), (9, None), (10, None), (50, 3), (2, 0)]
)
def test_a_range_is_what_a_file_would_give(
    store: ObjectStore, start: int, length: int | None
) -> None:
    body = b"0123456789"
    store.create("ten", body)
    stop = None if length is None else start + length

    assert store.read("ten", start=start, length=length) == body[start:stop]


def test_a_key_is_never_overwritten(store: ObjectStore) -> None:
    store.create("k", b"first")
    with pytest.raises(AlreadyThere):
        store.create("k", b"second")

    assert store.read("k") == b"first"


def test_creating_again_says_already_there_also_for_the_same_bytes(store: ObjectStore) -> None:
    store.create("k", b"same")
    with pytest.raises(AlreadyThere):
        store.create("k", b"same")


def test_a_race_to_create_has_one_winner_and_its_bytes_stay(store: ObjectStore) -> None:
    start = threading.Barrier(RACERS)

    def racer(n: int) -> bool:
        start.wait()
        try:
            store.create("race", b"racer %d" % n)
        except AlreadyThere:
            return False
        return True

    with ThreadPoolExecutor(RACERS) as pool:
        won = list(pool.map(racer, range(RACERS)))

    assert sum(won) == 1
    assert store.read("race") == b"racer %d" % won.index(True)


def test_what_is_not_there_is_said_to_be_not_there(store: ObjectStore) -> None:
    for ask in (store.read, store.stat):
        with pytest.raises(NotThere):
            ask("nobody")
    with pytest.raises(NotThere):
        store.read("nobody", start=1, length=1)


def test_removing_what_is_not_there_is_not_an_error(store: ObjectStore) -> None:
    store.remove("nobody")
    store.create("k", b"x")
    store.remove("k")
    store.remove("k")

    with pytest.raises(NotThere):
        store.stat("k")


def test_a_removed_key_can_be_created_again(store: ObjectStore) -> None:
    store.create("k", b"one")
    store.remove("k")
    store.create("k", b"two")

    assert store.read("k") == b"two"
    assert [s.key for s in store.list()] == ["k"]


def test_a_listing_is_in_the_order_of_utf_8_bytes(store: ObjectStore) -> None:
    keys = ["B", "a-b", "a.b", "a/b", "a/b-c/d", "a0", "z", "é", "中", "ﬀ", "𝄞"]
    for key in reversed(keys):
        store.create(key, key.encode())

    assert [s.key for s in store.list()] == sorted(keys, key=str.encode)
    assert [s.size_bytes for s in store.list()] == [
        len(k.encode()) for k in sorted(keys, key=str.encode)
    ]


def test_a_listing_shows_what_begins_with_the_prefix_and_nothing_else(store: ObjectStore) -> None:
    for key in ("packs/aa/1", "packs/ab/2", "packs/ab/3", "packs-old/ab", "snapshots/4"):
        store.create(key, b"")

    assert [s.key for s in store.list("packs/")] == ["packs/aa/1", "packs/ab/2", "packs/ab/3"]
    assert [s.key for s in store.list("packs/ab/")] == ["packs/ab/2", "packs/ab/3"]
    assert [s.key for s in store.list("packs/a")] == ["packs/aa/1", "packs/ab/2", "packs/ab/3"]
    assert list(store.list("nothing/")) == []


def test_a_removed_key_is_not_listed(store: ObjectStore) -> None:
    store.create("a", b"")
    store.create("b", b"")
    store.remove("a")

    assert [s.key for s in store.list()] == ["b"]


def test_a_store_tells_its_own_time_and_dates_objects_by_it(store: ObjectStore) -> None:
    before = store.now()
    store.create("k", b"x")

    assert before.utcoffset() == timedelta(0)
    assert abs(store.stat("k").modified - before) < timedelta(seconds=30)


# What only a store with versions and locks can do.


def soon() -> datetime:
    return (datetime.now(UTC) + timedelta(minutes=10)).replace(microsecond=0)


def test_a_lock_holds_from_the_first_moment(versioned: VersionedStore) -> None:
    until = soon()
    version = versioned.create("k", b"locked", retain_until=until)
    with pytest.raises(Locked):
        versioned.remove("k", version=version)

    assert versioned.read("k") == b"locked"
    assert versioned.stat("k").retain_until == until


def test_a_lock_can_grow_and_never_shrink(versioned: VersionedStore) -> None:
    until = soon()
    version = versioned.create("k", b"locked", retain_until=until)
    versioned.retain("k", until=until + timedelta(minutes=1), version=version)
    with pytest.raises(Locked):
        versioned.retain("k", until=until, version=version)

    assert versioned.stat("k").retain_until == until + timedelta(minutes=1)


def test_a_delete_marker_hides_a_locked_object_and_harms_nothing(
    versioned: VersionedStore,
) -> None:
    version = versioned.create("k", b"locked", retain_until=soon())
    assert version is not None
    versioned.remove("k")
    with pytest.raises(NotThere):
        versioned.read("k")

    assert versioned.read_version("k", version=version) == b"locked"


def test_a_range_of_a_version_is_what_a_file_would_give(versioned: VersionedStore) -> None:
    version = versioned.create("k", b"0123456789")
    assert version is not None
    versioned.remove("k")

    for start, length in ((0, 4), (3, 5), (8, 100), (10, None), (50, 3), (2, 0)):
        stop = None if length is None else start + length
        found = versioned.read_version("k", version=version, start=start, length=length)
        assert found == b"0123456789"[start:stop]


def test_headers_come_back_as_they_were_given(versioned: VersionedStore) -> None:
    assert isinstance(versioned, HeaderedStore)
    given = {
        "content-type": "image/png",
        "cache-control": "max-age=60",
        "x-amz-meta-layer": "roads",
    }
    version = versioned.create_with("k", b"png", given)
    versioned.remove("k")
    versioned.create("plain", b"")

    assert versioned.headers("k", version=version) == given
    assert "x-amz-meta-layer" not in versioned.headers("plain")
    with pytest.raises(AlreadyThere):
        versioned.create_with("plain", b"", given)
    with pytest.raises(Usage):
        versioned.create_with("other", b"", {"x-what": "1"})


def test_versions_tell_the_past_with_markers_the_newest_first(versioned: VersionedStore) -> None:
    first = versioned.create("k", b"one")
    versioned.remove("k")
    second = versioned.create("k", b"three")
    versioned.create("other", b"")

    told = [v for v in versioned.versions() if v.key == "k"]
    assert [v.key for v in versioned.versions()] == ["k", "k", "k", "other"]
    assert sorted((v.size_bytes, v.marker) for v in told) == [(0, True), (3, False), (5, False)]
    assert [v.version for v in told if v.latest] == [second]
    assert told[0].version == second
    assert first in {v.version for v in told}


def test_a_version_removed_for_good_is_gone_and_the_one_before_shows(
    versioned: VersionedStore,
) -> None:
    first = versioned.create("k", b"one")
    versioned.remove("k")
    marker = next(v.version for v in versioned.versions("k") if v.marker)
    versioned.remove("k", version=marker)
    assert versioned.read("k") == b"one"

    versioned.remove("k", version=first)
    assert list(versioned.versions("k")) == []
    versioned.remove("k", version=first)  # again: retries must be safe


def test_retaining_what_is_not_there_is_an_error(versioned: VersionedStore) -> None:
    with pytest.raises(NotThere):
        versioned.retain("nobody", until=soon())
