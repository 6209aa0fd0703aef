"""A vault is believed after it was tried: what a store says and does not keep is found before the first backup."""

import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backup.crypto.keyring import Kdf
from backup.errors import NotARepository, Taken
from backup.keys import recipients
from backup.locations.stack import ensure
from backup.repository.init import create_repository
from backup.repository.repository import open_repository
from backup.run import run_files
from infra.objectstore.contract import NotThere
from infra.objectstore.memory import MemoryStore
from zaibei.cli.backup import app
from zaibei.kernel.clock import SimClock, SystemClock
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.progress import Silent
from zaibei.kernel.wait import wait_until

FAST = Kdf(memory_kib=64, iterations=1, lanes=1)


class Overwrites(MemoryStore):
    """A server that ignores If-None-Match, as several do."""

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> str | None:
        try:
            self.corrupt(key, data)
        except NotThere:
            return super().create(key, data, retain_until=retain_until)
        return None


def test_a_store_that_overwrites_is_refused_and_holds_no_repository(clock: SimClock) -> None:
    store = Overwrites(clock=clock)
    with pytest.raises(Refused, match="overwrites what must be created once") as said:
        create_repository(store, "p", clock=clock, kdf=FAST)
    assert "zaibei store probe" in str(said.value)
    with pytest.raises(NotARepository):
        open_repository(store, "p", clock=clock)


def test_an_honest_store_is_not_changed_by_the_question(clock: SimClock) -> None:
    store = MemoryStore(clock=clock)
    create_repository(store, "p", clock=clock, kdf=FAST)
    assert sorted(s.key.partition("/")[0] for s in store.list()) == ["config", "keys"]
    open_repository(store, "p", clock=clock)


@pytest.mark.parametrize("left", ["keys/", "snapshots/", "packs/", "index/", "revoked/", ""])
def test_a_repository_that_lost_its_config_is_damage_and_nothing_is_made_over_it(
    clock: SimClock, some_files: Path, left: str
) -> None:
    """`left`: all that is there of it; everything for the empty one."""
    store = MemoryStore(clock=clock)
    repo = create_repository(store, "p", clock=clock, kdf=FAST)
    recipients.add_passphrase(repo, "another", name="wang", kdf=FAST)
    recipients.revoke(repo, recipients.members(repo)[1].id, why="gone")
    assert run_files([some_files], [repo], clock, random.Random(1), Silent()).complete
    config = store.read("config")
    for stat in [*store.list()]:
        if stat.key == "config" or not stat.key.startswith(left):
            store.remove(stat.key)
    there = {s.key for s in store.list()}

    for act in (open_repository, create_repository, ensure):
        with pytest.raises(Damage, match="its config is not there") as said:
            act(store, "p", clock=clock)
        assert "--as-of" in str(said.value) and "backup init" not in str(said.value)
    assert {s.key for s in store.list()} == there
    store.create("config", config)
    if not left:
        assert open_repository(store, "p", clock=clock).present() == [1], "put back, it opens again"


def test_what_inits_that_died_and_others_left_is_no_repository(clock: SimClock) -> None:
    store = MemoryStore(clock=clock)
    for key in ("README", "snapshots/.DS_Store", "packs/lost+found", "keys/" + "ab" * 32):
        store.create(key, b"not ours")
    for _ in range(2):
        other = MemoryStore(clock=clock)
        create_repository(other, "p", clock=clock, kdf=FAST)
        (key,) = [s.key for s in other.list("keys/")]
        store.create(key, other.read(key))
    with pytest.raises(NotARepository, match="no repository here"):
        open_repository(store, "p", clock=clock)
    create_repository(store, "p", clock=clock, kdf=FAST)
    open_repository(store, "p", clock=clock)


def test_a_second_init_is_a_wrong_request_and_says_so(clock: SimClock) -> None:
    store = MemoryStore(clock=clock)
    create_repository(store, "p", clock=clock, kdf=FAST)
    with pytest.raises(Taken, match="there is a repository already"):
        create_repository(store, "p", clock=clock, kdf=FAST)
    assert ensure(store, "p", clock=clock).present() == []


@pytest.fixture
def moto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store that says yes to everything."""
    log = tmp_path / "log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            [Path(sys.executable).parent / "moto_server", "-H", "127.0.0.1", "-p", "0"],
            stdout=out,
            stderr=out,
        )
    try:
        where: list[str] = []

        def why_not() -> str | None:
            for word in log.read_text().split():
                if word.startswith("http://127.0.0.1:"):
                    where.append(word)
                    return None
            return "it has not said its port"

        wait_until(why_not, what="the server", deadline=timedelta(seconds=30), clock=SystemClock())
        (tmp_path / "secret").write_text("secret")
        monkeypatch.setenv("ZAIBEI_S3_KEY", "key")
        monkeypatch.setenv("ZAIBEI_S3_SECRET_FILE", str(tmp_path / "secret"))
        yield "s3+" + where[0]
    finally:
        child.terminate()
        child.wait(10)


@pytest.mark.integration
def test_an_endpoint_that_fails_the_probe_is_refused_with_the_reasons(
    moto: str, tmp_path: Path
) -> None:
    (tmp_path / "p").write_text("p\n")
    words = ["init", "--probe", "--repo", f"{moto}/bucket", "--password-file", str(tmp_path / "p")]
    said = CliRunner().invoke(app, words)
    assert (said.exit_code, "is not admitted as vault" in said.output) == (1, True)


def test_the_reader_for_the_worst_day_is_printed_whole() -> None:
    said = CliRunner().invoke(app, ["breakglass"])
    assert said.exit_code == 0
    assert said.stdout == (Path(__file__).parents[3] / "backup" / "breakglass.py").read_text()
