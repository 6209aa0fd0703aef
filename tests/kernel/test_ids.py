"""Names sort by time and can be read aloud."""

import random
import re
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from zaibei.kernel.clock import SimClock
from zaibei.kernel.ids import new_id

FORM = re.compile(r"drill-\d{8}T\d{6}Z-[0-9abcdefghjkmnpqrstvwxyz]{6}")


def test_an_id_tells_what_and_when() -> None:
    assert new_id("drill", SimClock(), random.Random(7)).startswith("drill-20260101T000000Z-")


def test_the_same_seed_gives_the_same_name_so_that_a_run_can_be_replayed() -> None:
    assert new_id("a", SimClock(), random.Random(7)) == new_id("a", SimClock(), random.Random(7))


@given(seed=st.integers(), later=st.integers(1, 10**9))
def test_ids_have_one_form_and_sort_by_time(seed: int, later: int) -> None:
    clock, rng = SimClock(), random.Random(seed)
    first = new_id("drill", clock, rng)
    clock.sleep(timedelta(seconds=later))
    second = new_id("drill", clock, rng)
    assert FORM.fullmatch(first)
    assert first < second


def test_many_ids_of_one_second_differ() -> None:
    clock, rng = SimClock(), random.Random(7)
    assert len({new_id("drill", clock, rng) for _ in range(1000)}) == 1000
