"""A host that may write and not read: what it wrote restores, and its stolen key opens nothing."""

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from backup.crypto import signed
from backup.crypto.host_key import HostKey, HostRing
from backup.crypto.keyring import Epoch, Kdf, Keyring
from backup.crypto.seal import Kind, open_whole
from backup.errors import Retired, RolledBack, Taken, WriteOnly, WrongKey
from backup.format import snapshot
from backup.format.pack import check_whole
from backup.index.segment import decode_segment
from backup.integrity.verify import verify
from backup.keys import recipients, reseal, rotation
from backup.repository.reader import Reader
from backup.repository.repository import Repository, open_repository
from backup.repository.write_only import HostRepository, open_write_only
from backup.restore.files import restore_files
from backup.run import run_files
from backup.wal.archive import Archive
from backup.writer.pack_health import Level
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage, Refused, Usage, ZaibeiError
from zaibei.kernel.progress import Silent

FAST = Kdf(memory_kib=64, iterations=1, lanes=1)
PASSPHRASE = "correct horse"
each_suite = pytest.mark.parametrize("suite", ["intl", "sm"])
MODES = {"intl": {1}, "sm": {2, 3}}


def contents(base: Path) -> dict[str, bytes]:
    return {str(p.relative_to(base)): p.read_bytes() for p in base.rglob("*") if p.is_file()}


def read_back(repo: Repository, sequence: int, target: Path) -> dict[str, bytes]:
    with Reader(repo) as reader:
        restore_files(reader, repo.snapshot(sequence), target, progress=Silent())
    return contents(target / "source")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = tmp_path / "source"
    base.mkdir()
    for n in range(3):
        (base / f"f{n}").write_bytes(random.Random(n).randbytes(3000 + n))
    return base


def host_of(repo: Repository, tmp_path: Path, name: str = "web-1") -> HostKey:
    """By way of the file: what is not in it the host does not have."""
    file = tmp_path / f"{name}.key"
    recipients.add_host(repo, name=name).save(file)
    return HostKey.load(file)


def back_up(repo: Repository, source: Path) -> int:
    done = run_files([source], [repo], repo.clock, random.Random(1), Silent())
    assert done.complete, done.problems
    (outcome,) = done.outcomes
    assert outcome.snapshot is not None
    return outcome.snapshot.sequence


def sound(repo: Repository) -> list[str]:
    return verify(repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage


@each_suite
def test_what_a_write_only_host_wrote_restores_with_a_full_key(
    make: Callable[..., Repository], clock: SimClock, source: Path, tmp_path: Path, suite: str
) -> None:
    repo = make(suite=suite)
    writing = open_write_only(repo.store, host_of(repo, tmp_path), clock=clock)
    sequence = back_up(writing, source)
    Archive(writing, 1).put(b"log", epoch=1, timeline=1, segment=3)

    opened = open_repository(repo.store, PASSPHRASE, clock=clock)
    assert read_back(opened, sequence, tmp_path / "t") == contents(source)
    assert sound(opened) == []
    assert Archive(opened, 1).open(Archive(opened, 1).items()[0]) == b"log"
    sealed = [
        repo.store.read(s.key)
        for prefix in ("packs/", "index/", "wal/")
        for s in repo.store.list(prefix)
    ]
    assert {data[6] for data in sealed} <= MODES[suite]


@each_suite
def test_a_stolen_host_key_and_the_vault_open_nothing(
    make: Callable[..., Repository], clock: SimClock, source: Path, tmp_path: Path, suite: str
) -> None:
    repo = make(suite=suite)
    back_up(repo, source)
    host = host_of(repo, tmp_path)
    (source / "mine").write_bytes(b"of the host" * 300)
    back_up(open_write_only(repo.store, host, clock=clock), source)

    thief = open_write_only(repo.store, host, clock=clock)
    refused: tuple[type[ZaibeiError], ...] = (WriteOnly, Damage)
    for sequence in (1, 2):
        with pytest.raises(refused):
            thief.snapshot(sequence)
    # Not only by our own refusal: every secret of the file, tried as the secret of every object.
    text = json.loads((tmp_path / "web-1.key").read_text())
    secrets = [bytes.fromhex(text[k]) for k in ("id", "sign", "box", "signer")]
    for stolen in (s[:32] for s in secrets):
        as_root = Keyring.of_root(stolen, suite=repo.keys.suite, repository=repo.keys.repository)
        first = Epoch(
            number=1, root=stolen, data=stolen, box=stolen, signer=as_root.epochs[1].signer
        )
        as_data = Keyring.of_epochs([first], suite=repo.keys.suite, authority=repo.keys.authority)
        for ring in (as_root, as_data):
            for stat in repo.store.list("packs/"):
                with pytest.raises(refused):
                    check_whole(ring, stat.key.rpartition("/")[2], repo.store.read(stat.key))
            for stat in repo.store.list("index/"):
                with pytest.raises(refused):
                    decode_segment(ring, stat.key.partition("/")[2], repo.store.read(stat.key))
            for stat in repo.store.list("snapshots/"):
                body, _ = signed.parse(repo.store.read(stat.key), what="x")
                with pytest.raises(refused):
                    open_whole(ring, Kind.SNAPSHOT, stat.key, base64.b64decode(body["sealed"]))


def test_a_host_sends_nothing_twice_by_its_own_memory(
    repo: Repository, clock: SimClock, source: Path, tmp_path: Path, state: Path
) -> None:
    host = host_of(repo, tmp_path)
    back_up(open_write_only(repo.store, host, clock=clock), source)
    packs = {s.key for s in repo.store.list("packs/")}
    back_up(open_write_only(repo.store, host, clock=clock), source)
    data = {s.key for s in repo.store.list("packs/") if s.key not in packs and s.size_bytes > 3000}
    assert not data, "only the listing is new"

    memory = next((state / "backup" / "hosts").iterdir())
    assert all(f.stat().st_mode & 0o077 == 0 for f in memory.iterdir())
    for file in memory.iterdir():
        raw = bytearray(file.read_bytes())
        raw[80] ^= 1
        file.write_bytes(bytes(raw))
    sequence = back_up(open_write_only(repo.store, host, clock=clock), source)
    opened = open_repository(repo.store, PASSPHRASE, clock=clock)
    assert read_back(opened, sequence, tmp_path / "t") == contents(source)
    assert sound(opened) == []


def test_a_revoked_host_is_refused_and_what_it_writes_later_is_not_believed(
    repo: Repository, clock: SimClock, source: Path, tmp_path: Path
) -> None:
    host = host_of(repo, tmp_path)
    before = open_write_only(repo.store, host, clock=clock)
    back_up(before, source)
    recipients.revoke(repo, host.public.hex()[:16], why="stolen")
    with pytest.raises(Refused, match="revoked"):
        open_write_only(repo.store, host, clock=clock)

    content = repo.snapshot(1).content
    forged = snapshot.encode(before.keys, content, sequence=2, previous=repo.snapshot(1).digest)
    repo.store.create(snapshot.key_of(2), forged)
    opened = open_repository(repo.store, PASSPHRASE, clock=clock)
    assert opened.snapshot(1).content.entries == content.entries
    with pytest.raises(Retired, match="revoked"):
        opened.snapshot(2)


def test_a_host_without_a_certificate_is_refused_and_its_snapshot_is_damage(
    repo: Repository, clock: SimClock, source: Path
) -> None:
    back_up(repo, source)
    stranger = HostKey.new(repo.keys, name="mallory")
    with pytest.raises(Refused, match="no certificate"):
        open_write_only(repo.store, stranger, clock=clock)
    ring = HostRing.of_host(stranger, authority=repo.keys.authority)
    one = repo.snapshot(1)
    forged = snapshot.encode(ring, one.content, sequence=2, previous=one.digest)
    repo.store.create(snapshot.key_of(2), forged)
    with pytest.raises(Damage, match="certificate"):
        repo.snapshot(2)


@each_suite
def test_a_host_goes_on_after_a_rotation_with_the_same_file(
    make: Callable[..., Repository], clock: SimClock, source: Path, tmp_path: Path, suite: str
) -> None:
    repo = make(suite=suite)
    host = host_of(repo, tmp_path)
    back_up(open_write_only(repo.store, host, clock=clock), source)
    new = rotation.begin(repo, why="test").repository
    writing = open_write_only(repo.store, host, clock=clock)
    assert writing.keys.epoch == 2
    (source / "later").write_bytes(b"later" * 500)
    sequence = back_up(writing, source)

    opened = open_repository(repo.store, PASSPHRASE, clock=clock)
    assert reseal.reseal_all(opened, Silent()).done
    assert [s.sequence for s in opened.snapshots()] == [1, sequence]
    assert read_back(opened, sequence, tmp_path / "t") == contents(source)
    assert sound(opened) == []
    assert new.keys.epoch == opened.keys.epoch


def test_a_host_is_not_led_to_another_box(
    repo: Repository, clock: SimClock, source: Path, tmp_path: Path
) -> None:
    """A vault that is somebody else's may show a repository of its own, to be sealed to."""
    host = host_of(repo, tmp_path)
    other = MemoryStore(clock=clock, name="site-x")
    from backup.repository.init import create_repository  # noqa: PLC0415

    create_repository(other, PASSPHRASE, clock=clock, kdf=FAST)
    with pytest.raises(WrongKey):
        open_write_only(other, host, clock=clock)
    rotation.begin(repo, why="test")
    later = open_repository(repo.store, PASSPHRASE, clock=clock)
    newer = recipients.add_host(later, name="web-2")
    repo.store.remove("epochs/0000000002")
    with pytest.raises(RolledBack):
        open_write_only(repo.store, newer, clock=clock)


def test_a_key_file_that_others_can_read_is_refused(repo: Repository, tmp_path: Path) -> None:
    file = tmp_path / "web-1.key"
    host_of(repo, tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Taken):
        HostKey.load(file).save(file)
    file.chmod(0o644)
    with pytest.raises(Usage, match="others"):
        HostKey.load(file)
    file.chmod(0o600)
    file.write_text("{}")
    with pytest.raises(Usage):
        HostKey.load(file)
    with pytest.raises(Usage):
        HostKey.load(tmp_path / "nothing")


def test_a_host_needs_a_writer_only_identity_in_the_vault(
    repo: Repository, clock: SimClock, source: Path, tmp_path: Path
) -> None:
    """Nothing that a run of a host does removes anything."""

    class Writing:
        def __init__(self, inner: MemoryStore) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> object:
            assert name != "remove", "a host removed something"
            return getattr(self._inner, name)

    assert isinstance(repo.store, MemoryStore)
    writing = open_write_only(Writing(repo.store), host_of(repo, tmp_path), clock=clock)  # type: ignore[arg-type]
    assert isinstance(writing, HostRepository)
    assert back_up(writing, source) == 1
