"""Masking of values: the form stays, the value does not, the same comes out the same, and no two meet."""

import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from backup.format.snapshot import Content, Snapshot
from backup.mask import authorisation
from backup.mask.leak_check import Originals, in_files, survivors
from backup.mask.maskers import CREDIT_ALPHABET, Forms, Found, fold, luhn, mobile, regions
from backup.mask.permutation import permute
from backup.mask.policy import RULES, Column, Treatment, decide, parse
from infra.data.numbers import (
    credit_check,
    identity_check,
    organisation_check,
    why_not_credit,
    why_not_identity,
)
from zaibei.evidence import dsse, keys, statement
from zaibei.kernel.errors import Refused, Usage

KEY = bytes(range(32))
AREAS = ("110101", "450102", "990000", "990007")
FORMS = Forms(KEY, Found(areas=frozenset(AREAS), surnames=frozenset("王李甲")))


@st.composite
def identities(draw: st.DrawFn) -> str:
    born = draw(st.dates(date(1900, 1, 1), date(2025, 12, 31)))
    first = f"{draw(st.sampled_from(AREAS))}{born:%Y%m%d}{draw(st.integers(0, 999)):03d}"
    return first + identity_check(first)


@st.composite
def credits_(draw: st.DrawFn) -> str:
    body = draw(st.text(CREDIT_ALPHABET, min_size=8, max_size=8))
    first = f"91{draw(st.sampled_from(AREAS))}{body}{organisation_check(body)}"
    return first + credit_check(first)


@given(among=st.integers(1, 300), tweak=st.text(max_size=3))
def test_a_shuffle_gives_every_place_once(among: int, tweak: str) -> None:
    places = [permute(KEY, n, among=among, tweak=tweak) for n in range(among)]
    assert sorted(places) == list(range(among))


@given(number=identities())
def test_a_masked_identity_number_is_right_and_nobodys(number: str) -> None:
    masked = FORMS.identity(number)
    assert why_not_identity(masked) is None
    assert masked[:6].startswith("99") and masked[:6] not in AREAS
    assert (masked[6:10], int(masked[16]) % 2) == (number[6:10], int(number[16]) % 2)
    assert FORMS.born(number) == f"{masked[6:10]}-{masked[10:12]}-{masked[12:14]}"
    assert Forms(KEY, Found(areas=frozenset(AREAS))).identity(number) == masked, "deterministic"


def test_no_two_people_of_one_area_and_year_become_one() -> None:
    """365 days by 1000 sequences: all of the days of one year, a twentieth of the sequences."""
    first = date(1990, 1, 1)
    firsts = [
        f"450102{first + timedelta(days=d):%Y%m%d}{s:03d}"
        for d in range(365)
        for s in range(0, 100, 2)
    ]
    assert len({FORMS.identity(f + identity_check(f)) for f in firsts}) == len(firsts)


@given(number=identities())
def test_the_old_form_and_the_new_one_of_a_person_stay_the_same_person(number: str) -> None:
    if number[6:8] != "19":
        return
    masked = FORMS.identity(number[:6] + number[8:17])
    assert masked == (m := FORMS.identity(number))[:6] + m[8:17]


@given(code=credits_())
def test_a_masked_credit_code_has_both_check_characters_right(code: str) -> None:
    masked = FORMS.credit(code)
    assert why_not_credit(masked) is None
    assert masked[:2] == "91" and masked[2:8] not in AREAS


@given(value=st.text(alphabet="0123456789Xx", min_size=1, max_size=20))
def test_what_is_no_identity_number_becomes_none(value: str) -> None:
    if why_not_identity(value.upper()) is not None:
        assert why_not_identity(FORMS.identity(value).upper()) is not None


@given(name=st.text(alphabet="王李甲欧阳司马小明思远阿·abcXYZ ", min_size=1, max_size=8))
def test_a_masked_name_is_as_long_and_begins_with_a_surname_that_nobody_has(name: str) -> None:
    masked = FORMS.name(name)
    assert len(masked) == len(name)
    assert FORMS.name(name) == masked
    if name[0] in "王李甲欧阳司马小明思远阿":
        assert masked[0] not in "王李甲" and masked != name


def test_a_family_keeps_one_surname() -> None:
    assert FORMS.name("王小明")[0] == FORMS.name("王思远")[0]
    assert FORMS.name("欧阳明")[:2] == FORMS.name("欧阳思远")[:2]


@given(digits=st.from_regex(r"1[3-9][0-9]{9}", fullmatch=True))
def test_a_masked_mobile_number_has_no_subscriber_and_is_written_as_it_was(digits: str) -> None:
    masked = FORMS.phone(digits)
    assert len(masked) == 11 and masked[0] == "1" and masked[1] in "012"
    spaced = f"+86 {digits[:3]}-{digits[3:7]}-{digits[7:]}"
    again = FORMS.phone(spaced)
    assert again == f"+86 {masked[:3]}-{masked[3:7]}-{masked[7:]}"
    assert mobile(spaced) == digits and mobile(again) is None


@given(value=st.from_regex(r"0[0-9]{2,3}-[2-8][0-9]{6,7}", fullmatch=True))
def test_a_line_keeps_its_area_code(value: str) -> None:
    masked = FORMS.phone(value)
    head, _, local = masked.partition("-")
    assert head == value.partition("-")[0] and len(masked) == len(value) and local[0] == "1"


def test_full_width_digits_are_the_same_number() -> None:
    assert fold("１３８ａＢ-王٣") == "138aB-王3"
    assert fold("plain") == "plain"


@given(digits=st.from_regex(r"6[0-9]{15,18}", fullmatch=True))
def test_a_masked_card_is_right_by_luhn(digits: str) -> None:
    masked = FORMS.bank_card(digits)
    assert len(masked) == len(digits) and masked[0] == "9" and luhn(masked[:-1]) == masked[-1]


def test_an_address_keeps_its_district_and_loses_road_and_door() -> None:
    masked = FORMS.address("广西南宁市青秀区民族大道10号2栋1801室")
    assert masked.startswith("广西南宁市青秀区") and "民族" not in masked
    assert (
        masked.endswith("室")
        and "栋" in masked
        and len(masked) == len("广西南宁市青秀区民族大道10号2栋1801室")
    )
    assert "0" not in FORMS.address("虚拟区990000人民路12号101室").removeprefix("虚拟区990000")


@given(values=st.sets(st.text(max_size=40, alphabet="abcXYZIO0123-_@ "), max_size=20))
def test_shapes_stay_and_different_ones_stay_different(values: set[str]) -> None:
    masked = {v: FORMS.shape(v) for v in values}
    assert len(set(masked.values())) == len(values)
    for value, moved in masked.items():
        assert [c.isdigit() for c in value] == [c.isdigit() for c in moved]
        assert [c.isupper() for c in value] == [c.isupper() for c in moved]


@given(a=st.binary(min_size=8, max_size=200), b=st.binary(min_size=8, max_size=200))
def test_a_biometric_becomes_a_digest_as_long_as_it_was(a: bytes, b: bytes) -> None:
    assert len(FORMS.biometric(a)) == len(a)
    assert FORMS.biometric(a) != a
    assert (FORMS.biometric(a) == FORMS.biometric(b)) == (a == b)
    assert Forms(KEY[::-1], Found()).biometric(a) != FORMS.biometric(a)


@settings(max_examples=20)
@given(seed=st.integers(), count=st.integers(1, 4000))
def test_areas_go_to_free_ones_and_never_two_to_one(seed: int, count: int) -> None:
    rng = random.Random(seed)
    areas = {f"{rng.randrange(989_000, 1_000_000)}" for _ in range(count)}
    out = regions(areas, KEY)
    assert set(out) == areas and len(set(out.values())) == len(areas)
    assert not areas & set(out.values())
    assert all(a.startswith(("99", "0")) for a in out.values())


def test_more_areas_than_there_are_free_ones_is_refused() -> None:
    with pytest.raises(Refused, match="more than there are unassigned ones"):
        regions((f"{n:06d}" for n in range(100_000, 200_001)), KEY)


def held(kind: str = "postgres") -> Snapshot:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    content = Content(
        kind=kind,
        label="",
        host="h",
        started=at,
        finished=at,
        tree=(),
        entries=0,
        size_bytes=0,
        complete=True,
    )
    return Snapshot(sequence=3, digest="ab", previous="", content=content)


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
OURS = ec.generate_private_key(ec.SECP256R1())


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def leave(one: Snapshot, *, until: timedelta = timedelta(hours=1)) -> bytes:
    return authorisation.sign(
        one,
        repository=b"r",
        tables=["population.public.person"],
        person="p",
        purpose="w",
        since=NOW,
        until=NOW + until,
        key=OURS,
    )


def test_leave_holds_for_its_snapshot_its_time_and_its_signer_alone() -> None:
    one = held()

    def ask(envelope: bytes, **other: Any) -> authorisation.Authorisation:
        return authorisation.checked(
            envelope,
            other.get("snapshot", one),
            repository=other.get("repository", b"r"),
            trusted=other.get("trusted", [pem(OURS)]),
            now=other.get("now", NOW),
        )

    good = leave(one)
    assert ask(good).tables == ("population.public.person",)
    assert (
        ask(good, trusted=[pem(ec.generate_private_key(ec.SECP256R1())), pem(OURS)]).person == "p"
    )
    stranger = [pem(ec.generate_private_key(ec.SECP256R1()))]
    for why, other in (
        ("ended at", {"now": NOW + timedelta(hours=1)}),
        ("begins at", {"now": NOW - timedelta(seconds=1)}),
        ("snapshot 3, this is snapshot 4", {"snapshot": replace(one, sequence=4)}),
        ("snapshot 3", {"snapshot": replace(one, digest="cd")}),
        ("another repository", {"repository": b"x"}),
        ("nobody is trusted", {"trusted": []}),
        ("signed by key", {"trusted": stranger}),
    ):
        with pytest.raises(Refused, match=why):
            ask(good, **other)


@settings(max_examples=60)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_changed_bit_of_an_authorisation_is_leave(at: int, bit: int) -> None:
    good = leave(held())
    spoilt = bytearray(good)
    spoilt[at % len(good)] ^= 1 << bit
    with pytest.raises(Refused):
        authorisation.checked(bytes(spoilt), held(), repository=b"r", trusted=[pem(OURS)], now=NOW)


def test_another_statement_of_the_same_signer_is_no_authorisation() -> None:
    other = dsse.seal(
        statement.encode("urn:zaibei:restore/v1", {"tables": ["*"]}),
        key=OURS,
        keyid=keys.fingerprint(pem(OURS)),
    )
    with pytest.raises(Refused, match="not an authorisation"):
        authorisation.checked(other, held(), repository=b"r", trusted=[pem(OURS)], now=NOW)


def col(
    path: str, *, category: str = "S", personal: bool | None = True, type_: str = "text"
) -> Column:
    database, schema, table, name = path.split(".")
    return Column(
        database=database,
        schema=schema,
        table=table,
        name=name,
        category=category,
        type=type_,
        personal=personal,
    )


def test_what_nobody_classified_is_never_let_through() -> None:
    columns = [
        col("crm.public.customer.nickname"),
        col("crm.public.customer.note", personal=None),
        col("crm.public.customer.face_template", category="U"),
        col("crm.public.customer.visits", category="N", type_="integer"),
        col("crm.public.product.title", personal=False),
        col("crm.public.customer.mobile"),
    ]
    found = decide(columns, RULES)
    assert [c.name for c in found.unclassified] == ["nickname", "note"]
    assert {c.name: r.treat for c, r in found.treated.items()} == {
        "face_template": Treatment.BIOMETRIC,
        "visits": Treatment.PLAIN,
        "title": Treatment.PLAIN,
        "mobile": Treatment.PHONE,
    }


@pytest.mark.parametrize(
    ("category", "type_"),
    [
        ("N", "bigint"),
        ("N", "numeric"),
        ("N", "numeric(18,2)"),
        ("N", "numeric(11,0)"),
        ("N", "double precision"),
        ("N", "money"),
        ("N", "public.telephone"),
        ("D", "date"),
        ("D", "timestamp(3) without time zone"),
        ("D", "timestamp with time zone"),
        ("R", "daterange"),
        ("R", "int8range"),
    ],
)
def test_a_number_as_wide_as_a_telephones_or_a_date_is_not_harmless_for_being_no_text(
    category: str, type_: str
) -> None:
    there = col("crm.public.customer.contact", category=category, type_=type_)
    assert decide([there], RULES).unclassified == (there,)
    assert decide([replace(there, personal=None)], RULES).unclassified
    assert not decide([replace(there, personal=False)], RULES).unclassified
    mine = parse([{"column": "crm.*.customer.contact", "treat": "plain"}])
    assert not decide([there], (*mine, *RULES)).unclassified


@pytest.mark.parametrize(
    ("category", "type_"),
    [
        ("N", "smallint"),
        ("N", "integer"),
        ("N", "real"),
        ("N", "numeric(9,6)"),
        ("N", "numeric(12,2)"),
        ("B", "boolean"),
        ("E", "public.colour"),
        ("D", "time without time zone"),
        ("D", "time(3) without time zone"),
        ("R", "int4range"),
        ("T", "interval day to second"),
    ],
)
def test_what_no_telephone_and_no_date_fits_into_needs_no_rule(category: str, type_: str) -> None:
    there = col("crm.public.customer.order_id", category=category, type_=type_)
    assert not decide([there], RULES).unclassified


def test_leave_for_everything_is_not_leave_for_biometrics() -> None:
    columns = [col("population.public.biometric.sealed"), col("population.public.person.name")]
    found = decide(columns, RULES, released=["*"])
    assert [r.treat for r in found.treated.values()] == [Treatment.BIOMETRIC, Treatment.PLAIN]


def test_rules_of_ones_own_come_first_and_have_a_form() -> None:
    mine = parse([{"column": "crm.*.customer.nickname", "treat": "name"}])
    assert not decide([col("crm.public.customer.nickname")], (*mine, *RULES)).unclassified
    for wrong in (
        {},
        [{"column": "a"}],
        [{"column": "a", "treat": "x"}],
        [{"column": "a", "treat": "born"}],
        [{"column": "a", "treat": "name", "so": "1"}],
    ):
        with pytest.raises(Usage):
            parse(wrong)


def test_originals_are_found_in_rows_json_and_bytes_and_nothing_else_is(tmp_path: Path) -> None:
    number = "450102199003070013"
    number = number[:17] + identity_check(number[:17])
    known = Originals(KEY)
    known.number(number)
    known.number("+86 138-1234-5678")
    known.name("欧阳明")
    known.settle()
    assert len(known) == 3

    for text in (
        f'(1,"{{""id"": ""{number}""}}")',
        "(13812345678)",
        "(a,欧阳明,b)",
        "电话:１３８１２３４５６７８",
    ):
        assert survivors([text], known, where="t"), text
    for text in ("(1381234567)", "(欧阳明明)", f"(1{number})", "", "(990001199003070011)"):
        assert survivors([text], known, where="t") == [], text
    (tmp_path / "page").write_bytes(b"\0\x27" + number.encode() + b"7\x17" + b"x" * 50)
    (tmp_path / "empty").touch()
    edge = (4 << 20) - 9  # over the edge of what is read at once
    (tmp_path / "large").write_bytes(bytes(edge) + number.encode() + bytes(100))
    (tmp_path / "other").write_bytes(b"450102199003070013" * 3 + b"\xff1381234567")
    assert [s.where for s in in_files(tmp_path, known)] == ["large", "page"]
