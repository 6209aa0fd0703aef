import dataclasses
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from zaibei.evidence import verify
from zaibei.kernel.errors import Damage, Usage
from zaibei.reports import drill_report
from zaibei.reports.drill import render
from zaibei.reports.words import WORDS

Packed = Callable[..., Path]


def html(pack: Path, lang: str = "both") -> str:
    return render(verify(pack), lang)  # type: ignore[arg-type]


def banner(page: str) -> str:
    found = re.search(r'data-verdict="(\w+)"', page)
    assert found is not None
    return found[1]


def test_a_report_stands_alone_in_one_file(packed: Packed, tmp_path: Path) -> None:
    page = drill_report(packed(), tmp_path / "r.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page), "nothing is fetched"
    assert "<script" not in page
    assert "@import" not in page
    assert "url(http" not in page
    assert banner(page) == "PASS"


def test_a_pack_that_does_not_verify_has_no_report(packed: Packed, tmp_path: Path) -> None:
    made = packed()
    statement = made / "runs/000002-drill/statement.json"
    statement.write_bytes(statement.read_bytes().replace(b'"lost":0', b'"lost":1', 1))
    with pytest.raises(Damage, match="does not verify"):
        drill_report(made, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_pack_of_other_keys_has_no_report(packed: Packed, tmp_path: Path) -> None:
    with pytest.raises(Damage, match="another fingerprint"):
        drill_report(packed(), tmp_path / "r.html", trusted_fingerprints=["00" * 32])


def test_every_measured_number_names_its_entry_and_its_place(packed: Packed) -> None:
    made = packed()
    predicate: Any = verify(made).entries[-1].statement.predicate
    measured = re.findall(r'<data class="m" value="([^"]+)" data-evidence="2:([^"]+)"', html(made))
    assert len(measured) > 40
    for value, path in measured:
        found = predicate
        for part in path.split("."):
            found = found[int(part)] if isinstance(found, list) else found[part]
        assert float(value) == float(found), path


def test_what_was_not_measured_is_unknown_and_never_zero(packed: Packed) -> None:
    def forget(told: dict[str, Any]) -> None:
        for key in (
            "info",
            "phantoms",
            "surge",
            "backup",
            "failback",
            "series",
            "environment",
            "phases_s",
            "timeline",
        ):
            del told[key]

    page = html(packed(forget), "en")
    cards = re.findall(
        r'<div class="n">.*?>([^<]+)</span></div>\s*<div class="v">(.*?)</div>', page
    )
    by_name = {name: "unknown" in value for name, value in cards}
    assert by_name["Latency under surge, p99"]
    assert by_name["Writes of unknown fate"]
    assert not by_name["RTO, first answer"]
    assert "nothing is drawn" in page
    assert ">0<" not in re.sub(r"<data.*?</data>", "", page)


def test_an_outcome_of_next_to_nothing_is_still_a_report(packed: Packed) -> None:
    def forget(told: dict[str, Any]) -> None:
        kept = told["drill_id"]
        told.clear()
        told["drill_id"] = kept

    assert banner(html(packed(forget))) == "UNKNOWN"


@pytest.mark.parametrize("verdict", ["FAIL", "INVALID"])
def test_the_banner_says_what_the_evidence_says(packed: Packed, verdict: str) -> None:
    page = html(
        packed(lambda told: told.update(verdict=verdict, reasons=["rto_first_s 7.2 > 5"])), "en"
    )
    assert banner(page) == verdict
    assert "rto_first_s 7.2 &gt; 5" in page


def _control(told: dict[str, Any]) -> None:
    told["negative_control"]["condemned"] = False


def _not_run(told: dict[str, Any]) -> None:
    told["checks"][1] |= {"ran": False, "passed": None}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda told: told.update(lost=1), "acknowledged writes were lost"),
        (lambda told: told.update(lost=None), "was not measured"),
        (lambda told: told.update(rto_stable_s=9.0), "over the objective"),
        (lambda told: told.update(phantoms=2), "nobody made"),
        (_control, "negative control"),
        (_not_run, "did not run: takeover"),
        (lambda told: told.update(checks=[]), "required check is absent: failback"),
        (lambda told: told.pop("checks"), "required check is absent: failback"),
        (lambda told: told.update(checks=told["checks"][:1]), "required check is absent: failback"),
        (lambda told: told.pop("required"), "list of required checks is absent"),
        (lambda told: told.update(required=["failback"]), "list of required checks is absent"),
        (lambda told: told["required"].append("another"), "required is not what was announced"),
        (lambda told: told.update(artefacts=[]), "not those it was signed with"),
        (lambda told: told["objective"].update(rto_s=None), "no objective for time"),
        (lambda told: told["objective"].update(rpo_s=None), "no objective for loss"),
        (
            lambda told: told.update(objective={"rto_s": 5, "rpo_s": 3600}, lost=10**6),
            "for how long",
        ),
        (lambda told: told.update(acked=0), "no write was acknowledged"),
        (lambda told: told.update(epoch_overlap=3), "split brain"),
        (lambda told: told.pop("rto_first_s"), "rto_first_s was not measured"),
    ],
)
def test_a_pass_that_its_own_data_deny_is_not_repeated(
    packed: Packed, spoil: Callable[[dict[str, Any]], None], reason: str
) -> None:
    page = html(packed(spoil), "en")
    assert banner(page) == "INVALID"
    assert reason in page
    assert "means_" not in page


def test_one_language_has_no_word_of_the_other_and_both_have_a_switch(packed: Packed) -> None:
    made = packed()
    english, chinese, two = html(made, "en"), html(made, "zh"), html(made, "both")
    assert 'lang="zh-CN"' not in english
    assert 'class="en' not in chinese
    assert 'type="radio"' in two
    assert 'type="radio"' not in english
    assert two.count('class="zh"') == two.count('class="en"')


def test_text_from_the_evidence_cannot_become_markup(packed: Packed) -> None:
    def inject(told: dict[str, Any]) -> None:
        told["title"] = told["reasons"][0] = "<script>alert(1)</script>"
        told["fault"]["kind"] = told["writer"]["after"]["epoch"] = "</svg><img src=x>"

    page = html(packed(inject))
    assert "<script" not in page
    assert "<img" not in page


def test_the_page_is_well_formed(packed: Packed) -> None:
    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in {"meta", "input", "br"}:
                self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None: ...

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    reader = Balance()
    reader.feed(html(packed()))
    assert reader.open == []


def test_a_gap_in_the_series_is_a_gap_in_the_line(packed: Packed) -> None:
    page = html(packed())
    line = re.search(r'class="line p99" d="(M[^"]+L[^"]+)"', page)
    assert line is not None
    assert line[1].count("M") == 2, "two seconds without an answer break the line once"


def test_a_pack_without_an_outcome_has_no_drill_report(packed: Packed) -> None:
    found = verify(packed())
    only_intent = dataclasses.replace(found, entries=found.entries[:1])
    with pytest.raises(Usage, match="one outcome"):
        render(only_intent)


def test_the_report_claims_no_conformity() -> None:
    said = " ".join(text for pair in WORDS.values() for text in pair).lower()
    assert "合规" not in said
    assert "complian" not in said


@pytest.mark.attack
@pytest.mark.parametrize(
    "odd",
    [
        {"checks": [{"name": ["x"], "title": {"zh": 1, "en": "<i>"}, "ran": "yes", "passed": []}]},
        {"series": {"bin_s": 1e-300, "t0_s": 1e300, "ok": [1]}},
        {"series": {"bin_s": 1, "t0_s": -1e300, "ok": [1] * 5}},
        {"series": {"bin_s": 1e300, "t0_s": 0, "ok": [1] * 5}},
        {
            "series": {
                "bin_s": 1,
                "t0_s": 0,
                "ok": [1e308, 1e308],
                "p99_ms": [1e308],
                "p50_ms": [-1],
            }
        },
        {"phases_s": {"detect": 1e308, "<b>": "x"}},
        {"topology": {"sites": [{"name": "z", "city": {}, "role": []}], "entry": [{}]}},
    ],
    ids=lambda odd: str(odd)[:40],
)
def test_signed_values_of_odd_forms_make_a_report_and_no_crash(
    packed: Packed, odd: dict[str, Any]
) -> None:
    page = html(packed(lambda told: told.update(odd)))
    assert not re.search(r'="(?:nan|-?inf)[" ]', page), "no drawing has a place that is no number"
    assert banner(page) in {"PASS", "INVALID"}
