"""Divergence is found key by key, and healing never overwrites."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.lab.loopback_store import LoopbackSite
from infra.objectstore import converge
from infra.objectstore.contract import VersionedStore
from infra.objectstore.converge import Kind
from infra.objectstore.memory import MemoryStore
from infra.objectstore.reread import reread, sample
from infra.objectstore.s3 import connect, open_store
from monitors.probes.records import audits
from zaibei.kernel.clock import SimClock, SystemClock
from zaibei.kernel.errors import Damage

WRITES = st.lists(
    st.tuples(
        st.sampled_from(["a", "a/b", "a-b", "b", "é", "中"]), st.sampled_from([b"1", b"2", None])
    ),
    max_size=12,
)


def store(name: str, writes: list[tuple[str, bytes | None]]) -> MemoryStore:
    made = MemoryStore(clock=SimClock(), name=name)
    for key, body in writes:
        made.remove(key)
        if body is not None:
            made.create(key, body)
    return made


def past(of: MemoryStore, key: str) -> list[tuple[bool, str]]:
    return [(v.marker, v.etag) for v in of.versions() if v.key == key]


@given(WRITES, WRITES)
def test_a_diff_counts_exactly_the_keys_whose_pasts_differ(
    left: list[tuple[str, bytes | None]], right: list[tuple[str, bytes | None]]
) -> None:
    a, b = store("a", left), store("b", right)
    keys = {v.key for v in a.versions()} | {v.key for v in b.versions()}
    differ = {
        k
        for k in keys
        if past(a, k)[:1] != past(b, k)[:1] or sorted(past(a, k)) != sorted(past(b, k))
    }
    found = converge.diff(a, b)

    assert found.keys == len(keys)
    assert {d.key for d in found.first} == differ
    assert found.total == len(differ)


@given(WRITES, WRITES)
def test_healing_adds_what_lacks_and_changes_nothing_else(
    left: list[tuple[str, bytes | None]], right: list[tuple[str, bytes | None]]
) -> None:
    a, b = store("a", left), store("b", right)
    before = [list(a.versions()), list(b.versions())]
    done = converge.heal(a, b)

    for was, now in zip(before, (a, b), strict=True):
        after = list(now.versions())
        assert all(v in after for v in was), "what was there stays, version by version"
    assert {d.key for d in converge.diff(a, b).first} == {c.key for c in done.conflicts}
    again = converge.heal(a, b)
    assert again.copied == {"a": [], "b": []}


def test_a_deleted_object_that_shows_again_is_a_difference_no_copy_settles() -> None:
    a, b = store("a", [("k", b"1")]), store("b", [("k", b"1")])
    a.remove("k")
    [one] = converge.diff(a, b).first

    assert (one.kind, one.a) == (Kind.LATEST, "a delete marker; versions: 2")
    assert [c.key for c in converge.heal(a, b).conflicts] == ["k"]
    assert b.read("k") == b"1"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path))
    return tmp_path / "store" / "divergence.json"


def audit(
    bucket: str, *, differing: int, other: str = "site-b", prefix: str = "", clock: SimClock
) -> Path:
    found = converge.diff(
        store("site-a", [(f"x{n}", b"") for n in range(differing)]), store(other, []), prefix=prefix
    )
    return converge.publish(found, bucket=bucket, clock=clock)


def test_what_an_audit_publishes_is_what_the_monitors_read(state: Path) -> None:
    clock = SimClock()
    assert audit("citizen-objects", differing=3, clock=clock) == state
    clock.sleep(timedelta(hours=1))
    audit("geo-images", differing=0, clock=clock)

    told = audits(state, buckets=["citizen-objects", "geo-images", "other"], now=clock.now())
    assert {b: (a.divergent, a.age) for b, a in told.items()} == {
        "citizen-objects": (3, timedelta(hours=1)),
        "geo-images": (0, timedelta(0)),
    }
    audit("citizen-objects", differing=0, clock=clock)
    assert (
        audits(state, buckets=["citizen-objects"], now=clock.now())["citizen-objects"].divergent
        == 0
    )


def test_a_pair_that_is_level_does_not_hide_one_that_is_not(state: Path) -> None:
    clock = SimClock()
    audit("b", differing=2, other="site-c", clock=clock)
    clock.sleep(timedelta(hours=1))
    audit("b", differing=0, other="site-b", clock=clock)

    told = audits(state, buckets=["b"], now=clock.now())["b"]
    assert (told.divergent, told.age) == (2, timedelta(hours=1))


def test_both_orders_of_two_sites_are_one_pair(state: Path) -> None:
    clock = SimClock()
    a, b = store("site-a", [("k", b"")]), store("site-b", [])
    converge.publish(converge.diff(a, b), bucket="b", clock=clock)
    converge.heal(a, b)
    converge.publish(converge.diff(b, a), bucket="b", clock=clock)
    assert audits(state, buckets=["b"], now=clock.now())["b"].divergent == 0


def test_an_audit_of_a_part_never_makes_the_whole_look_better(state: Path) -> None:
    clock = SimClock()
    audit("b", differing=0, prefix="drill-", clock=clock)
    assert not state.exists(), "nothing was learnt about the bucket"
    audit("b", differing=2, clock=clock)
    clock.sleep(timedelta(hours=1))
    audit("b", differing=0, prefix="drill-", clock=clock)
    told = audits(state, buckets=["b"], now=clock.now())["b"]
    assert (told.divergent, told.age) == (2, timedelta(hours=1))
    audit("b", differing=3, prefix="x", clock=clock)
    told = audits(state, buckets=["b"], now=clock.now())["b"]
    assert (told.divergent, told.age) == (3, timedelta(hours=1))


def test_a_part_that_differs_is_told_though_the_whole_was_never_audited(state: Path) -> None:
    audit("b", differing=3, prefix="x", clock=SimClock())
    told = audits(state, buckets=["b"], now=SimClock().now())["b"]
    assert (told.divergent, told.age) == (3, None)


@pytest.mark.parametrize("content", ["", "[]", "not json", '{"b": 7}', '{"b": {"pairs": 1}}'])
def test_a_record_that_says_nothing_is_begun_anew(state: Path, content: str) -> None:
    state.parent.mkdir()
    state.write_text(content)
    audit("b", differing=1, clock=SimClock())
    assert audits(state, buckets=["b"], now=SimClock().now())["b"].divergent == 1


def test_two_who_publish_at_once_lose_neither(state: Path) -> None:
    clock = SystemClock()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: audit(f"b{n}", differing=1, clock=clock), range(16)))
    assert len(audits(state, buckets=[f"b{n}" for n in range(16)], now=clock.now())) == 16


class Forgetful(MemoryStore):
    """Takes bytes and gives others back."""

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        return super().read(key, start=start, length=length)[:-1]


def test_a_copy_that_reads_back_as_something_else_is_damage() -> None:
    a, b = store("a", [("k", b"bytes")]), Forgetful(clock=SimClock(), name="b")
    with pytest.raises(Damage):
        converge.heal(a, b)


def test_every_key_is_as_likely_to_be_in_the_sample(rng: random.Random) -> None:
    of = store("a", [(f"{n:02}", b"") for n in range(20)])
    drawn = [key for _ in range(2000) for key in sample(of, rng=rng, size=5)]
    counts = [drawn.count(f"{n:02}") for n in range(20)]

    assert sum(counts) == 10_000
    assert min(counts) > 400 and max(counts) < 600  # 500 expected, deviation 19


@pytest.mark.integration
def test_two_real_buckets_are_compared_healed_and_reread_by_a_second_client(
    site: LoopbackSite, rng: random.Random
) -> None:
    admin = connect(site.access, ca_file=site.ca_file, role="admin")
    stores: list[VersionedStore] = []
    for bucket in ("zaibei-first", "zaibei-second"):
        admin.create_bucket(Bucket=bucket)
        admin.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        stores.append(
            open_store(site.access, ca_file=site.ca_file, bucket=bucket, role="admin", site=bucket)
        )
    a, b = stores
    for n in range(30):
        (a if n % 3 else b).create(f"objects/{n:04}", rng.randbytes(1000 + n))
    for which, body in ((a, b"one"), (b, b"two")):
        which.create("both", body)
    found = converge.diff(a, b)
    assert (found.keys, found.counts[Kind.ONLY_A], found.counts[Kind.ONLY_B]) == (31, 20, 10)

    done = converge.heal(a, b)
    assert {n: len(k) for n, k in done.copied.items()} == {a.name: 10, b.name: 20}
    assert [c.key for c in done.conflicts] == ["both"]
    assert (a.read("both"), b.read("both")) == (b"one", b"two")
    assert converge.diff(a, b).counts == {
        Kind.ONLY_A: 0,
        Kind.ONLY_B: 0,
        Kind.LATEST: 1,
        Kind.HISTORY: 0,
    }

    keys = sample(a, rng=rng, size=10)
    seen = reread(
        a, keys, access=site.access, ca_file=site.ca_file, bucket="zaibei-first", role="admin"
    )
    assert (seen.read, seen.differing) == (10, [])
    other = reread(
        b,
        ["both"],
        access=site.access,
        ca_file=site.ca_file,
        bucket="zaibei-first",
        role="admin",
    )
    assert other.differing == ["both"], "a second client that sees other bytes is told"
