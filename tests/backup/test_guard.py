"""The anomaly guard on what ransomware does, really done to files; and on what administrators do at night."""

import random
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from backup.guard.said import FACT
from backup.job import run_files
from backup.repository import Repository
from zaibei.kernel.clock import SimClock
from zaibei.kernel.progress import Silent

WORDS = [
    "灾备",
    "population",
    "health",
    "code",
    "核酸",
    "vault",
    "timeline",
    "segment",
    "0123456789",
    "site",
    "restore",
]
KEY = bytes(range(32))


def text(rng: random.Random, size: int) -> bytes:
    return " ".join(rng.choices(WORDS, k=size // 8 + 1)).encode()[:size]


def encrypted(data: bytes, seed: int = 0) -> bytes:
    nonce = seed.to_bytes(16)
    cipher = Cipher(algorithms.AES(KEY), modes.CTR(nonce)).encryptor()
    return cipher.update(data) + cipher.finalize()


class Tree:
    """A tree of an office: texts, tables, photographs, archives. A `night` is one backup."""

    def __init__(self, root: Path, repo: Repository, clock: SimClock) -> None:
        self.root, self.repo, self.clock = root, repo, clock
        self.rng = random.Random(5)
        self.serial = 0

    def write(self, name: str, data: bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def texts(self, count: int, folder: str = "docs") -> None:
        for n in range(count):
            self.write(f"{folder}/{n % 12}/{n}.txt", text(self.rng, self.rng.randint(5000, 20000)))

    def photos(self, count: int, folder: str = "photos") -> None:
        for n in range(count):
            body = self.rng.randbytes(self.rng.randint(6000, 15000))
            self.write(f"{folder}/{n % 7}/{n}.jpg", b"\xff\xd8\xff\xe0" + body)

    def files(self, pattern: str = "**/*") -> list[Path]:
        return sorted(p for p in self.root.glob(pattern) if p.is_file())

    def night(self, accept: str = "") -> dict[str, Any]:
        done = run_files(
            [self.root], [self.repo], self.clock, random.Random(7), Silent(), accept=accept
        )
        assert done.complete
        made = done.outcomes[0].snapshot
        assert made is not None
        return made.content.facts[FACT]

    def usual_nights(self, count: int = 7) -> dict[str, Any]:
        """Some texts are edited, some come, one goes."""
        told: dict[str, Any] = {}
        for _ in range(count):
            told = self.night()
            self.edit_some()
        return told

    def edit_some(self) -> None:
        for path in self.rng.sample(self.files("**/*.txt"), 5):
            data = path.read_bytes()
            path.write_bytes(data + text(self.rng, 300))
        self.serial += 1
        self.write(f"docs/new/{self.serial}.txt", text(self.rng, 8000))


@pytest.fixture
def tree(tmp_path: Path, repo: Repository, clock: SimClock) -> Tree:
    made = Tree(tmp_path / "office", repo, clock)
    made.texts(150)
    made.photos(60)
    return made


def test_a_new_source_is_unknown_until_something_is_usual(tree: Tree) -> None:
    told = [tree.night()]
    for _ in range(7):
        tree.edit_some()
        told.append(tree.night())
    assert [t["verdict"] for t in told] == ["unknown"] * 6 + ["clean"] * 2
    assert told[0]["baseline"] is None
    assert told[0]["features"]["dense_ratio"] == 0.0, "photographs with their heads are vouched for"


def test_files_encrypted_in_place_are_told(tree: Tree) -> None:
    tree.usual_nights()
    for n, path in enumerate(tree.files()[::10]):
        path.write_bytes(encrypted(path.read_bytes(), n))
    told = tree.night()
    assert told["verdict"] == "anomalous", told
    assert any("turned into noise" in r for r in told["reasons"])
