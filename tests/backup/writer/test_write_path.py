"""From pieces to packs in vaults: bounded, in order, and no pack is lost silently."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pytest

from backup.format.blob import Chunk, Encoding, Kind
from backup.format.pack import PACK_BYTES, Builder, Pack, check_whole, key_of
from backup.format.snapshot import Content
from backup.format.tree import Node, Type
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.restore.files import restore_files
from backup.sources import fanout
from backup.sources.fanout import Fanout
from backup.sources.files import backup_files
from backup.writer import uploads as upload_queue
from backup.writer.uploads import Uploads
from backup.writer.writer import Writer
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Refused
from zaibei.kernel.progress import Silent


def node(name: str) -> Node:
    return Node(path=name.encode(), type=Type.FILE, mode=0o644, mtime_ns=1)


def content(clock: SimClock) -> Content:
    return Content(
        kind="files",
        label="",
        host="h",
        started=clock.now(),
        finished=clock.now(),
        tree=(),
        entries=0,
        size_bytes=0,
        complete=True,
        problems=(),
        facts={},
    )


def fill(rng: random.Random, builder: Builder, length: int) -> None:
    builder.add(rng.randbytes(32), Encoding.RAW, bytes(length), length)


def closed(rng: random.Random, next_size: Callable[[], int], count: int) -> list[Builder]:
    """Packs as a writer closes them."""
    done, one = [], Builder(Kind.DATA)
    while len(done) < count:
        size = next_size()
        if not one.fits(size, PACK_BYTES):
            done.append(one)
            one = Builder(Kind.DATA)
        fill(rng, one, size)
        if one.is_full(PACK_BYTES):
            done.append(one)
            one = Builder(Kind.DATA)
    return done


@pytest.mark.parametrize("largest", [8 << 10, 300 << 10, 2 << 20])
def test_padding_costs_less_than_one_per_cent(repo: Repository, largest: int) -> None:
    rng = random.Random(largest)
    made = [
        (b.size_bytes, len(b.seal(repo.keys, rng).data))
        for b in closed(rng, lambda: rng.randrange(200, largest), 12)
    ]
    assert all(whole <= PACK_BYTES for _, whole in made)
    # Header, trailer and tags are in this too, and for the smallest blobs they are most of it.
    count = sum(whole for _, whole in made) / (largest / 2)
    overhead = sum(whole - blobs for blobs, whole in made) - 46 * count
    assert overhead / sum(whole for _, whole in made) < 0.01


def test_a_blob_larger_than_a_pack_is_packed_all_the_same(repo: Repository) -> None:
    writer = Writer(repo, rng=random.Random(1), pack_bytes=4096)
    ids = {writer.put(Chunk(random.Random(seed).randbytes(9000)), Kind.DATA) for seed in range(3)}
    assert writer.finish().blobs_new == 3
    writer.close()
    names = [s.key.rpartition("/")[2] for s in repo.store.list("packs/")]
    held = [e for n in names for e in check_whole(repo.keys, n, repo.read(key_of(n)))]
    assert {e.id for e in held} == ids


def pack(size: int) -> Pack:
    return Pack(name="00", data=bytes(size), entries=())


def test_uploads_hold_no_more_bytes_than_their_bound() -> None:
    gate, seen, now, most = threading.Event(), threading.Lock(), [0], [0]

    def deliver(one: Pack) -> None:
        with seen:
            now[0] += len(one.data)
            most[0] = max(most[0], now[0])
        gate.wait(10)
        with seen:
            now[0] -= len(one.data)

    uploads = Uploads(deliver, threads=16)
    size = upload_queue.IN_FLIGHT_BYTES // 3
    sender = threading.Thread(target=lambda: [uploads.send(pack(size)) for _ in range(10)])
    sender.start()
    sender.join(0.3)
    assert sender.is_alive(), "the fourth waits"
    gate.set()
    sender.join(10)
    uploads.settle()
    uploads.close()
    assert 0 < most[0] <= upload_queue.IN_FLIGHT_BYTES


def test_a_pack_that_did_not_arrive_is_told_by_the_next_send_and_at_the_end() -> None:
    def deliver(one: Pack) -> None:
        raise Refused("site-b: no more")

    uploads = Uploads(deliver)
    uploads.send(pack(10))
    with pytest.raises(Refused):
        uploads.settle()
    with pytest.raises(Refused):
        uploads.send(pack(10))
    uploads.close()


@dataclass
class Refuses:
    """A store that refuses packs after the first few."""

    inner: MemoryStore
    packs: int
    seen: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.inner.name

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> str | None:
        if key.startswith("packs/"):
            self.seen.append(key)
            if len(self.seen) > self.packs:
                raise Refused(f"{self.name}: full")
        return self.inner.create(key, data, retain_until=retain_until)


def test_a_vault_that_refuses_a_pack_in_the_background_is_left_behind_and_the_other_commits(
    make: Callable[..., Repository], clock: SimClock
) -> None:
    good, bad = make("site-b"), make("site-c")
    refusing = replace(bad, store=Refuses(bad.store, 1))
    rng = random.Random(4)
    writers = [Writer(r, rng=rng, pack_bytes=64 << 10) for r in (good, refusing)]
    with Fanout(writers, Silent()) as out:
        for at in range(40):
            out.add(node(f"{at}"), [rng.randbytes(20_000)])
        outcomes = out.commit(content(clock))
    assert outcomes[0].snapshot is not None
    assert outcomes[1].snapshot is None
    assert "full" in (outcomes[1].error or "")
    assert bad.sequences() == [], "nothing was committed over a pack that is not there"


def test_thousands_of_small_files_come_back_in_order_and_whole(
    repo: Repository, clock: SimClock, tmp_path: Path, rng: random.Random
) -> None:
    source = tmp_path / "many"
    for at in range(700):
        path = source / f"{at // 50:02d}" / f"{at:04d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 50, 700, 3000, fanout.SMALL_BYTES])))
    (outcome,) = backup_files([source], [Writer(repo, rng=rng)], clock=clock, progress=Silent())
    assert outcome.snapshot is not None
    with Reader(repo) as reader:
        paths = [n.path for n in reader.nodes(outcome.snapshot)]
        restore_files(reader, outcome.snapshot, tmp_path / "back", progress=Silent())
    assert paths == sorted(paths, key=lambda p: p.split(b"/"))
    for path in source.rglob("*"):
        if path.is_file():
            back = tmp_path / "back" / "many" / path.relative_to(source)
            assert back.read_bytes() == path.read_bytes()


def test_a_file_that_fails_in_the_middle_is_forgotten_and_its_neighbours_are_not(
    repo: Repository, clock: SimClock
) -> None:
    def breaks() -> object:
        yield b"x" * 100
        raise OSError("the disk went away")

    with Fanout([Writer(repo)], Silent()) as out:
        out.add(node("a"), [b"first"])
        with pytest.raises(OSError, match="went away"):
            out.add(node("b"), breaks())  # type: ignore[arg-type]
        out.add(node("c"), [b"last"])
        (outcome,) = out.commit(content(clock))
    assert outcome.snapshot is not None
    with Reader(repo) as reader:
        got = {n.path: b"".join(reader.read_all(n.blobs)) for n in reader.nodes(outcome.snapshot)}
    assert got == {b"a": b"first", b"c": b"last"}


def test_a_catalogue_says_the_home_of_a_blob_as_it_says_its_first_place(repo: Repository) -> None:
    writer = Writer(repo, rng=random.Random(1), pack_bytes=4096)
    ids = [writer.put(Chunk(random.Random(n).randbytes(900)), Kind.DATA) for n in range(20)]
    writer.finish()
    for catalogue in (writer.catalogue, repo.catalogue()):
        for id_ in ids:
            first = catalogue.locations(id_)[0]
            assert catalogue.first_pack(id_) == (first.pack, first.pack_bytes)
        assert catalogue.first_pack(bytes(32)) is None
    assert writer.holds(ids)
    assert not writer.holds([*ids, bytes(32)])
    writer.close()


def test_a_vault_that_was_away_for_a_run_does_not_make_the_others_take_everything_again(
    make: Callable[..., Repository], clock: SimClock, tmp_path: Path, rng: random.Random
) -> None:
    both = sorted([make("site-b"), make("site-c")], key=lambda r: r.config.repository)
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(rng.randbytes(6 << 20))

    def run(repos: list[Repository]) -> int:
        outcomes = backup_files(
            [source], [Writer(r) for r in repos], clock=clock, progress=Silent()
        )
        assert all(o.snapshot is not None for o in outcomes)
        assert outcomes[-1].written is not None
        return outcomes[-1].written.stored_bytes

    run(both)
    with (source / "big").open("r+b") as file:
        file.write(b"changed at the front")
    # The one whose seed cuts is away.
    assert run(both[1:]) < 3 << 20
