"""Small repositories in memory, with a key derivation that does not make tests wait."""

# Names are bytes here.
# ruff: noqa: PTH123

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup.crypto.keyring import Kdf
from backup.repository.init import create_repository
from backup.repository.repository import Repository
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.state import ENV

FAST = Kdf(memory_kib=64, iterations=1, lanes=1)
PASSPHRASE = "correct horse"


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("state")
    monkeypatch.setenv(ENV, str(path))
    return path


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture
def make(clock: SimClock) -> Callable[..., Repository]:
    def one(name: str = "site-b", suite: str = "intl") -> Repository:
        store = MemoryStore(clock=clock, name=name)
        return create_repository(store, PASSPHRASE, clock=clock, suite_name=suite, kdf=FAST)

    return one


@pytest.fixture
def repo(make: Callable[..., Repository]) -> Repository:
    return make()


@pytest.fixture
def rng() -> random.Random:
    return random.Random(7)


@pytest.fixture
def some_files(tmp_path: Path) -> Iterator[Path]:
    """Every kind of entry, a name that is not text, and a file of several blocks."""
    base = tmp_path / "source"
    (base / "deep" / "er").mkdir(parents=True)
    (base / "empty").write_bytes(b"")
    (base / "text").write_text("人口基础信息库\n" * 100)
    (base / "deep" / "big").write_bytes(random.Random(1).randbytes((2 << 20) + 77))
    (base / "deep" / "er" / "same").write_text("人口基础信息库\n" * 100)
    (base / "link").symlink_to("deep/big")
    (base / "dangling").symlink_to("/nowhere/at/all")
    with open(bytes(base) + b"/\xff\xfe not text", "wb") as odd:
        odd.write(b"odd")
    (base / "text").chmod(0o640)
    (base / "deep").chmod(0o750)
    yield base
