"""Objects back: into a directory whatever their keys are, into another bucket, as they were at a time."""

# Names are bytes here.

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.errors import NotEmpty
from backup.repository.repository import Repository
from backup.restore.bucket import as_files, clashing, file_name, send
from backup.restore.files import Restored, restore
from backup.restore.replicas import Source
from backup.run import run_bucket
from infra.objectstore.memory import Fault, MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Refused, Unreachable, Usage
from zaibei.kernel.progress import Silent

Make = Callable[..., Repository]
SECOND = timedelta(seconds=1)
part = st.sampled_from(["a", "b", "%", "%2E", ".", "..", "", "a%", "人", ".zaibei-restoring"])
key = st.lists(part, min_size=1, max_size=4).map("/".join).filter(bool)


@pytest.fixture
def business(clock: SimClock) -> MemoryStore:
    store = MemoryStore(clock=clock, name="site-a/geo-images")
    for name, data in {
        "map": b"map one",
        "folder/": b"",
        "folder": b"beside its folder",
        "folder/inside": b"inside",
        "../climbs": b"out",
        "/rooted": b"root",
        "100%": b"percent",
        "slash/": b"a folder with bytes",
    }.items():
        store.create_with(name, data, {"content-type": "text/plain"})
    return store


def backed_up(store: MemoryStore, repos: list[Repository], clock: SimClock) -> None:
    clock.sleep(SECOND)
    assert run_bucket(store, repos, clock, None, Silent(), source="s3").complete


def sources(repos: list[Repository]) -> list[Source]:
    one = repos[0].find("latest")
    return [
        Source(repos[0], snapshot=one),
        *(Source(r, like=one.content) for r in repos[1:]),
    ]


def bring_back(repos: list[Repository], target: Path, at: datetime | None = None) -> Restored:
    return restore(sources(repos), target, progress=Silent(), view=as_files(at))


def contents(base: Path) -> dict[str, bytes]:
    return {str(p.relative_to(base)): p.read_bytes() for p in base.rglob("*") if p.is_file()}


def current(store: MemoryStore) -> dict[str, bytes]:
    return {s.key: store.read(s.key) for s in store.list()}


def test_current_objects_come_back_under_names_that_files_can_have(
    repo: Repository, business: MemoryStore, tmp_path: Path, clock: SimClock
) -> None:
    clock.sleep(SECOND)
    business.remove("map")
    business.create("map", b"map two")
    backed_up(business, [repo], clock)

    assert bring_back([repo], tmp_path / "t").sound

    assert contents(tmp_path / "t") == {
        "map": b"map two",
        "folder%": b"beside its folder",
        "folder/inside": b"inside",
        "%2E%2E/climbs": b"out",
        "%/rooted": b"root",
        "100%25": b"percent",
        "slash/%": b"a folder with bytes",
    }
    modified = business.stat("map").modified
    assert (tmp_path / "t" / "map").stat().st_mtime == modified.timestamp()


def test_objects_come_back_as_they_were_at_a_time(
    repo: Repository, tmp_path: Path, clock: SimClock
) -> None:
    store = MemoryStore(clock=clock)
    store.create("stays", b"stays")
    store.create("changes", b"before")
    store.create("removed", b"was here")
    then = clock.now()
    clock.sleep(SECOND)
    store.remove("changes")
    between = clock.now()
    clock.sleep(SECOND)
    store.create("changes", b"after")
    store.remove("removed")
    store.create("new", b"new")
    backed_up(store, [repo], clock)

    bring_back([repo], tmp_path / "then", at=then)
    bring_back([repo], tmp_path / "between", at=between)
    bring_back([repo], tmp_path / "now")

    old = {"stays": b"stays", "removed": b"was here"}
    assert contents(tmp_path / "then") == {**old, "changes": b"before"}
    assert contents(tmp_path / "between") == old
    assert contents(tmp_path / "now") == {"stays": b"stays", "changes": b"after", "new": b"new"}


@given(st.sets(key, max_size=8))
def test_no_two_keys_share_a_name_and_no_name_leads_out(keys: set[str]) -> None:
    from backup.format.tree import why_unsafe  # noqa: PLC0415

    raw = sorted(k.encode() for k in keys)
    folders = clashing(raw)
    assert folders == {k for k in raw if any(o.startswith(k + b"/") for o in raw)}
    names = [file_name(k, folder=k in folders) for k in raw]
    assert len(set(names)) == len(names)
    assert all(why_unsafe(n) is None for n in names)
    assert not any(o.startswith(n + b"/") for n in names for o in names)


def test_a_bucket_fills_another_bucket_with_its_headers(
    repo: Repository, business: MemoryStore, clock: SimClock
) -> None:
    backed_up(business, [repo], clock)
    other = MemoryStore(clock=clock, name="other")

    sent = send(sources([repo]), other, clock=clock, progress=Silent())

    assert sent.sound and sent.objects == 8
    assert current(other) == current(business)
    assert other.headers("map") == {"content-type": "text/plain"}


def test_a_bucket_with_anything_in_it_is_refused_and_nothing_is_overwritten(
    repo: Repository, business: MemoryStore, clock: SimClock
) -> None:
    backed_up(business, [repo], clock)
    other = MemoryStore(clock=clock, name="other")
    other.create("map", b"mine")

    with pytest.raises(NotEmpty):
        send(sources([repo]), other, clock=clock, progress=Silent())
    with pytest.raises(Refused, match="other bytes"):
        send(sources([repo]), other, clock=clock, progress=Silent(), resume=True)

    assert other.read("map") == b"mine"


def test_sending_that_was_interrupted_goes_on(
    repo: Repository, business: MemoryStore, clock: SimClock
) -> None:
    backed_up(business, [repo], clock)
    other = MemoryStore(clock=clock, name="other")
    other.faults = dict.fromkeys(range(6, 400), Fault.BEFORE)
    with pytest.raises(Unreachable):
        send(sources([repo]), other, clock=clock, progress=Silent())
    other.faults = {}

    sent = send(sources([repo]), other, clock=clock, progress=Silent(), resume=True)

    assert current(other) == current(business)
    assert sent.sound and 0 < sent.there < sent.objects == 8


def test_an_object_that_is_damaged_in_one_vault_is_sent_from_the_other(
    make: Make, business: MemoryStore, tmp_path: Path, clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    backed_up(business, [b, c], clock)
    from backup.repository.reader import Reader  # noqa: PLC0415

    with Reader(b) as reader:
        node = next(n for n in reader.nodes(b.find("latest")) if n.path == b"map")
        pack = reader.catalogue.locations(node.blobs[0])[0].pack
    assert isinstance(b.store, MemoryStore)
    b.store.remove(f"packs/{pack[:2]}/{pack}")
    other, alone = MemoryStore(clock=clock, name="other"), MemoryStore(clock=clock, name="alone")

    sent = send(sources([b, c]), other, clock=clock, progress=Silent())
    lost = send(sources([b]), alone, clock=clock, progress=Silent())

    assert current(other) == current(business)
    assert sent.taken and not sent.lost and not sent.sound
    assert lost.lost and current(alone).items() <= current(business).items()
    assert bring_back([b, c], tmp_path / "t").taken
    assert contents(tmp_path / "t")["map"] == b"map one"


def test_a_bucket_is_not_taken_for_a_tree_of_files(
    repo: Repository, business: MemoryStore, tmp_path: Path, clock: SimClock
) -> None:
    backed_up(business, [repo], clock)

    with pytest.raises(Usage, match="not a tree of files"):
        restore(sources([repo]), tmp_path / "t", progress=Silent())
