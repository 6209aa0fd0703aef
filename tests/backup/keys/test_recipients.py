"""Who opens a repository, who does not, and what they are told."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup.crypto import escrow, signed
from backup.crypto.identity import Identity
from backup.crypto.kem import CURVES
from backup.crypto.keyring import Kdf, Keyring
from backup.crypto.suite import NAMES, suite
from backup.errors import NewerFormat, WrongKey
from backup.format import recipient
from backup.keys import recipients as membership
from backup.repository.repository import Repository, open_repository
from backup.run import run_files
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage, Refused, Usage
from zaibei.kernel.progress import Silent

FAST = Kdf(memory_kib=64, iterations=1, lanes=1)
PASSPHRASE = "correct horse"
each_suite = pytest.mark.parametrize("name", sorted(NAMES))
each_curve = pytest.mark.parametrize("curve", sorted(CURVES))


@each_suite
@each_curve
def test_a_private_key_opens_what_its_public_half_was_let_into(
    make: Callable[..., Repository], clock: SimClock, name: str, curve: str
) -> None:
    repo = make(suite=name)
    mine, other = Identity.new(curve), Identity.new(curve)
    membership.add_key(repo, curve=curve, public=mine.public, name="li")

    assert open_repository(repo.store, mine, clock=clock).keys.root == repo.keys.root
    with pytest.raises(WrongKey):
        open_repository(repo.store, other, clock=clock)
    assert open_repository(repo.store, PASSPHRASE, clock=clock).keys.root == repo.keys.root


@each_suite
def test_a_second_passphrase_opens_too(
    make: Callable[..., Repository], clock: SimClock, name: str
) -> None:
    repo = make(suite=name)
    membership.add_passphrase(repo, "another", name="wang", kdf=FAST)

    assert open_repository(repo.store, "another", clock=clock).keys.root == repo.keys.root
    assert {(m.kind, m.name, m.carried) for m in membership.members(repo)} == {
        ("passphrase", "", True),
        ("passphrase", "wang", True),
    }


@given(k=st.integers(2, 5), more=st.integers(0, 3), lot=st.integers(0))
@settings(max_examples=15, deadline=None)
def test_any_k_shares_lead_back_and_fewer_do_not(k: int, more: int, lot: int) -> None:
    private = random.Random(lot).randbytes(32)
    words = escrow.split(private, threshold=k, shares=k + more)
    some = random.Random(lot).sample(words, k)
    assert escrow.join(some) == private
    with pytest.raises(Usage):
        escrow.join(some[1:])


@each_suite
def test_escrow_words_open_the_repository(
    make: Callable[..., Repository], clock: SimClock, name: str
) -> None:
    repo = make(suite=name)
    words = membership.add_escrow(repo, threshold=2, shares=3, name="safe")
    (held,) = [m for m in membership.members(repo) if m.kind == "escrow"]
    assert held.curve is not None

    mine = Identity(curve=held.curve, private=escrow.join([words[2], words[0]]))
    assert open_repository(repo.store, mine, clock=clock).keys.root == repo.keys.root
    assert isinstance(repo.store, MemoryStore)
    everything = b"".join(repo.store.read(s.key) for s in repo.store.list())
    assert not any(w.encode() in everything for w in words)
    assert mine.private not in everything


def test_shares_of_two_keys_and_misspelt_ones_are_named() -> None:
    one = escrow.split(bytes(32), threshold=2, shares=3)
    two = escrow.split(b"\1" * 32, threshold=2, shares=3)
    with pytest.raises(Usage, match="do not lead"):
        escrow.join([one[0], two[1]])
    with pytest.raises(Usage, match="share 2"):
        escrow.join([one[0], one[1].replace(one[1].split()[3], "zebra")])
    with pytest.raises(Usage):
        escrow.split(bytes(32), threshold=1, shares=3)


def test_the_last_recipient_cannot_be_put_out(repo: Repository) -> None:
    (only,) = membership.members(repo)
    with pytest.raises(Refused):
        membership.revoke(repo, only.id, why="gone")
    membership.add_passphrase(repo, "another", name="wang", kdf=FAST)
    membership.revoke(repo, only.id, why="gone")
    membership.revoke(repo, only.id, why="said twice")

    found = {m.id: m.revoked for m in membership.members(repo)}
    said = found.pop(only.id)
    assert said is not None
    assert said.why == "gone"
    assert list(found.values()) == [None]
    with pytest.raises(Usage):
        membership.revoke(repo, "nobody", why="x")


def test_nobody_lets_himself_in(repo: Repository, clock: SimClock) -> None:
    """Whoever may write to the vault can put a key object there; without the root's signature it is nothing."""
    stranger = Keyring.of_root(bytes(32), suite=suite("intl"), repository=repo.keys.repository)
    mine = Identity.new("x25519")
    who = recipient.keyed("x25519", curve_name="x25519", public=mine.public, name="mallory")
    body = recipient.wrapped(
        bytes(32), who, suite=stranger.suite, repository=stranger.repository, epoch=1
    )
    data = signed.sign("key", body, stranger.signer)
    repo.store.create(f"keys/{stranger.suite.digest(data)}", data)

    with pytest.raises(Damage):
        open_repository(repo.store, mine, clock=clock)
    assert open_repository(repo.store, PASSPHRASE, clock=clock).keys.root == repo.keys.root


def test_a_kind_of_a_later_zaibei_is_named_and_does_not_stop_the_others(
    repo: Repository, clock: SimClock
) -> None:
    body = {
        "format": 3,
        "kind": "dna",
        "repository": repo.keys.repository.hex(),
        "suite": "intl",
        "epoch": 1,
    }
    data = signed.sign("key", body, repo.keys.signer)
    repo.store.create(f"keys/{repo.keys.suite.digest(data)}", data)

    assert open_repository(repo.store, PASSPHRASE, clock=clock).keys.root == repo.keys.root
    with pytest.raises(NewerFormat):
        open_repository(repo.store, "not mine", clock=clock)


@each_suite
@each_curve
def test_a_flipped_bit_in_a_wrap_is_never_another_root(name: str, curve: str) -> None:
    chosen, root, repository = suite(name), bytes(range(32)), bytes(16)
    mine = Identity.new(curve)
    who = recipient.keyed(curve, curve_name=curve, public=mine.public, name="li")
    body = recipient.wrapped(root, who, suite=chosen, repository=repository, epoch=2)
    assert recipient.unwrap(body, mine, suite=chosen) == root
    rng = random.Random(3)
    for field in ("encapsulated", "commitment"):
        raw = bytearray(bytes.fromhex(body["wrap"][field]))
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        bad = {**body, "wrap": {**body["wrap"], field: raw.hex()}}
        with pytest.raises(Damage):
            recipient.unwrap(bad, mine, suite=chosen)
    for change in ({"epoch": 3}, {"name": "mallory"}, {"repository": "00" * 16 + "01"}):
        with pytest.raises(Damage):
            recipient.unwrap({**body, **change}, mine, suite=chosen)


@pytest.mark.parametrize(
    "cost",
    [
        {"iterations": -1},
        {"iterations": 2**40},
        {"iterations": 65},
        {"lanes": 0},
        {"lanes": 65},
        {"memory_kib": -1},
        {"memory_kib": 5 << 20},
        {"memory_kib": "64"},
    ],
)
def test_a_key_object_cannot_ask_for_any_cost(cost: dict[str, Any]) -> None:
    """Anybody who can write to the vault can leave one; it must not hang or break whoever opens it."""
    intl = suite("intl")
    body = recipient.passphrase(bytes(32), "x", suite=intl, repository=bytes(16), kdf=FAST)
    assert recipient.unwrap(body, "x", suite=intl) == bytes(32)
    with pytest.raises(Damage):
        recipient.unwrap({**body, "kdf": {**body["kdf"], **cost}}, "x", suite=intl)


def test_the_vault_learns_names_of_recipients_and_no_secret(
    repo: Repository, some_files: Path, clock: SimClock
) -> None:
    mine = Identity.new("sm2")
    membership.add_key(repo, curve="sm2", public=mine.public, name="li")
    run_files([some_files], [repo], clock, random.Random(1), Silent())
    everything = b"".join(repo.store.read(s.key) for s in repo.store.list())
    for secret in (repo.keys.root, repo.keys.id, mine.private, PASSPHRASE.encode()):
        assert secret not in everything
        assert secret.hex().encode() not in everything


def test_a_damaged_key_object_is_listed_with_what_can_still_be_read(repo: Repository) -> None:
    membership.add_passphrase(repo, "another", name="wang", kdf=FAST)
    membership.add_passphrase(repo, "third", name="li", kdf=FAST)
    assert isinstance(repo.store, MemoryStore)
    objects = {m.name: m.object for m in membership.members(repo)}
    whole = repo.store.read(objects["wang"])
    repo.store.corrupt(
        objects["wang"], whole[:-9]
    )  # no document any more, and still says whose it was
    repo.store.corrupt(objects["li"], b"")

    members, others = membership.everything(repo)
    assert [m.name for m in members] == [""]
    assert {(o.object, o.state, o.kind, o.name) for o in others} == {
        (objects["wang"], "damaged", "passphrase", "wang"),
        (objects["li"], "damaged", None, None),
    }
    assert all(o.mend is not None and "key add" in o.mend for o in others)


def test_keys_of_strangers_and_of_a_newer_zaibei_are_listed_as_such(
    make: Callable[..., Repository],
) -> None:
    repo, other = make("site-b"), make("site-c")
    (theirs,) = other.store.list("keys/")
    repo.store.create(theirs.key, other.store.read(theirs.key))
    base = {"repository": repo.keys.repository.hex(), "suite": "intl", "name": "li"}
    for more in (
        {"format": 3, "kind": "passphrase", "epoch": 1},
        {"format": 2, "kind": "dna", "epoch": 1},
        {"format": 3, "epoch": 1},
        {"format": 2, "kind": "x25519", "epoch": 2},  # of a rotation that died
    ):
        data = signed.sign("key", base | more, repo.keys.signer)
        repo.store.create(f"keys/{repo.keys.suite.digest(data)}", data)

    members, others = membership.everything(repo)
    newer = [m for m in members if m.state == "newer"]
    assert sorted(m.kind for m in newer) == ["", "dna", "passphrase"]
    assert not any(m.opens for m in newer)
    assert {(o.state, o.why, o.mend) for o in others} == {
        ("stranger", "of another repository", None),
        ("stranger", "of epoch 2, which was never announced", None),
    }
    assert theirs.key in {o.object for o in others}
