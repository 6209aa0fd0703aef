import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.citizens import (
    Move,
    Outcome,
    Patience,
    People,
    luck_of,
    next_move,
    outcome_of,
)

patiences = st.builds(
    Patience,
    refresh_after_s=st.floats(0.1, 10),
    refreshes_max=st.integers(0, 8),
    pause_s=st.floats(0, 5),
    connect_timeout_s=st.floats(0.1, 5),
    obeys_retry_after=st.floats(0, 1),
)
PATIENT = Patience(refresh_after_s=3, refreshes_max=6, pause_s=1, connect_timeout_s=1)


@settings(deadline=None, max_examples=60)
@given(
    patiences,
    st.lists(st.sampled_from(Outcome), min_size=30, max_size=30),
    st.integers(1, 3),
    st.floats(-10, 1e6),
    st.integers(0, 1000),
)
def test_no_citizen_asks_more_often_or_stays_longer_than_its_patience(
    patience: Patience, fate: list[Outcome], doors: int, retry_after_s: float, seed: int
) -> None:
    luck, door, stayed_s = random.Random(seed), 0, 0.0
    for asked, outcome in enumerate(fate, start=1):
        stayed_s += patience.refresh_after_s  # an attempt never takes longer
        move = next_move(
            patience,
            outcome=outcome,
            asked=asked,
            door=door,
            doors=doors,
            luck=luck,
            retry_after_s=retry_after_s,
        )
        if move is None:
            break
        assert move.after_s >= 0
        assert 0 <= move.door < doors
        door, stayed_s = move.door, stayed_s + move.after_s

    assert asked <= patience.refreshes_max + 1
    assert stayed_s <= patience.longest_s + 1e-9


def _after(outcome: Outcome, *, asked: int = 1, doors: int = 2, **more: float) -> Move | None:
    return next_move(
        PATIENT,
        outcome=outcome,
        asked=asked,
        door=0,
        doors=doors,
        luck=random.Random(1),
        **more,
    )


def test_a_served_citizen_asks_no_more() -> None:
    assert _after(Outcome.OK) is None


def test_asking_again_after_not_found_would_not_help() -> None:
    assert _after(Outcome.WRONG) is None


def test_a_door_that_does_not_open_sends_the_citizen_to_the_other_at_once() -> None:
    assert _after(Outcome.UNREACHABLE) == Move(after_s=0, door=1)
    assert _after(Outcome.ERROR) == Move(after_s=0, door=1)


def test_when_every_door_has_been_tried_the_citizen_pauses() -> None:
    move = _after(Outcome.UNREACHABLE, asked=2)

    assert move is not None
    assert 0.5 <= move.after_s <= 1.5


def test_silence_is_answered_by_a_refresh_at_the_other_door() -> None:
    assert _after(Outcome.TIMEOUT) == Move(after_s=0, door=1)


def test_a_rejected_citizen_pauses_and_tries_the_other_door() -> None:
    move = _after(Outcome.REJECTED, retry_after_s=20)

    assert move is not None
    assert move.door == 1
    assert move.after_s <= 1.5  # this crowd does not obey Retry-After


def test_a_balancer_without_a_service_is_an_error_and_not_a_protection() -> None:
    assert outcome_of(503, ok=(200,), retry_after=False) is Outcome.ERROR
    assert outcome_of(503, ok=(200,), retry_after=True) is Outcome.REJECTED
    assert outcome_of(429, ok=(200,), retry_after=False) is Outcome.REJECTED
    assert outcome_of(302, ok=(200,), retry_after=False) is Outcome.WRONG


def test_a_few_persons_are_asked_for_all_the_time() -> None:
    people = People(count=1000, exponent=1.0, pattern="P{index:04d}")
    asked = Counter(people.draw(luck_of(0, i)) for i in range(20_000))
    share = asked["P0000"] / 20_000
    truth = 1 / sum(1 / k for k in range(1, 1001))  # 0.1336

    assert abs(share - truth) < 5 * (truth * (1 - truth) / 20_000) ** 0.5
    assert set(asked) <= {f"P{i:04d}" for i in range(1000)}
    assert asked["P0000"] > asked["P0009"] > asked["P0499"]


def test_a_citizen_is_the_same_whoever_plays_it() -> None:
    people = People(count=1000, exponent=1.0, pattern="{index}")

    assert people.draw(luck_of(7, 42)) == people.draw(luck_of(7, 42))
    assert len({people.draw(luck_of(7, i)) for i in range(100)}) > 10
