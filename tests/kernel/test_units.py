"""Durations and sizes: what is said reads back as what was meant."""

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zaibei.kernel.errors import Usage
from zaibei.kernel.units import duration, say_bytes, say_duration, size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("1.5h", 5400),
        ("2 d", 172_800),
        ("200ms", 0.2),
        (" 35d ", 3_024_000),
        ("1w", 604_800),
        ("15min", 900),
        ("0s", 0),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    ["", "30", "s", "-5s", "5 minutes", "5m", "5S", "1e3s", "1,5h", "5s5s", "nan s", "½h"],
)
def test_what_has_no_unit_that_is_known_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(Usage) as caught:
        duration(text)
    assert "ms, s, min, h, d, w" in caught.value.hints[0]


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36_525)))
@example(timedelta(0))
@example(timedelta(seconds=90))
@example(timedelta(seconds=1_234_567))  # seven figures
@example(timedelta(microseconds=1))
@example(timedelta(days=36_524, microseconds=999_999))
def test_every_duration_said_and_read_again_is_the_same(value: timedelta) -> None:
    said = say_duration(value)
    assert duration(said) == value
    assert "e" not in said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (timedelta(0), "0s"),
        (timedelta(hours=1.5), "90min"),
        (timedelta(seconds=1.5), "1.5s"),
        (timedelta(milliseconds=200), "200ms"),
        (timedelta(seconds=1_234_567), "1234567s"),
        (timedelta(microseconds=1), "0.001ms"),
        (timedelta(seconds=-5), "-5s"),
    ],
)
def test_durations_for_people(value: timedelta, said: str) -> None:
    assert say_duration(value) == said


@pytest.mark.parametrize("text", ["36526d", "99999999999999999999w", f"{'9' * 400}ms"])
def test_an_absurd_duration_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="longer than a century") as caught:
        duration(text)
    assert len(caught.value.message) < 100


def test_an_absurd_size_is_refused() -> None:
    with pytest.raises(Usage, match="is more than"):
        size_bytes(f"{'9' * 400}PiB")


@given(n=st.integers(1, 500), unit=st.sampled_from(["min", "h", "d", "w"]))
def test_what_a_person_writes_reads_back_as_the_same_time(n: int, unit: str) -> None:
    value = duration(f"{n}{unit}")
    assert duration(say_duration(value)) == value


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1B", 1),
        ("4KiB", 4096),
        ("16 MiB", 16 << 20),
        ("1.5GiB", 3 << 29),
        ("2TiB", 2 << 40),
        ("50PiB", 50 << 50),
    ],
)
def test_a_size_is_binary(text: str, count: int) -> None:
    assert size_bytes(text) == count


@pytest.mark.parametrize("text", ["1KB", "1 MB", "1", "-1B", "GiB", "1mib"])
def test_decimal_units_are_refused_because_a_disk_and_a_quota_must_agree(text: str) -> None:
    with pytest.raises(Usage) as caught:
        size_bytes(text)
    assert "KiB" in caught.value.hints[0]


@given(n=st.integers(0, 1023), unit=st.sampled_from(["B", "KiB", "MiB", "GiB", "TiB", "PiB"]))
def test_whole_sizes_said_and_read_again_are_the_same(n: int, unit: str) -> None:
    value = size_bytes(f"{n}{unit}")
    assert size_bytes(say_bytes(value)) == value


@given(st.integers(0, 1 << 60))
@example(1000)
@example(1023)
@example(1000 << 10)
@example(1023 << 40)
@example((1 << 20) - 1)
def test_a_said_size_is_right_to_three_figures_and_has_no_exponent(value: int) -> None:
    assert "e" not in say_bytes(value)
    assert abs(size_bytes(say_bytes(value)) - value) <= value * 0.005 + 1


def test_sizes_for_people() -> None:
    assert [say_bytes(n) for n in (0, 999, 1023, 1024, (1 << 20) - 1, 1_400_000_000)] == [
        "0 B",
        "999 B",
        "1023 B",
        "1 KiB",
        "1 MiB",
        "1.3 GiB",
    ]
