"""A full check digests a pack only where that tells something: no changed byte and no swapped pack gets by."""

import random
import struct
from collections.abc import Callable

import pytest

from backup.crypto.seal import HEADER_BYTES, Seal
from backup.crypto.seal import Kind as Sealed
from backup.format.blob import Encoding, Kind
from backup.format.pack import (
    FOOTER_SLOT,
    TRAILER_SLOT,
    Builder,
    Entry,
    Pack,
    check_blobs,
    check_name,
    key_of,
)
from backup.index.segment import PackEntries
from backup.integrity.report import Report
from backup.integrity.verify import verify
from backup.repository.repository import Repository
from backup.writer.pack_health import Level
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Silent

BLOBS = [random.Random(n).randbytes(50 + n) for n in range(3)]


def sealed(repo: Repository, blobs: list[bytes], seed: int = 1) -> Pack:
    builder = Builder(Kind.DATA)
    for data in blobs:
        id_ = repo.keys.blob_id(Kind.DATA.domain, data)
        builder.add(id_, Encoding.RAW, data, len(data))
    return builder.seal(repo.keys, random.Random(seed))


def with_a_gap(repo: Repository, data: bytes) -> Pack:
    """As no writer of ours makes it: bytes between header and blob that nothing seals."""
    keys = repo.keys
    one = Seal.fresh(keys, Sealed.PACK, "", hedge=b"")
    blob = one.seal(0, data)
    at = HEADER_BYTES + 3
    entry = Entry(
        keys.blob_id(Kind.DATA.domain, data), Kind.DATA, Encoding.RAW, at, len(blob), len(data), 0
    )
    listed = struct.pack(">I32sBBIII", 1, entry.id, 0, 0, at, len(blob), len(data))
    trailer = one.seal(TRAILER_SLOT, listed)
    footer = one.seal(FOOTER_SLOT, len(trailer).to_bytes(4))
    whole = one.header + b"gap" + blob + trailer + footer
    return Pack(name=keys.suite.digest(whole), data=whole, entries=(entry,))


def put(repo: Repository, *packs: Pack, indexed: bool = True) -> None:
    for p in packs:
        repo.create(key_of(p.name), p.data)
    if indexed:
        held = [PackEntries(p.name, len(p.data), p.entries) for p in packs]
        repo.write_segment(held, retain_until=None)


def swap(repo: Repository, one: Pack, other: Pack) -> None:
    assert isinstance(repo.store, MemoryStore)
    assert len(one.data) == len(other.data), "else the sizes would tell"
    repo.store.corrupt(key_of(one.name), other.data)
    repo.store.corrupt(key_of(other.name), one.data)


def told(repo: Repository) -> set[str]:
    found: Report = verify(repo, Level.FULL, rng=random.Random(1), progress=Silent())
    return {f.object for f in found.findings}


@pytest.mark.parametrize("suite", ["intl", "sm"])
def test_no_byte_of_a_pack_changes_unseen_though_nobody_digests_it(
    make: Callable[..., Repository], suite: str
) -> None:
    repo = make(suite=suite)
    pack = sealed(repo, BLOBS)
    entries, all_opened = check_blobs(repo.keys, pack.name, pack.data)
    assert (set(entries), all_opened) == (set(pack.entries), True)
    for at in range(len(pack.data)):
        bad = bytearray(pack.data)
        bad[at] ^= 1 << at % 8
        with pytest.raises(Damage):
            check_blobs(repo.keys, pack.name, bytes(bad))


def test_two_packs_under_each_others_names_are_both_told(repo: Repository) -> None:
    one, other = (sealed(repo, [random.Random(n).randbytes(500)]) for n in (1, 2))
    put(repo, one, other)
    assert told(repo) == set()
    swap(repo, one, other)
    assert told(repo) == {key_of(one.name), key_of(other.name)}


@pytest.mark.parametrize("indexed", [True, False])
def test_two_packs_of_the_same_blobs_under_each_others_names_are_told(
    repo: Repository, indexed: bool
) -> None:
    """The index cannot tell them apart. One that no segment names is digested in any case."""
    one, other = sealed(repo, BLOBS[:1], 1), sealed(repo, BLOBS[:1], 2)
    assert (one.entries, one.name != other.name) == (other.entries, True)
    put(repo, one)
    put(repo, other, indexed=indexed)
    assert told(repo) == set()
    swap(repo, one, other)
    expected = {key_of(other.name)} | ({key_of(one.name)} if indexed else set())
    assert told(repo) == expected


def test_bytes_that_nothing_seals_are_covered_by_the_digest(repo: Repository) -> None:
    assert isinstance(repo.store, MemoryStore)
    pack = with_a_gap(repo, BLOBS[0])
    put(repo, pack)
    assert not check_blobs(repo.keys, pack.name, pack.data)[1]
    assert told(repo) == set()
    repo.store.corrupt(key_of(pack.name), pack.data.replace(b"gap", b"gop"))
    assert told(repo) == {key_of(pack.name)}
    with pytest.raises(Damage):
        check_name(repo.keys, pack.name, repo.store.read(key_of(pack.name)))
