"""Where streams are cut: nothing lost, nothing larger than allowed, and the same bytes cut the same."""

import random
from collections.abc import Callable
from io import BytesIO

from hypothesis import given
from hypothesis import strategies as st

from backup.repository.repository import Repository
from backup.sources.chunker import Content, for_database

SMALL = Content(seed=12345, least=256, average=1024, most=4096)  # as the real one, in miniature


class Drips:
    """A pipe: gives less than it is asked for."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data, self._sizes, self._at, self._turn = data, sizes, 0, 0

    def read(self, size: int, /) -> bytes:
        size = min(size, self._sizes[self._turn % len(self._sizes)])
        self._turn += 1
        got = self._data[self._at : self._at + size]
        self._at += len(got)
        return got


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@given(
    seed=st.integers(0, 2**63 - 1),
    size=st.integers(0, 40_000),
    drips=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    flat=st.booleans(),
)
def test_the_pieces_are_the_stream_however_it_drips(
    seed: int, size: int, drips: list[int], *, flat: bool
) -> None:
    data = bytes(size) if flat else noise(seed, size)
    cutter = Content(seed, least=256, average=1024, most=4096)
    pieces = list(cutter.cut(BytesIO(data)))
    assert b"".join(pieces) == data
    assert all(0 < len(p) <= 4096 for p in pieces)
    assert all(len(p) >= 256 for p in pieces[:-1])
    assert list(cutter.cut(Drips(data, drips))) == pieces, "cuts come from the bytes alone"


def test_where_a_window_ends_leaves_no_trace() -> None:
    from pyfastcdc import FastCDC  # noqa: PLC0415

    data = noise(3, 200_000)
    at_once = FastCDC(1024, min_size=256, max_size=4096, seed=12345).cut_buf(data)
    assert list(SMALL.cut(BytesIO(data))) == [bytes(c.data) for c in at_once]


def test_bytes_put_in_at_the_front_and_in_the_middle_cost_a_few_pieces_each() -> None:
    data = noise(5, 400_000)
    other = b"new at the front" + data[:200_000] + b"and in the middle" + data[200_000:]
    before, after = set(SMALL.cut(BytesIO(data))), list(SMALL.cut(BytesIO(other)))
    assert len(after) > 200
    assert sum(p not in before for p in after) <= 12


def test_another_seed_cuts_elsewhere() -> None:
    data = noise(7, 100_000)
    other = Content(seed=54321, least=256, average=1024, most=4096)
    mine, theirs = set(SMALL.cut(BytesIO(data))), set(other.cut(BytesIO(data)))
    assert len(mine & theirs) < len(mine) / 10


def test_each_repository_cuts_by_a_seed_of_its_own(make: Callable[..., Repository]) -> None:
    one, two = make("site-b"), make("site-c", suite="sm")
    seeds = {one.keys.chunk, two.keys.chunk}
    assert len(seeds) == 2
    assert all(0 < s < 2**63 for s in seeds)
    assert one.keys.chunk == one.keys.chunk


def test_relations_stay_in_blocks_of_pages() -> None:
    assert [len(p) for p in for_database("base/5/16384").cut(BytesIO(bytes(600 << 10)))] == [
        256 << 10,
        256 << 10,
        88 << 10,
    ]


def test_streams_that_are_cut_at_once_do_not_share_their_room() -> None:
    one, other = noise(5, 60_000), noise(6, 60_000)
    both = list(zip(SMALL.cut(BytesIO(one)), SMALL.cut(Drips(other, [700])), strict=False))
    assert b"".join(p for p, _ in both) == one[: sum(len(p) for p, _ in both)]
    assert b"".join(p for _, p in both) == other[: sum(len(p) for _, p in both)]
    assert len(both) > 20
