from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.data.numbers import (
    credit_code,
    identity_number,
    organisation_check,
    why_not_credit,
    why_not_identity,
)

areas = st.integers(990_000, 999_999)


@pytest.mark.parametrize("number", ["11010519491231002X", "440524188001010014"])
def test_the_examples_of_gb_11643_have_right_check_characters(number: str) -> None:
    assert why_not_identity(number) is None


def test_the_examples_of_gb_32100_and_gb_11714_have_right_check_characters() -> None:
    assert why_not_credit("91350100M000100Y43") is None
    assert organisation_check("D2143569") == "X"


@given(areas, st.dates(date(1900, 1, 1), date(2026, 1, 1)), st.integers(0, 999))
def test_an_identity_number_survives_its_own_check(area: int, born: date, sequence: int) -> None:
    number = identity_number(area=area, born=born, sequence=sequence)
    assert why_not_identity(number) is None
    assert number[0] == "9", "a citizen's number begins with 1 to 8"


@given(areas, st.dates(date(1900, 1, 1), date(2026, 1, 1)), st.integers(0, 16), st.integers(1, 9))
def test_one_wrong_digit_of_an_identity_number_is_found(
    area: int, born: date, place: int, off: int
) -> None:
    number = identity_number(area=area, born=born, sequence=7)
    wrong = str((int(number[place]) + off) % 10)
    reason = why_not_identity(number[:place] + wrong + number[place + 1 :])
    assert reason is not None
    assert reason.startswith("the check character")


@given(areas, st.dates(date(1900, 1, 1), date(2026, 1, 1)), st.integers(0, 15))
def test_two_swapped_neighbours_of_an_identity_number_are_found(
    area: int, born: date, place: int
) -> None:
    number = identity_number(area=area, born=born, sequence=123)
    swapped = number[:place] + number[place + 1] + number[place] + number[place + 2 :]
    assert (why_not_identity(swapped) is None) == (swapped == number)


@given(areas, st.integers(0, 99_999_999), st.integers(0, 16), st.sampled_from("0123456789ABCDEF"))
def test_one_wrong_character_of_a_credit_code_is_found(
    area: int, serial: int, place: int, other: str
) -> None:
    code = credit_code(area=area, serial=serial)
    assert why_not_credit(code) is None
    wrong = code[:place] + other + code[place + 1 :]
    assert (why_not_credit(wrong) is None) == (wrong == code)


@pytest.mark.parametrize(
    "text", ["", "11010519491231002", "1101051949123100２X", "9" * 18, "I" * 18]
)
def test_what_is_no_number_is_told_so_and_does_not_crash(text: str) -> None:
    assert why_not_identity(text) is not None
    assert why_not_credit(text) is not None
