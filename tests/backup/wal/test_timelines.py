"""The way of a recovery through segments, forks and holes, and what is fetched of it."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.errors import WalGap
from backup.format.wal_segment import SEGMENT_BYTES, Item, segment_name
from backup.repository.repository import Repository
from backup.wal.archive import Archive
from backup.wal.fetch import fetch_wal
from backup.wal.timelines import History, Place, Route, parse_history, route
from zaibei.kernel.errors import Damage, Usage

FORK = 5 * SEGMENT_BYTES + 4096  # in segment 5


def items(*places: Place, parts: tuple[Place, ...] = ()) -> list[Item]:
    return [Item(key="", epoch=t, timeline=t, segment=s) for t, s in places] + [
        Item(key="", epoch=t, timeline=t, segment=s, part=1) for t, s in parts
    ]


def way(held: list[Item], histories: dict[int, History] | None = None) -> Route:
    return route(held, histories or {}, from_timeline=1, from_segment=3)


def test_postgresqls_history_is_read_and_anything_else_is_damage() -> None:
    assert parse_history(b"# old\n\n1\t0/5001000\tno recovery target\n2\t1/0\tx\n") == (
        (1, FORK),
        (2, 1 << 32),
    )
    for bad in (b"1\n", b"x\t0/0\ty\n", b"1\t00\ty\n"):
        with pytest.raises(Damage):
            parse_history(bad)


@given(count=st.integers(2, 30), hole=st.integers(0, 28), seed=st.integers())
def test_the_way_ends_before_the_first_hole(count: int, hole: int, seed: int) -> None:
    taken = 3 + hole % (count - 1)
    held = items(*((1, s) for s in range(3, 3 + count)))
    random.Random(seed).shuffle(held)
    assert way(held).hole is None

    found = way([i for i in held if i.segment != taken])

    assert found.hole == f"wal: {segment_name(1, taken)} is missing"
    assert found.places == tuple((1, s) for s in range(3, taken))


def test_a_growing_segment_is_the_end_and_only_there_no_hole() -> None:
    assert way(items((1, 3), parts=((1, 4),))).hole is None
    found = way(items((1, 3), (1, 5), parts=((1, 4),)))
    assert found.hole == f"wal: only a part of {segment_name(1, 4)}"
    assert found.places == ((1, 3), (1, 4))


def test_a_new_timeline_is_read_from_the_segment_of_the_fork() -> None:
    held = items((1, 3), (1, 4), (2, 5), (2, 6), parts=((1, 5), (2, 7)))

    found = way(held, {2: ((1, FORK),)})

    assert (found.timeline, found.hole, found.cuts) == (2, None, {})
    assert found.places == ((1, 3), (1, 4), (2, 5), (2, 6), (2, 7))


def test_an_old_segment_serves_up_to_the_fork_while_the_new_one_is_being_uploaded() -> None:
    held = items((1, 3), (1, 4), parts=((1, 5),))
    for later, hole in (
        ([], None),
        (items((2, 6)), f"wal: {segment_name(2, 5)} is missing"),
    ):
        found = way([*held, *later], {2: ((1, FORK),)})

        assert found.places == ((1, 3), (1, 4), (1, 5))
        assert found.cuts == {(1, 5): 4096}, "what was written after the fork belongs to no history"
        assert found.hole == hole


def test_a_timeline_without_a_history_is_not_walked_and_not_passed_over_in_silence() -> None:
    found = way(items((1, 3), (1, 4), (2, 5)))

    assert (found.timeline, found.places) == (1, ((1, 3), (1, 4)))
    assert found.hole is not None and "timeline 2" in found.hole


def test_a_backup_of_a_branch_that_was_left_does_not_pass_for_the_latest() -> None:
    before_it = 2 * SEGMENT_BYTES

    found = way(items((1, 3), (2, 2), (2, 3)), {2: ((1, before_it),)})

    assert (found.timeline, found.places) == (1, ((1, 3),))
    assert found.hole is not None


def put(archive: Archive, *places: Place) -> None:
    for timeline, segment in places:
        archive.put(b"\1" * 8192, epoch=timeline, timeline=timeline, segment=segment)


def test_only_a_hole_that_recovery_would_meet_is_refused(repo: Repository, tmp_path: Path) -> None:
    archive = Archive(repo, 1)
    put(archive, (1, 3), (1, 4), (1, 6))
    put(Archive(repo, 2), (1, 5), (11, 90))  # neither fills our hole nor makes one

    def names(*, whole: bool = False, upto: int | None = None) -> list[str]:
        got = fetch_wal(archive, tmp_path, from_segment=3, from_timeline=1, whole=whole, upto=upto)
        return list(got.names)

    both = [segment_name(1, 3), segment_name(1, 4)]
    assert names() == both, "a name or a time: recovery decides"
    assert names(upto=4) == both
    for whole, upto in ((True, None), (False, 5), (False, 6)):
        with pytest.raises(WalGap, match="is missing"):
            names(whole=whole, upto=upto)


def test_a_fork_is_cut_in_the_file_and_only_the_ways_histories_are_laid_down(
    repo: Repository, tmp_path: Path
) -> None:
    archive = Archive(repo, 1)
    put(archive, (1, 3), (1, 4), (1, 5))
    archive.put(b"1\t0/5001000\tx\n", epoch=2, timeline=2, segment=None)
    archive.put(b"1\t0/2000000\tbefore the backup\n", epoch=3, timeline=3, segment=None)

    got = fetch_wal(archive, tmp_path, from_segment=3, from_timeline=1, whole=False)

    assert got.way.timeline == 2
    names = [segment_name(1, n) for n in (3, 4, 5)]
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {"00000002.history", *names}
    assert (tmp_path / segment_name(1, 5)).read_bytes() == (b"\1" * 4096).ljust(
        SEGMENT_BYTES, b"\0"
    )


def test_a_timeline_that_was_left_can_be_asked_for() -> None:
    """The mistake came with the failover: back to what the old writer had, to its very end."""
    held = items((1, 3), (1, 4), (1, 5), (1, 6), (2, 5), (2, 6))
    histories: dict[int, History] = {2: ((1, FORK),)}
    assert way(held, histories).timeline == 2

    left = route(held, histories, from_timeline=1, from_segment=3, towards=1)

    assert (left.timeline, left.hole) == (1, None)
    assert left.places == ((1, 3), (1, 4), (1, 5), (1, 6))
    with pytest.raises(Usage, match="no history leads from timeline 1"):
        route(held, histories, from_timeline=1, from_segment=3, towards=7)
