"""A vault as it was: what an attacker put over it or hid is looked through."""

import random
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.crypto.keyring import Kdf
from backup.format.snapshot import key_of
from backup.integrity.verify import verify
from backup.repository.init import create_repository
from backup.repository.reader import Reader
from backup.repository.repository import open_repository
from backup.restore.files import restore_files
from backup.run import run_files
from backup.writer.pack_health import Level
from infra.objectstore.asof import as_of
from infra.objectstore.contract import NotThere
from infra.objectstore.directory import DirectoryStore
from infra.objectstore.memory import MemoryStore
from zaibei.cli.backup import shared
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage, Refused, Usage
from zaibei.kernel.progress import Silent

FAST = Kdf(memory_kib=64, iterations=1, lanes=1)
PASSPHRASE = "correct horse"
HOUR = timedelta(hours=1)
DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b/c", "b/d"]),
        st.sampled_from(["create", "overwrite", "hide"]),
        st.binary(max_size=3),
    ),
    max_size=12,
)


@given(deeds=DEEDS)
def test_the_view_of_each_moment_is_what_was_seen_at_that_moment(
    deeds: list[tuple[str, str, bytes]],
) -> None:
    clock = SimClock()
    store = MemoryStore(clock=clock)
    seen = [(clock.now(), dict[str, bytes]())]
    for key, what, data in deeds:
        clock.sleep(HOUR)
        now = dict(seen[-1][1])
        if what == "hide":
            store.remove(key)
            now.pop(key, None)
        elif what == "overwrite":
            store.overwrite(key, data)
            now[key] = data
        elif key not in now:
            store.create(key, data)
            now[key] = data
        seen.append((clock.now(), now))

    for at, then in seen:
        view = as_of(store, at)
        assert {s.key: view.read(s.key) for s in view.list()} == then
        assert [s.key for s in view.list("b/")] == sorted(k for k in then if k[:2] == "b/")
        for key in ("a", "b/c", "b/d"):
            if key in then:
                assert view.stat(key).size_bytes == len(then[key])
                assert view.read(key, start=1, length=1) == then[key][1:2]
            else:
                with pytest.raises(NotThere):
                    view.read(key)


def test_after_every_key_was_overwritten_and_hidden_the_vault_of_before_restores(
    tmp_path: Path, clock: SimClock
) -> None:
    store = MemoryStore(clock=clock, name="site-b")
    made = create_repository(store, PASSPHRASE, clock=clock, kdf=FAST)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "f").write_bytes(random.Random(3).randbytes(70_000))
    run_files([tmp_path / "source"], [made], clock, random.Random(1), Silent(), retain=24 * HOUR)
    before = clock.now()
    clock.sleep(HOUR)
    for stat in list(store.list()):
        store.overwrite(stat.key, b"pay us")
        store.remove(stat.key)
    store.create(key_of(2), b"junk at the next snapshot's name")
    with pytest.raises((Damage, Usage)):
        open_repository(store, PASSPHRASE, clock=clock)

    repo = open_repository(as_of(store, before), PASSPHRASE, clock=clock)
    assert not verify(repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage
    with Reader(repo) as reader:
        restore_files(reader, repo.find("latest"), tmp_path / "back", progress=Silent())
    assert (tmp_path / "back/source/f").read_bytes() == (tmp_path / "source/f").read_bytes()


def test_the_past_is_not_written_to(clock: SimClock) -> None:
    view = as_of(MemoryStore(clock=clock), clock.now())
    for write in (
        lambda: view.create("k", b""),
        lambda: view.remove("k"),
        lambda: view.retain("k", until=clock.now()),
    ):
        with pytest.raises(Refused, match="read-only"):
            write()


def test_a_store_without_versions_is_refused_by_name(tmp_path: Path, clock: SimClock) -> None:
    with pytest.raises(Usage, match="keeps no versions"):
        as_of(DirectoryStore(tmp_path), clock.now())


@pytest.mark.parametrize("text", ["yesterday", "2026-11-22T04:00:00", "2026-11-22"])
def test_a_time_without_its_zone_is_asked_back(text: str) -> None:
    with pytest.raises(Usage):
        shared.moment(text)


def test_a_time_is_told_in_any_zone() -> None:
    assert shared.moment("2026-11-22T12:00:00+08:00") == shared.moment("2026-11-22T04:00Z")
