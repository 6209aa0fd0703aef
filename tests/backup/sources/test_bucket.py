"""A bucket with all its versions: there, unchanged, and named as a set."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from backup.format.snapshot import Content
from backup.format.tree import Node, Type
from backup.integrity.verify import verify
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.run import run_bucket
from backup.sources.bucket import version_set
from backup.writer.pack_health import Level
from infra.lab.loopback_store import loopback
from infra.objectstore.contract import Version
from infra.objectstore.directory import DirectoryStore
from infra.objectstore.memory import Fault, MemoryStore
from infra.objectstore.s3 import open_store
from zaibei.kernel.clock import SimClock, SystemClock
from zaibei.kernel.errors import Refused, Unreachable, Usage
from zaibei.kernel.progress import Silent

Make = Callable[..., Repository]
SOURCE = "s3+https://store.invalid/geo-images"


def fill(store: MemoryStore, clock: SimClock) -> None:
    """Versions, a delete marker, a key behind one, keys that are no file names."""
    tick(clock)
    store.create_with("map", b"map one", {"content-type": "image/png", "x-amz-meta-sheet": "7"})
    tick(clock)
    store.remove("map")
    tick(clock)
    store.create("map", b"map two")
    store.create("gone", b"was here")
    tick(clock)
    store.remove("gone")
    store.create("folder/", b"")
    store.create("folder", b"a key and a folder of one name")
    store.create("folder/inside", b"inside")
    store.create("../climbs", b"out")
    store.create("人口/图像", b"\xff" * 3_000_000)


def tick(clock: SimClock) -> None:
    clock.sleep(timedelta(seconds=1))


@pytest.fixture
def business(clock: SimClock) -> MemoryStore:
    store = MemoryStore(clock=clock, name="site-a/geo-images")
    fill(store, clock)
    return store


def back_up(store: MemoryStore, repos: list[Repository], clock: SimClock) -> Content:
    tick(clock)
    run = run_bucket(store, repos, clock, None, Silent(), source=SOURCE)
    assert run.outcomes[0].snapshot is not None
    return run.outcomes[0].snapshot.content


def nodes(repo: Repository) -> list[Node]:
    with Reader(repo) as reader:
        return list(reader.nodes(repo.find("latest")))


def read_back(repo: Repository) -> dict[tuple[str, str], bytes]:
    with Reader(repo) as reader:
        return {
            (n.path.decode(), n.object.version or ""): b"".join(reader.read_all(n.blobs))
            for n in reader.nodes(repo.find("latest"))
            if n.type is Type.OBJECT and n.object is not None
        }


def held(store: MemoryStore) -> dict[tuple[str, str], bytes]:
    return {
        (v.key, v.version or ""): store.read_version(v.key, version=v.version or "")
        for v in store.versions()
        if not v.marker
    }


def test_every_version_and_marker_is_there_with_what_the_store_says_of_it(
    repo: Repository, business: MemoryStore, clock: SimClock
) -> None:
    content = back_up(business, [repo], clock)

    assert content.complete and content.kind == "bucket"
    listed = nodes(repo)
    assert [(n.path.decode(), n.object and n.object.version) for n in listed] == [
        (v.key, v.version) for v in business.versions()
    ]
    for node, version in zip(listed, business.versions(), strict=True):
        assert node.object is not None
        assert (node.type is Type.MARKER) == version.marker
        assert node.object.latest == version.latest
        assert node.object.etag == version.etag
        assert node.mtime_ns == int(version.modified.timestamp()) * 10**9
        assert node.size_bytes == version.size_bytes
    assert read_back(repo) == held(business)
    oldest = [n for n in listed if n.path == b"map"][-1]
    assert oldest.object is not None
    assert dict(oldest.object.meta) == {"content-type": "image/png", "x-amz-meta-sheet": "7"}


def test_versions_that_were_listed_before_are_not_fetched_again(
    make: Make, business: MemoryStore, clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    back_up(business, [b, c], clock)
    business.remove("map")
    business.create("new", b"new")
    business.log.clear()

    content = back_up(business, [b, c], clock)

    fetched = {key for method, key in business.log if method == "read_version"}
    assert fetched == {"new"}
    assert content.facts["unchanged"] == content.facts["versions"]["count"] - 2
    for repo in (b, c):
        assert read_back(repo) == held(business)
        assert [n.object.latest for n in nodes(repo) if n.object] == [
            v.latest for v in business.versions()
        ]


def test_a_version_of_the_same_name_with_other_bytes_is_fetched(
    repo: Repository, business: MemoryStore, clock: SimClock
) -> None:
    """A bucket that does not keep versions calls every one `null`."""
    back_up(business, [repo], clock)
    business.corrupt("map", b"map too")

    back_up(business, [repo], clock)

    assert read_back(repo) == held(business)


def test_the_set_of_versions_is_named_by_count_and_digest(
    repo: Repository, business: MemoryStore, clock: SimClock
) -> None:
    first = back_up(business, [repo], clock).facts["versions"]
    again = back_up(business, [repo], clock).facts["versions"]
    assert first == again == version_set(business.versions())
    assert (first["count"], first["current"], first["markers"]) == (10, 6, 2)

    business.remove("map")

    assert back_up(business, [repo], clock).facts["versions"]["digest"] != first["digest"]


def test_an_object_that_vanishes_is_a_problem_and_the_others_are_kept(
    repo: Repository, business: MemoryStore, clock: SimClock
) -> None:
    class Vanishing:
        def __init__(self, store: MemoryStore) -> None:
            self._store = store
            self.name = store.name

        def versions(self, prefix: str = "") -> Iterator[Version]:
            found = list(self._store.versions(prefix))
            gone = next(v for v in found if v.key == "folder/inside")
            self._store.remove("folder/inside", version=gone.version)
            return iter(found)

        def __getattr__(self, name: str) -> object:
            return getattr(self._store, name)

    run = run_bucket(Vanishing(business), [repo], clock, None, Silent(), source=SOURCE)  # type: ignore[arg-type]

    assert not run.complete
    assert any("folder/inside" in p for p in run.problems)
    assert read_back(repo) == held(business)


def test_a_store_that_stops_answering_ends_the_run_and_commits_nothing(
    repo: Repository, business: MemoryStore, clock: SimClock
) -> None:
    business.faults = dict.fromkeys(range(business.calls + 4, business.calls + 4000), Fault.BEFORE)

    with pytest.raises(Unreachable):
        run_bucket(business, [repo], clock, None, Silent(), source=SOURCE)

    assert repo.sequences() == []


def test_a_large_object_is_read_in_ranges(repo: Repository, clock: SimClock) -> None:
    store = MemoryStore(clock=clock)
    body = bytes(range(256)) * (80 << 10)  # 20 MiB
    store.create("large", body)

    assert back_up(store, [repo], clock).complete
    assert read_back(repo) == held(store)
    assert sum(method == "read_version" for method, _ in store.log) == 3 + 1  # and our own look


def test_a_store_without_versions_is_refused_in_words(
    repo: Repository, tmp_path: Path, clock: SimClock
) -> None:
    with pytest.raises(Usage, match="keeps no versions"):
        run_bucket(DirectoryStore(tmp_path), [repo], clock, None, Silent(), source=SOURCE)


def test_a_bucket_snapshot_is_verified_as_any_other(
    repo: Repository, business: MemoryStore, clock: SimClock, rng: object
) -> None:
    back_up(business, [repo], clock)

    assert not verify(repo, Level.FULL, rng=rng, progress=Silent()).damage  # type: ignore[arg-type]


def test_what_this_identity_may_not_read_is_named(
    repo: Repository, business: MemoryStore, clock: SimClock
) -> None:
    class Guarded:
        def __init__(self, store: MemoryStore) -> None:
            self._store = store
            self.name = store.name

        def read_version(self, key: str, **how: object) -> bytes:
            if key == "map":
                raise Refused("AccessDenied (403)")
            return self._store.read_version(key, **how)  # type: ignore[arg-type]

        def __getattr__(self, name: str) -> object:
            return getattr(self._store, name)

    run = run_bucket(Guarded(business), [repo], clock, None, Silent(), source=SOURCE)  # type: ignore[arg-type]

    assert not run.complete
    assert sum("'map'" in p and "AccessDenied" in p for p in run.problems) == 2


@pytest.mark.integration
def test_a_real_bucket_comes_back_with_versions_and_headers(
    repo: Repository, tmp_path: Path, clock: SimClock
) -> None:
    with loopback(tmp_path / "store", clock=SystemClock()) as site:
        from infra.objectstore.s3 import connect  # noqa: PLC0415

        admin = connect(site.access, ca_file=site.ca_file, role="admin")
        admin.create_bucket(Bucket="geo-images")
        admin.put_bucket_versioning(
            Bucket="geo-images", VersioningConfiguration={"Status": "Enabled"}
        )
        store = open_store(
            site.access,
            ca_file=site.ca_file,
            bucket="geo-images",
            role="business",
            prefix="sheets/",
        )
        store.create_with("a", b"first", {"content-type": "image/png", "x-amz-meta-sheet": "7"})
        store.remove("a")
        store.create("a", b"second")
        store.create("人口/图像", b"\xff" * 9_000_000)

        assert run_bucket(store, [repo], clock, None, Silent(), source=SOURCE).complete
        again = run_bucket(store, [repo], clock, None, Silent(), source=SOURCE)

        assert again.outcomes[0].snapshot is not None
        assert again.outcomes[0].snapshot.content.facts["unchanged"] == 4
        wanted = {
            (v.key, v.version): store.read_version(v.key, version=v.version or "")
            for v in store.versions()
            if not v.marker
        }
    assert read_back(repo) == wanted
    (first,) = [n for n in nodes(repo) if n.object and n.size_bytes == len(b"first")]
    assert first.object is not None
    assert dict(first.object.meta)["x-amz-meta-sheet"] == "7"
