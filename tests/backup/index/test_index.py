"""The catalogue beside a plain dict: whatever is added, in memory or in runs, both say the same."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup.crypto.keyring import Keyring
from backup.crypto.suite import suite
from backup.format import blob
from backup.format.blob import Encoding
from backup.format.pack import Builder, Entry, fetch_trailer, key_of
from backup.index import sorted_runs
from backup.index.blob_index import BlobIndex, Place
from backup.index.id_set import IdSet
from backup.index.segment import (
    PackEntries,
    Segment,
    decode_segment,
    encode_segment,
    read_segment,
    seal_segment,
)
from backup.repository.repository import Repository
from backup.run import run_files
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Silent

KEYS = Keyring.of_root(bytes(32), suite=suite("intl"), repository=bytes(16))
# Few ids, and such that begin alike: real ones never do, and the table must be right all the same.
IDS = [bytes([a]) * 8 + bytes([b]) * 24 for a in (0, 7, 255) for b in range(4)]
PACKS = [bytes([n // 2]) * 8 + bytes([n]) * 24 for n in range(6)]


def entry(id_: bytes, slot: int) -> Entry:
    return Entry(id_, blob.Kind(slot % 2), Encoding(1), 76 + slot, 100 + slot, 200, slot)


entries = st.lists(st.builds(entry, st.sampled_from(IDS), st.integers(0, 9)), max_size=8)
packs = st.builds(
    lambda n, size, e: PackEntries(n.hex(), size, tuple(e)),
    st.sampled_from(PACKS),
    st.integers(1, 9),
    entries,
)


class Model:
    """What the catalogue promises, in a dict; the first word on anything counts."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.held: dict[tuple[bytes, str], Entry] = {}

    def add(self, pack: PackEntries) -> None:
        self.sizes.setdefault(pack.name, pack.size_bytes)
        for e in pack.entries:
            self.held.setdefault((e.id, pack.name), e)

    def locations(self, id_: bytes) -> list[Place]:
        return [
            Place(p, self.sizes[p], self.held[id_, p]) for p in self.sizes if (id_, p) in self.held
        ]

    def entries(self, pack: str) -> set[Entry]:
        return {e for (_, p), e in self.held.items() if p == pack}


def same(one: BlobIndex, model: Model) -> None:
    assert list(one.packs()) == sorted(model.sizes.items())
    for id_ in IDS:
        assert one.locations(id_) == model.locations(id_)
        assert (id_ in one) == bool(model.locations(id_))
    for name in PACKS:
        assert one.entries(name.hex()) == model.entries(name.hex())
    assert one.count() == (len(model.sizes), len(model.held))


@settings(max_examples=60, deadline=None)
@given(
    loaded=st.lists(st.lists(packs, max_size=3, unique_by=lambda p: p.name), max_size=3),
    added=st.lists(st.tuples(packs, st.booleans()), max_size=8),
    wanted=st.sets(st.sampled_from(IDS)),
)
def test_the_catalogue_says_what_a_dict_would_say(
    loaded: list[list[PackEntries]], added: list[tuple[PackEntries, bool]], wanted: set[bytes]
) -> None:
    one, model = BlobIndex(), Model()
    one.load([segment(held) for held in loaded])
    for held in loaded:
        for pack in held:
            model.add(_by_id(pack))
    same(one, model)
    for pack, look in added:
        one.add(pack.name, pack.size_bytes, pack.entries)
        model.add(pack)
        if look:  # it sorts what it holds, and goes on from there
            same(one, model)
    same(one, model)

    for live in one.liveness(IdSet(wanted)):
        held_here = model.entries(live.pack)
        needed = [e for e in held_here if e.id in wanted]
        assert (live.size_bytes, live.blobs) == (model.sizes[live.pack], len(held_here))
        assert live.live_blobs == len(needed)
        assert live.live_bytes == sum(e.stored_bytes for e in needed)
    gone = sorted(i for i in wanted if not model.locations(i))
    lacking = one.lacking(IdSet(wanted))
    assert (lacking.count, list(lacking.first)) == (len(gone), gone[:5])
    one.close()


@given(st.lists(packs, max_size=4, unique_by=lambda p: p.name), st.sets(st.sampled_from(PACKS)))
@settings(deadline=None)
def test_condemned_packs_are_as_if_they_were_not_there(
    held: list[PackEntries], condemned: set[bytes]
) -> None:
    names = frozenset(n.hex() for n in condemned)
    one, model = BlobIndex(), Model()
    one.load([segment(held)], without=names)
    for pack in held:
        if pack.name not in names:
            model.add(_by_id(pack))
    same(one, model)


def test_a_catalogue_that_outgrows_its_memory_says_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(11)
    monkeypatch.setattr(sorted_runs, "BUFFER_BYTES", 4000)
    monkeypatch.setattr(sorted_runs, "BLOCK_BYTES", 4000)
    one, truth = BlobIndex(), dict[bytes, str]()
    held = [
        PackEntries(
            rng.randbytes(32).hex(),
            rng.randrange(1 << 40),
            tuple(entry(rng.randbytes(32), n) for n in range(rng.randrange(1, 40))),
        )
        for _ in range(60)
    ]
    one.load([segment([p]) for p in held[:40]])
    for p in held[40:]:
        one.add(p.name, p.size_bytes, p.entries)
    for p in held:
        truth |= {e.id: p.name for e in p.entries}
        assert one.entries(p.name) == set(p.entries)
    assert {i: one.locations(i)[0].pack for i in truth} == truth
    assert one.count() == (60, len(truth))
    some = IdSet(sorted(truth)[::3])
    assert sum(x.live_blobs for x in one.liveness(some)) == len(some)


def test_a_segment_is_found_by_the_packs_that_it_names() -> None:
    one = BlobIndex()
    a, b, c = (PackEntries(p.hex(), 9, (entry(IDS[n], n),)) for n, p in enumerate(PACKS[:3]))
    first, second, third = segment([a]), segment([a, b]), segment([c])
    one.load([first, second, third])
    assert one.segments_naming([b.name]) == [second.name]
    assert one.segments_naming([a.name, "00" * 31 + "99"]) == sorted([first.name, second.name])
    assert one.segments_naming([]) == []


def test_a_blob_is_claimed_once_and_never_when_it_is_there() -> None:
    one = BlobIndex()
    assert one.claim(IDS[0])
    assert not one.claim(IDS[0])
    one.add(PACKS[0].hex(), 9, [entry(IDS[0], 0), entry(IDS[1], 1)])
    assert not one.claim(IDS[0]), "it is in a pack now"
    assert not one.claim(IDS[1])
    assert one.claim(IDS[2])


@given(st.lists(packs, max_size=5, unique_by=lambda p: p.name))
@settings(max_examples=30, deadline=None)
def test_a_segment_reads_back_as_it_was_written(held: list[PackEntries]) -> None:
    name, sealed = encode_segment(KEYS, held)
    assert decode_segment(KEYS, name, sealed) == tuple(
        PackEntries(p.name, p.size_bytes, tuple(sorted(p.entries, key=lambda e: (e.id, *_rest(e)))))
        for p in held
    )


@pytest.mark.parametrize(
    ("plain", "why"),
    [
        (b"", "unpack"),
        (b"\0\0\0\1", "unpack"),
        (b"\0\0\0\0" + b"\0\0\0\1", "counts"),
        (b"\0\0\0\0" + b"\0\0\0\0" + b"x", "counts"),
        (b"\0\0\0\0" + b"\0\0\0\1" + bytes(54), "does not name"),
        (b"\0\0\0\1" + bytes(40) + b"\0\0\0\1" + bytes(36) + b"\2" + bytes(17), "unknown kind"),
        (b"\0\0\0\1" + bytes(40) + b"\0\0\0\1" + bytes(37) + b"\2" + bytes(16), "unknown kind"),
    ],
)
def test_a_segment_of_false_counts_or_fields_is_damage(plain: bytes, why: str) -> None:
    with pytest.raises(Damage, match=why):
        read_segment(KEYS, *seal_segment(KEYS, plain))


def _rest(e: Entry) -> Sequence[int]:
    return (e.kind, e.encoding, e.offset, e.stored_bytes, e.raw_bytes, e.slot)


def _by_id(pack: PackEntries) -> PackEntries:
    """A segment is sorted: of two entries for one id it is not the first written that is met first."""
    return PackEntries(
        pack.name, pack.size_bytes, tuple(sorted(pack.entries, key=lambda e: (e.id, *_rest(e))))
    )


def segment(held: list[PackEntries]) -> Segment:
    return read_segment(KEYS, *encode_segment(KEYS, held))


def test_an_index_is_rebuilt_from_the_ends_of_packs_and_names_those_that_do_not_tell(
    repo: Repository, tmp_path: Path, clock: SimClock
) -> None:
    assert isinstance(repo.store, MemoryStore)
    for n in range(3):
        (tmp_path / f"f{n}").write_bytes(random.Random(n).randbytes(300_000))
        run_files([tmp_path], [repo], clock, random.Random(n), Silent())
    whole = repo.catalogue()
    packs = list(whole.packs())
    repo.store.log.clear()
    again = repo.rebuilt_catalogue()
    assert list(again.packs()) == packs
    assert all(again.entries(n) == whole.entries(n) for n, _ in packs)

    bad, _ = max(packs, key=lambda p: p[1])
    data = repo.store.read(key_of(bad))
    repo.store.corrupt(key_of(bad), data[:-1])
    told: list[str] = []
    rest = repo.rebuilt_catalogue(lambda key, why: told.append(f"{key}: {why}"))
    assert [n for n, _ in rest.packs()] == [n for n, _ in packs if n != bad]
    assert len(told) == 1
    assert key_of(bad) in told[0]
    with pytest.raises(Damage):
        repo.rebuilt_catalogue()


@given(st.integers(1, 300_000), st.integers(1, 200))
@settings(max_examples=20, deadline=None)
def test_a_trailer_of_any_length_is_found_by_its_end(blob_bytes: int, blobs: int) -> None:
    rng = random.Random(blob_bytes * 1000 + blobs)
    builder = Builder(blob.Kind.DATA)
    for _ in range(blobs):
        builder.add(rng.randbytes(32), Encoding.RAW, bytes(1 + blob_bytes // blobs), 1)
    pack = builder.seal(KEYS, rng)
    asked: list[tuple[int, int]] = []

    def read(start: int, size: int) -> bytes:
        asked.append((start, size))
        return pack.data[start : start + size]

    assert fetch_trailer(KEYS, pack.name, len(pack.data), read) == pack.entries
    assert len(asked) <= 3
