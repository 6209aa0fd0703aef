import itertools
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.shapes import (
    Piece,
    Shape,
    Spacing,
    arrivals,
    constant,
    intended_by,
    policy_step,
    ramp,
)

rates = st.floats(0, 200, allow_nan=False)
pieces = st.builds(
    Piece,
    duration_s=st.floats(0.1, 20),
    start_rps=rates,
    end_rps=rates,
    tau_s=st.none() | st.floats(0.1, 20),
)
shapes = st.lists(pieces, min_size=1, max_size=4).map(lambda p: Shape(pieces=tuple(p)))


@settings(deadline=None, max_examples=25)
@given(pieces, st.floats(0, 1))
def test_the_instant_at_which_n_came_is_the_inverse_of_how_many_came(
    piece: Piece, share: float
) -> None:
    n = piece.come_by(piece.duration_s) * share
    at_s = piece.when(n)

    assert 0 <= at_s <= piece.duration_s
    assert piece.come_by(at_s) == pytest.approx(n, rel=1e-6, abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(pieces, st.floats(0.001, 0.999))
def test_how_many_came_grows_as_the_rate_says(piece: Piece, share: float) -> None:
    t_s, dt_s = piece.duration_s * share, piece.duration_s * 1e-6
    grown = piece.come_by(t_s + dt_s) - piece.come_by(t_s - dt_s)

    assert grown / (2 * dt_s) == pytest.approx(piece.rate_rps(t_s), rel=1e-3, abs=1e-2)


@settings(deadline=None, max_examples=25)
@given(shapes, st.sampled_from(Spacing), st.integers(0, 99), st.integers(1, 5))
def test_the_slices_of_any_number_of_workers_are_the_one_list(
    shape: Shape, spacing: Spacing, seed: int, of: int
) -> None:
    whole = list(itertools.islice(arrivals(shape, spacing, seed=seed), 500))
    slices = [
        itertools.islice(arrivals(shape, spacing, seed=seed, worker=w, of=of), 500)
        for w in range(of)
    ]
    together = sorted((a for s in slices for a in s), key=lambda a: a.index)[: len(whole)]

    assert together == whole
    assert all(a.at_s <= b.at_s for a, b in itertools.pairwise(whole))
    assert all(a.at_s <= shape.duration_s for a in whole)


def test_constant_spacing_is_a_metronome() -> None:
    due_s = intended_by(constant(rate_rps=4, duration_s=1), Spacing.CONSTANT, seed=0, until_s=1)

    assert due_s == [0, 0.25, 0.5, 0.75]


def test_a_seed_is_a_crowd_and_another_seed_another() -> None:
    shape = constant(rate_rps=10, duration_s=10)
    first, again, other = (list(arrivals(shape, Spacing.POISSON, seed=s)) for s in (1, 1, 2))

    assert first == again
    assert first != other


def test_a_random_crowd_is_as_large_as_its_curve_within_five_sigma() -> None:
    shape = policy_step(base_rps=20, factor=10, before_s=10, rise_s=10, hold_s=20, decay_s=30)

    for seed in range(5):
        came = sum(1 for _ in arrivals(shape, Spacing.POISSON, seed=seed))
        assert abs(came - shape.people) < 5 * shape.people**0.5


def test_gaps_of_a_random_crowd_vary_as_much_as_their_mean() -> None:
    shape = constant(rate_rps=100, duration_s=60)
    due_s = intended_by(shape, Spacing.POISSON, seed=3, until_s=60)
    gaps = [b - a for a, b in itertools.pairwise(due_s)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((g - mean) ** 2 for g in gaps) / len(gaps)) ** 0.5

    assert spread == pytest.approx(mean, rel=0.05)  # exponential; a metronome would have none


def test_a_policy_step_is_base_then_factor_times_base_then_nearly_base() -> None:
    shape = policy_step(base_rps=8, factor=10, before_s=20, rise_s=30, hold_s=120, decay_s=90)

    assert shape.peak_rps == 80
    assert shape.duration_s == 260
    assert shape.pieces[-1].rate_rps(90) == pytest.approx(8 + 72 * 0.0498, rel=1e-3)


def test_a_curve_told_faster_has_the_same_rates() -> None:
    slow = policy_step(base_rps=8, factor=10, before_s=20, rise_s=30, hold_s=120, decay_s=90)
    fast = slow.lasting(timedelta(seconds=26))

    assert fast.duration_s == pytest.approx(26)
    assert fast.peak_rps == slow.peak_rps
    assert fast.people == pytest.approx(slow.people / 10)


def test_nobody_comes_before_a_ramp_from_nothing_has_begun() -> None:
    due_s = intended_by(
        ramp(start_rps=0, end_rps=10, duration_s=2), Spacing.CONSTANT, seed=0, until_s=2
    )

    assert len(due_s) == 10
    assert due_s[0] == 0
    assert due_s[1] == pytest.approx((2 * 1 / 5) ** 0.5)
