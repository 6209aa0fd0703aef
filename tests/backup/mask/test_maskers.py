"""Values that once came out of masking as they went in: names of other scripts, addresses, lines with an extension."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.mask.characters import stand_ins, tells
from backup.mask.maskers import Forms, Found

KEY = bytes(range(32))
FORMS = Forms(KEY, Found(surnames=frozenset("王李甲")))


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("北京市朝阳区建国路88号阳光小区", "北京市朝阳区"),
        ("上海市浦东新区世纪大道100号 200120", "上海市浦东新区"),
        ("北京市朝阳区某路5号 13800138000", "北京市朝阳区"),
        ("江苏省苏州市工业园区星湖街328号创意产业园区", "江苏省苏州市"),
        ("广西南宁市青秀区新竹社区3号", "广西南宁市青秀区"),
        ("济南市市中区经七路1号", "济南市市中区"),
        ("青海省海南藏族自治州共和县恰卜恰镇", "青海省海南藏族自治州共和县"),
        ("三江侗族自治县古宜镇", "三江侗族自治县"),
        ("重庆市阳光小区朝阳区5号", "重庆市"),
        ("阳光小区3号", ""),
        ("王小明住在朝阳区", ""),
        ("朝阳区建国路88号", "朝阳区"),
        ("虚拟区990000人民路12号101室", "虚拟区"),
        ("서울특별시 강남구 7", ""),
    ],
)
def test_an_address_keeps_its_province_city_and_district_and_nothing_that_comes_after(
    address: str, kept: str
) -> None:
    masked = FORMS.address(address)
    assert masked.startswith(kept) and len(masked) == len(address)
    units = "路街巷道弄号室栋幢座楼层单元组村屯"
    rest = list(zip(address[len(kept) :], masked[len(kept) :], strict=True))
    assert rest
    for was, became in rest:
        assert was != became or was in units or not tells(was), (was, masked)
    assert Forms(KEY, Found()).address(address) == masked, "deterministic"


@pytest.mark.parametrize(
    "name",
    [
        "김철수",
        "Айгүль",
        "ئابلەت مەمەت",
        "བསྟན་འཛིན",
        "Ｚｈａｎｇ　Ｓａｎ",
        "ꆈꌠ",
        "José",
        "Jose\u0301",
        "王〇",
        "\ue000明",
        "豈",
        "II",
    ],
)
def test_no_letter_of_a_name_stays_whatever_its_script(name: str) -> None:
    masked, mailed = FORMS.name(name), FORMS.email(f"{name}@qq.com").partition("@")[0]
    assert len(masked) == len(mailed) == len(name)
    for was, became, shaped in zip(name, masked, mailed, strict=True):
        if tells(was):
            assert was != became, masked
            # A shape of ASCII is a permutation of all of them, and may leave one letter where it was.
            assert was != shaped or was.isascii(), mailed
            assert unicodedata.category(became)[0] in "LMNC"
        else:
            assert was == became == shaped, "what it is written with stays"
    assert FORMS.name(name) == Forms(KEY, Found(surnames=frozenset("王李甲"))).name(name)


def test_a_korean_surname_is_not_told_by_what_stands_in_for_it() -> None:
    firsts = {FORMS.name(f"김{second}")[0] for second in "철수영희민준"}
    assert len({ord(c) // 588 for c in firsts}) > 1, "not all beginning with the same sound"


@given(c=st.characters(exclude_categories=["Cs"]))
def test_every_letter_has_something_else_to_stand_in_for_it(c: str) -> None:
    others = stand_ins(c)
    assert c not in others
    if c.isalpha() or unicodedata.combining(c):
        assert others, f"U+{ord(c):04X}"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("02161234567-801", "021"),
        ("021-61234567-801", "021"),
        ("077156012345", "0771"),
        ("(0771) 5601234转8", "0771"),
        ("61234567-801", ""),
        ("02161234567", "021"),
    ],
)
def test_a_line_with_an_extension_is_another_line(line: str, code: str) -> None:
    masked = FORMS.phone(line)
    was, became = re.sub("[^0-9]", "", line), re.sub("[^0-9]", "", masked)
    assert became.startswith(code + "1") and len(became) == len(was)
    assert was[len(code) : len(code) + 7] != became[len(code) : len(code) + 7]
    assert re.sub("[0-9]", "0", masked) == re.sub("[0-9]", "0", line), "written as it was"


def test_whose_number_it_is_does_not_stay_beside_it() -> None:
    assert "王" not in FORMS.phone("13812345678 王阿姨") and "김" not in FORMS.phone("김철수")
    assert "王" not in FORMS.bank_card("6222020200112233445 王小明")
    assert FORMS.plate("김철수")[:2] != "김철" and FORMS.plate("桂A12345")[:2] == "桂A"
