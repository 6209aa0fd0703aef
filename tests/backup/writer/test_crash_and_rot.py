"""Every storage call may be the last one, and every bit may flip. What was committed stays restorable;
wrong bytes never come back."""

import random
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.crypto import signed
from backup.crypto.keyring import Kdf
from backup.errors import NewerFormat, WrongKey
from backup.integrity.verify import verify
from backup.keys import recipients
from backup.lifecycle.forget import forget
from backup.lifecycle.gc_mark import mark
from backup.repository.init import create_repository
from backup.repository.reader import Reader
from backup.repository.repository import Repository, open_repository
from backup.restore.files import restore_files
from backup.run import run_files
from backup.wal.archive import Archive
from backup.writer.pack_health import Level
from infra.objectstore.memory import MemoryStore
from infra.objectstore.mortal import Died, Mortal
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Silent

FAST = Kdf(memory_kib=64, iterations=1, lanes=1)
PASSPHRASE = "correct horse"


def contents(base: Path) -> dict[str, bytes]:
    return {str(p.relative_to(base)): p.read_bytes() for p in base.rglob("*") if p.is_file()}


def read_back(repo: Repository, sequence: int, target: Path) -> dict[str, bytes]:
    shutil.rmtree(target, ignore_errors=True)
    with Reader(repo) as reader:
        restore_files(reader, repo.snapshot(sequence), target, progress=Silent())
    return contents(target / "source")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = tmp_path / "source"
    base.mkdir()
    for n in range(4):
        (base / f"f{n}").write_bytes(random.Random(n).randbytes(3000 + n))
    return base


@pytest.mark.parametrize("after", [False, True])
def test_a_death_at_any_storage_call_loses_no_committed_snapshot(
    source: Path, tmp_path: Path, clock: SimClock, after: bool
) -> None:
    before = contents(source)
    deaths = 0
    for last in range(1, 200):
        (source / "new").unlink(missing_ok=True)
        inner = MemoryStore(clock=clock, name=f"v{last}")
        whole = create_repository(inner, PASSPHRASE, clock=clock, kdf=FAST)
        assert run_files([source], [whole], clock, random.Random(1), Silent()).complete
        (source / "new").write_bytes(b"new" * 1000)

        mortal = Mortal(inner, last, after=after)
        try:
            dying = Repository(mortal, clock, whole.config, whole.keys)  # type: ignore[arg-type]
            run_files([source], [dying], clock, random.Random(2), Silent())
            survived = True
        except Died:
            survived = False
            deaths += 1

        opened = open_repository(inner, PASSPHRASE, clock=clock)
        assert read_back(opened, 1, tmp_path / "t") == before, f"death at call {last}"
        for sequence in opened.sequences()[1:]:  # it may have been committed just before the death
            assert read_back(opened, sequence, tmp_path / "t") == contents(source)
        assert run_files([source], [opened], clock, random.Random(3), Silent()).complete
        newest = opened.sequences()[-1]
        assert read_back(opened, newest, tmp_path / "t") == contents(source)
        if survived:
            break
    else:
        pytest.fail("the run never lived: the bound of this test is too small")
    assert deaths >= 6, "the walk was through every call of a run"


def furnished(store: MemoryStore, source: Path, clock: SimClock, suite: str) -> Repository:
    """One object of every kind that a repository may hold. What adds a kind adds it here."""
    made = create_repository(store, PASSPHRASE, clock=clock, suite_name=suite, kdf=FAST)
    for name in ("wang", "li"):
        recipients.add_passphrase(made, name, name=name, kdf=FAST)
    li = next(m.id for m in recipients.members(made) if m.name == "li")
    recipients.revoke(made, li, why="left")
    for seed in (1, 2, 3):
        (source / "changing").write_bytes(random.Random(seed).randbytes(2000))
        assert run_files([source], [made], clock, random.Random(seed), Silent()).complete
    forget(made, [1], why="by hand")
    clock.sleep(timedelta(days=2))
    assert mark(made, Silent(), rng=random.Random(1)).dead
    Archive(made, 1).put(b"\1" * 5000, epoch=1, timeline=1, segment=3)
    return made


@pytest.mark.parametrize("suite", ["intl", "sm"])
def test_a_flipped_bit_in_any_object_is_damage_and_never_wrong_bytes(
    source: Path, tmp_path: Path, clock: SimClock, suite: str
) -> None:
    store = MemoryStore(clock=clock)
    made = furnished(store, source, clock, suite)
    assert not verify(made, Level.FULL, rng=random.Random(1), progress=Silent()).damage
    truth = contents(source)
    rng = random.Random(99)
    kinds: dict[str, int] = {}

    for stat in list(store.list()):
        whole = store.read(stat.key)
        kind = stat.key.partition("/")[0]
        kinds[kind] = kinds.get(kind, 0) + 1
        # The first and last bytes hold headers and tags; the rest by lot. Of each kind one in depth.
        spots = {0, 5, len(whole) - 1} if kinds[kind] == 1 else set()
        spots |= {rng.randrange(len(whole)) for _ in range(5 if kinds[kind] == 1 else 1)}
        for spot in sorted(s for s in spots if s < len(whole)):
            bad = bytearray(whole)
            bad[spot] ^= 1 << rng.randrange(8)
            store.corrupt(stat.key, bytes(bad))
            try:
                repo = open_repository(store, PASSPHRASE, clock=clock)
                found = verify(repo, Level.FULL, rng=rng, progress=Silent())
                # What is marked is nobody's loss: a line, and no damage.
                told = [f.object for f in found.findings]
                told += [n.split()[0] for n in found.notes if "is marked" in n]
                assert any(stat.key.startswith(t) for t in told), (
                    f"{stat.key}: byte {spot} flipped, told was {found.damage} {found.notes}"
                )
                assert read_back(repo, 3, tmp_path / "t") == truth
            except Damage:
                pass
            store.corrupt(stat.key, whole)
    # `epochs` are of a rotation, `resealed` of what follows it.
    assert kinds.keys() == {
        "config",
        "keys",
        "packs",
        "index",
        "snapshots",
        "wal",
        "forgets",
        "marks",
        "runs",
        "revoked",
    }
    assert not verify(made, Level.FULL, rng=rng, progress=Silent()).damage, "the walk left damage"


@pytest.mark.parametrize("kept", [0, 1, 80, 0.5, -1])
def test_a_truncated_object_is_damage(source: Path, clock: SimClock, kept: float) -> None:
    store = MemoryStore(clock=clock)
    made = create_repository(store, PASSPHRASE, clock=clock, kdf=FAST)
    run_files([source], [made], clock, random.Random(1), Silent())
    for stat in list(store.list()):
        if stat.key.startswith("runs/"):
            continue
        whole = store.read(stat.key)
        end = round(len(whole) * kept) if isinstance(kept, float) else kept
        store.corrupt(stat.key, whole[:end])
        with pytest.raises(Damage):
            repo = open_repository(store, PASSPHRASE, clock=clock)
            if verify(repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage:
                raise Damage("found")
        store.corrupt(stat.key, whole)


def test_an_object_of_another_repository_does_not_open_here(source: Path, clock: SimClock) -> None:
    """Same passphrase, same files: whoever copies objects between two vaults must be seen."""
    stores = [MemoryStore(clock=clock, name=n) for n in ("b", "c")]
    b, c = (create_repository(s, PASSPHRASE, clock=clock, kdf=FAST) for s in stores)
    run_files([source], [b, c], clock, random.Random(1), Silent())
    for prefix in ("packs/", "index/", "snapshots/"):
        ours, theirs = (next(iter(s.list(prefix))).key for s in stores)
        kept = stores[0].read(ours)
        stores[0].corrupt(ours, stores[1].read(theirs))
        assert verify(b, Level.FULL, rng=random.Random(1), progress=Silent()).damage, prefix
        stores[0].corrupt(ours, kept)


def test_wal_moved_to_another_place_does_not_open(clock: SimClock) -> None:
    store = MemoryStore(clock=clock)
    archive = Archive(create_repository(store, PASSPHRASE, clock=clock, kdf=FAST), 1)
    three = archive.put(b"three", epoch=1, timeline=1, segment=3)
    four = archive.put(b"four!", epoch=1, timeline=1, segment=4)
    store.corrupt(four.key, store.read(three.key))

    with pytest.raises(Damage):
        archive.open(four)


def test_the_wrong_passphrase_is_told_apart_from_damage(clock: SimClock) -> None:
    store = MemoryStore(clock=clock)
    create_repository(store, PASSPHRASE, clock=clock, kdf=FAST)

    with pytest.raises(WrongKey):
        open_repository(store, "incorrect horse", clock=clock)


def test_a_newer_format_is_named_and_not_called_damage(repo: Repository, clock: SimClock) -> None:
    assert isinstance(repo.store, MemoryStore)
    body, _ = signed.parse(repo.store.read("config"), what="config")
    newer = signed.sign("config", {**body, "format": 2}, repo.keys.signer)
    repo.store.corrupt("config", newer)

    with pytest.raises(NewerFormat):
        open_repository(repo.store, PASSPHRASE, clock=clock)


@given(raw=st.binary(max_size=400))
def test_any_bytes_in_place_of_a_signed_document_are_damage(raw: bytes) -> None:
    with pytest.raises(Damage):
        signed.parse(raw, what="x")


def test_no_plaintext_reaches_a_vault(source: Path, clock: SimClock) -> None:
    store = MemoryStore(clock=clock)
    made = create_repository(store, PASSPHRASE, clock=clock, kdf=FAST)
    (source / "sample-registration").write_text("人口 " * 10)
    run_files([source], [made], clock, random.Random(1), Silent())
    everything = b"".join(store.read(s.key) for s in store.list())

    for secret in ("人口", "sample-registration", "source", PASSPHRASE):
        assert secret.encode() not in everything
