"""The anomaly guard on a bucket: what attackers and applications do to objects. Versions below stay, so an attack
loses nothing by itself; it must be told all the same."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from backup.format.facts import FACT
from backup.guard.judge import visible
from backup.guard.rules import HISTORY_MIN
from backup.repository.repository import Repository
from backup.run import run_bucket
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.progress import Silent

WORDS = [random.Random(n).randbytes(n % 5 + 2).hex() for n in range(400)]
DOCUMENTS, PHOTOS, SIZE = 90, 30, 6000


@dataclass
class Bucket:
    """Documents and photographs, with ordinary nights behind them. `night` is the next backup."""

    repo: Repository
    clock: SimClock
    store: MemoryStore
    rng: random.Random = field(default_factory=lambda: random.Random(5))

    def text(self) -> bytes:
        return " ".join(self.rng.choices(WORDS, k=SIZE // 8)).encode()

    def put(self, key: str, data: bytes) -> None:
        if any(v.key == key for v in self.store.versions(key)):
            self.store.remove(key)  # the contract creates once; the version below stays
        self.store.create(key, data)

    def documents(self) -> list[str]:
        return [f"archive/{n}.txt" for n in range(DOCUMENTS)]

    def night(self) -> dict[str, Any]:
        self.clock.sleep(timedelta(days=1))
        done = run_bucket(
            self.store, [self.repo], self.clock, random.Random(7), Silent(), source="site-a/archive"
        )
        made = done.outcomes[0].snapshot
        assert made is not None and made.content.complete
        told: dict[str, Any] = made.content.facts[FACT]
        return told


@pytest.fixture
def bucket(repo: Repository, clock: SimClock) -> Bucket:
    one = Bucket(repo, clock, MemoryStore(clock=clock, name="site-a/archive"))
    for key in one.documents():
        one.put(key, one.text())
    for n in range(PHOTOS):
        one.put(f"photo/{n}.jpg", b"\xff\xd8\xff\xe0" + one.rng.randbytes(SIZE))
    for night in range(HISTORY_MIN + 2):
        # Twenty documents are edited every night: before long most versions are old ones.
        for key in one.rng.sample(one.documents(), 20):
            one.put(key, one.text())
        one.put(f"archive/new-{night}.txt", one.text())
        told = one.night()
    assert told["verdict"] == "clean", told
    return one


def overwritten(one: Bucket) -> None:
    for key in one.documents()[:15]:
        one.put(key, one.rng.randbytes(SIZE))


def hidden(one: Bucket) -> None:
    for key in one.documents()[:60]:
        one.store.remove(key)


def destroyed(one: Bucket) -> None:
    """By somebody who may remove versions."""
    for v in list(one.store.versions("archive/")):
        one.store.remove(v.key, version=v.version)


def moved_to_another_extension(one: Bucket) -> None:
    for key in one.documents()[:40]:
        one.store.create(f"{key}.locked", one.rng.randbytes(SIZE))
        one.store.remove(key)


@pytest.mark.parametrize(
    ("attack", "why"),
    [
        (overwritten, "turned into noise"),
        (hidden, "are gone"),
        (destroyed, "are gone"),
        (moved_to_another_extension, "another extension"),
    ],
)
def test_an_attack_on_objects_is_told(
    bucket: Bucket, attack: Callable[[Bucket], None], why: str
) -> None:
    attack(bucket)
    told = bucket.night()
    assert told["verdict"] == "anomalous", told
    assert any(why in reason for reason in told["reasons"]), told


def edited(one: Bucket) -> None:
    for key in one.documents():
        one.put(key, one.text())


def more_photographs(one: Bucket) -> None:
    for n in range(100):
        one.put(f"photo/more-{n}.jpg", b"\xff\xd8\xff\xe0" + one.rng.randbytes(SIZE))


def old_versions_expired(one: Bucket) -> None:
    """A life-cycle rule of the store."""
    for v in list(one.store.versions("")):
        if not v.latest:
            one.store.remove(v.key, version=v.version)


def nothing(one: Bucket) -> None: ...


@pytest.mark.parametrize("work", [edited, more_photographs, old_versions_expired, nothing])
def test_ordinary_work_on_objects_does_not_alarm(
    bucket: Bucket, work: Callable[[Bucket], None]
) -> None:
    work(bucket)
    told = bucket.night()
    assert told["verdict"] == "clean", told


def test_a_share_is_one_of_the_current_objects_and_not_of_all_versions(bucket: Bucket) -> None:
    told = bucket.night()
    current = DOCUMENTS + PHOTOS + HISTORY_MIN + 2
    assert told["features"]["entries"] == told["features"]["entries_before"] == current
    last = bucket.repo.find("latest").content
    assert last.entries > 2 * current, "most are old versions and markers"
    assert told["features"]["size_bytes"] == last.facts["current_bytes"] < last.size_bytes


def test_a_backup_of_before_current_bytes_were_counted_says_all_of_them(bucket: Bucket) -> None:
    newest = bucket.repo.find("latest").content
    facts = {k: v for k, v in newest.facts.items() if k != "current_bytes"}
    current = DOCUMENTS + PHOTOS + HISTORY_MIN + 2
    assert visible(replace(newest, facts=facts)) == (current, newest.size_bytes)
