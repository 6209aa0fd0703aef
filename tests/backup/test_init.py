"""A vault is believed after it was tried: what a store says and does not keep is found before the first backup."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backup.errors import NotARepository
from backup.keys import Kdf
from backup.repository import create_repository, open_repository
from infra.objectstore.contract import NotThere
from infra.objectstore.memory import MemoryStore
from zaibei.cli.backup import app
from zaibei.kernel.clock import SimClock, SystemClock
from zaibei.kernel.errors import Refused
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
    assert said.stdout == (Path(__file__).parents[2] / "backup" / "breakglass.py").read_text()
