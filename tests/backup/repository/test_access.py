"""Whom a revocation lets out, and that neither junk nor damage under `revoked/` lets anybody out, in, or stops anybody."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from backup.crypto import signed
from backup.crypto.host_key import HostKey, HostRing
from backup.crypto.keyring import Kdf
from backup.errors import Retired, WriteOnly
from backup.format import revocation, snapshot
from backup.format.revocation import Revocation
from backup.integrity.repair import repair
from backup.integrity.report import Report
from backup.integrity.verify import verify
from backup.keys import recipients, reseal, rotation
from backup.keys.recipients import KeyHolder
from backup.lifecycle.forget import forget
from backup.lifecycle.gc_mark import mark
from backup.repository import marks
from backup.repository.access import read_access
from backup.repository.repository import Repository, open_repository
from backup.repository.write_only import open_write_only
from backup.run import run_files
from backup.writer.pack_health import Level
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Refused, Usage
from zaibei.kernel.progress import Silent

FAST = Kdf(memory_kib=64, iterations=1, lanes=1)
PASSPHRASE = "correct horse"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = tmp_path / "source"
    base.mkdir()
    (base / "f").write_bytes(random.Random(1).randbytes(3000))
    return base


def back_up(repo: Repository, source: Path) -> int:
    done = run_files([source], [repo], repo.clock, random.Random(1), Silent())
    assert done.complete, done.problems
    (outcome,) = done.outcomes
    assert outcome.snapshot is not None
    return outcome.snapshot.sequence


def checked(repo: Repository) -> Report:
    return verify(repo, Level.FULL, rng=random.Random(1), progress=Silent())


def statements(repo: Repository) -> list[str]:
    return [s.key for s in repo.store.list(revocation.PREFIX)]


def who(repo: Repository, name: str) -> KeyHolder:
    (found,) = [m for m in recipients.members(repo) if m.name == name]
    return found


def spoil(repo: Repository, key: str) -> None:
    assert isinstance(repo.store, MemoryStore)
    raw = bytearray(repo.store.read(key))
    raw[40] ^= 1
    repo.store.corrupt(key, bytes(raw))


def host_of(repo: Repository, tmp_path: Path, name: str = "web-1") -> HostKey:
    return recipients.add_host(repo, name=name, file=tmp_path / f"{name}.key")


def test_one_damaged_object_of_a_revocation_lets_nobody_in_again(
    repo: Repository, source: Path, tmp_path: Path, clock: SimClock
) -> None:
    back_up(repo, source)
    host = host_of(repo, tmp_path)
    recipients.revoke(repo, host.public.hex()[:16], why="stolen")
    first, _ = statements(repo)
    spoil(repo, first)

    opened = open_repository(repo.store, PASSPHRASE, clock=clock)
    assert who(opened, "web-1").revoked is not None
    with pytest.raises(Refused, match="revoked"):
        open_write_only(repo.store, host, clock=clock)
    (found,) = checked(opened).findings
    assert found.object == first and "repair" in found.mend
    assert repair(opened, Silent(), deleter=opened.store).complete
    assert checked(opened).damage == []
    assert who(opened, "web-1").revoked is not None


def test_a_revocation_that_cannot_be_read_at_all_stops_nobody_and_is_told(
    repo: Repository, source: Path, clock: SimClock
) -> None:
    """Before a rotation nobody knows whom it let out, but for what it says of itself."""
    back_up(repo, source)
    recipients.add_passphrase(repo, "another", name="wang", kdf=FAST)
    gone = who(repo, "wang")
    recipients.revoke(repo, gone.id, why="gone")
    for key in statements(repo):
        spoil(repo, key)

    opened = open_repository(repo.store, "another", clock=clock)
    back_up(opened, source)
    assert {f.object for f in checked(opened).findings} == set(statements(repo))
    _, others = recipients.everything(opened)
    assert {o.object for o in others} == set(statements(repo))
    for one in others:
        assert one.mend is not None and "key revoke" in one.mend
        assert f"it says that {gone.id} was let out" in one.why

    assert not repair(opened, Silent()).complete, "nobody who may delete was there"
    begun = rotation.begin(opened, why="test")
    assert len(begun.unread) == 2, "who rotates is told, before the thief has the new root for long"
    done = repair(begun.repository, Silent(), deleter=opened.store)
    assert done.complete and statements(repo) == []
    assert all("key revoke" in line for line in done.copies_told(done=True))


def junk(repo: Repository) -> str:
    key = revocation.PREFIX + "0" * 63 + "1"
    repo.store.create(key, b"junk\n")
    return key


def of_a_host(repo: Repository) -> str:
    """What an older zaibei wrote for somebody with a host's key."""
    (wang,) = [m for m in recipients.members(repo) if m.name == "wang"]
    said = Revocation(id=wang.id, until=0, why="x", at="now")
    ((_, data), _) = revocation.state(repo.keys, said)
    body, _ = signed.parse(data, what="x")
    host = HostKey.new(repo.keys, name="mallory")
    data = signed.sign(
        "revocation", body, HostRing.of_host(host, authority=repo.keys.authority).signer
    )
    key = f"{revocation.PREFIX}{repo.keys.suite.digest(data)}"
    repo.store.create(key, data)
    return key


@pytest.mark.parametrize("left", [junk, of_a_host])
def test_what_anybody_may_leave_there_lets_nobody_out_and_stops_nobody(
    repo: Repository, source: Path, clock: SimClock, left: Callable[[Repository], str]
) -> None:
    recipients.add_passphrase(repo, "another", name="wang", kdf=FAST)
    back_up(repo, source)
    key = left(repo)

    for secret in (PASSPHRASE, "another"):
        opened = open_repository(repo.store, secret, clock=clock)
        assert [m.revoked for m in recipients.members(opened)] == [None, None]
    back_up(opened, source)
    (found,) = checked(opened).findings
    assert found.object == key
    mark(opened, Silent())
    begun = rotation.begin(opened, why="test")
    assert begun.carried == 2
    assert reseal.reseal_all(begun.repository, Silent(), rng=random.Random(3)).done
    again = open_repository(repo.store, "another", clock=clock)
    assert repair(again, Silent(), deleter=again.store).complete
    assert checked(again).damage == []


@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_whom_a_rotation_left_behind_stays_out_without_the_statement(
    repo: Repository, source: Path, tmp_path: Path, clock: SimClock, how: str
) -> None:
    """A certificate of the epoch before is there for ever; the statement is all that says no to it."""
    back_up(repo, source)
    thief, honest = host_of(repo, tmp_path), host_of(repo, tmp_path, "web-2")
    writing = open_write_only(repo.store, thief, clock=clock)
    back_up(writing, source)
    recipients.revoke(repo, thief.public.hex()[:16], why="stolen")
    opened = rotation.begin(repo, why="stolen").repository
    for key in statements(repo):
        spoil(repo, key) if how == "damaged" else repo.store.remove(key)

    with pytest.raises(Refused, match="revoked"):
        open_write_only(repo.store, thief, clock=clock)
    forged = snapshot.encode(
        writing.keys,
        opened.snapshot(1).content,
        sequence=3,
        previous=opened.snapshot(2).digest,
    )
    repo.store.create(snapshot.key_of(3), forged)
    opened = open_repository(repo.store, PASSPHRASE, clock=clock)
    assert opened.snapshot(2).sequence == 2, "what it wrote while it was let in is believed"
    with pytest.raises(Retired):
        opened.snapshot(3)
    repo.store.remove(snapshot.key_of(3))
    back_up(open_write_only(repo.store, honest, clock=clock), source)

    assert repair(opened, Silent(), deleter=opened.store).complete
    report = checked(opened)
    assert report.damage == []
    assert any("stays out" in note for note in report.notes)


def test_repair_leaves_the_statement_below_what_was_written_over_it(
    repo: Repository, clock: SimClock
) -> None:
    recipients.add_passphrase(repo, "another", name="wang", kdf=FAST)
    recipients.revoke(repo, who(repo, "wang").id, why="gone")
    assert isinstance(repo.store, MemoryStore)
    before = {key: repo.store.read(key) for key in statements(repo)}
    for key in before:
        repo.store.overwrite(key, b"over it")
    assert who(repo, "wang").revoked is None

    assert repair(repo, Silent(), deleter=repo.store).complete
    assert {key: repo.store.read(key) for key in statements(repo)} == before
    assert who(repo, "wang").revoked is not None


def test_what_a_retired_root_lets_out_is_not_out(repo: Repository, clock: SimClock) -> None:
    recipients.add_passphrase(repo, "another", name="wang", kdf=FAST)
    rotation.begin(repo, why="stolen")
    said = Revocation(id=who(repo, "wang").id, until=0, why="of a thief", at="now")
    for key, data in revocation.state(repo.keys, said):
        repo.store.create(key, data)

    opened = open_repository(repo.store, "another", clock=clock)
    assert who(opened, "wang").revoked is None
    report = checked(opened)
    assert report.damage == []
    assert any("after they were retired" in note for note in report.notes)


@pytest.mark.parametrize(
    "act",
    [
        lambda repo, id_, _: recipients.revoke(repo, id_, why="x"),
        lambda repo, *_: recipients.add_passphrase(repo, "mine", name="me", kdf=FAST),
        lambda repo, *_: recipients.add_key(repo, curve="x25519", public=b"\x09" * 32, name="me"),
        lambda repo, *_: recipients.add_escrow(repo, threshold=2, shares=3, name="me"),
        lambda repo, _, base: recipients.add_host(repo, name="me", file=base / "me.key"),
        lambda repo, *_: rotation.begin(repo, why="x"),
        lambda repo, *_: repair(repo, Silent()),
        lambda repo, *_: forget(repo, [1], why="x", even_the_last=True),
        lambda repo, *_: marks.write(repo, packs=["ab" * 32], segments=(), observed=(), why="x"),
    ],
)
def test_a_host_says_nothing_that_only_the_root_may_say(
    repo: Repository, source: Path, tmp_path: Path, clock: SimClock, act: Callable[..., object]
) -> None:
    """Under its signature it would be junk, and damage for everybody else."""
    back_up(repo, source)
    recipients.add_passphrase(repo, "another", name="wang", kdf=FAST)
    writing = open_write_only(repo.store, host_of(repo, tmp_path), clock=clock)
    before = {s.key for s in repo.store.list()}
    with pytest.raises(WriteOnly, match="may write and not read") as said:
        act(writing, who(repo, "wang").id, tmp_path)
    assert "recipient's key" in str(said.value)
    assert {s.key for s in repo.store.list()} == before
    assert not (tmp_path / "me.key").exists()


def test_a_bound_ahead_of_the_newest_snapshot_is_refused(
    repo: Repository, source: Path, tmp_path: Path
) -> None:
    back_up(repo, source)
    id_ = host_of(repo, tmp_path).public.hex()[:16]
    with pytest.raises(Usage, match="the newest snapshot is 1"):
        recipients.revoke(repo, id_, why="stolen", until=2)
    with pytest.raises(Usage, match="no snapshot"):
        recipients.revoke(repo, id_, why="stolen", until=-1)
    recipients.add_passphrase(repo, "another", name="wang", kdf=FAST)
    with pytest.raises(Usage, match="of a host"):
        recipients.revoke(repo, who(repo, "wang").id, why="gone", until=1)
    assert statements(repo) == []


def test_a_stricter_revocation_counts_and_one_that_changes_nothing_says_so(
    repo: Repository, source: Path, tmp_path: Path
) -> None:
    id_ = host_of(repo, tmp_path).public.hex()[:16]
    for _ in range(3):
        back_up(repo, source)
    # As an older zaibei took it.
    for key, data in revocation.state(repo.keys, Revocation(id=id_, until=99, why="x", at="now")):
        repo.store.create(key, data)

    for until, bound, changes in ((None, 3, True), (None, 3, False), (1, 1, True), (1, 1, False)):
        done = recipients.revoke(repo, id_, why="stolen", until=until)
        assert (done.until, done.changes) == (bound, changes)
        said = read_access(repo.store, repo.config, clock=repo.clock).revoked[id_]
        assert said.until == bound
    with pytest.raises(Usage, match="not taken back"):
        recipients.revoke(repo, id_, why="a mistake", until=2)
