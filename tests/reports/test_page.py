"""The page of a drill as `failover` records it: its words, its picture, its markup and its colours."""

import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from failover import announced
from tests.failover import drills
from zaibei.config import load
from zaibei.evidence import Evidence, Kind, pack, verify
from zaibei.kernel.clock import SimClock
from zaibei.reports.drill import render
from zaibei.reports.words import WORDS

CHINESE = re.compile(r"[㐀-鿿]")
CSS = (files("zaibei.reports") / "templates/report.css").read_text()
Page = Callable[..., str]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of a drill, once for each way it is made."""
    made: dict[tuple[Any, ...], Any] = {}

    def of(
        lang: str = "en", spoil: Callable[[dict[str, Any]], None] | None = None, **how: Any
    ) -> str:
        key = (spoil, *sorted((k, str(v)) for k, v in how.items()))
        if key not in made:
            made[key] = _verified(tmp_path_factory.mktemp("page"), spoil, how)
        return render(made[key], lang)  # type: ignore[arg-type]

    return of


def _verified(
    root: Path, spoil: Callable[[dict[str, Any]], None] | None, how: dict[str, Any]
) -> Any:
    run = drills.run(root / "run", **how)
    ledger = root / "artefacts" / "ledger.jsonl"
    ledger.parent.mkdir()
    ledger.write_bytes(b"{}\n")
    _, told = drills.told(run)
    told["artefacts"] = [
        {"name": ledger.name, "sha256": hashlib.sha256(b"{}\n").hexdigest(), "size_bytes": 3}
    ]
    if spoil is not None:
        spoil(told)
    evidence = Evidence.open(root / "evidence", SimClock())
    intent = evidence.record(Kind.INTENT, announced.intent(run))
    entry = evidence.record(Kind.OUTCOME, told, subject=[ledger])
    found = verify(
        pack(
            evidence,
            entries=[intent.index, entry.index],
            artefacts_dir=ledger.parent,
            dest=root / "pack",
            title="drill",
        )
    )
    assert found.ok, found.problems
    return found


def text(html: str) -> str:
    """What a reader sees."""
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


FAILS: dict[str, Any] = {"traffic": {"outage": "judged"}, "length_s": 75.0}


@pytest.mark.parametrize("how", [{}, FAILS, {"lag_s": 0.4, "cpu": 97.0}])
def test_the_english_report_is_english_and_the_chinese_one_is_chinese(
    page: Page, how: dict[str, Any]
) -> None:
    english = text(page("en", **how)).replace("灾备", "")  # the product's name
    assert not CHINESE.search(english), CHINESE.search(english)
    chinese = text(page("zh", **how))
    sentences = re.findall(r"\b[a-z]{3,}(?: [a-z]{2,}){3,}", chinese)
    assert not sentences


@pytest.mark.attack
def test_citizens_who_were_never_served_stand_under_a_pass(page: Page) -> None:
    english, chinese = page("en"), page("zh")
    assert 'data-verdict="PASS"' in english
    assert re.search(r"\d+ of \d+ citizens \(\d+\.\d %\) were never served", text(english))
    assert re.search(r"\d+ 人中有 \d+ 人（\d+\.\d %）始终未得到服务", text(chinese))


def test_a_percentile_that_was_never_reached_is_never_and_not_unknown(page: Page) -> None:
    card = re.search(
        r"Latency under surge, p99.*?</div>\s*<div class=\"v\">(.*?)</div>", page("en"), re.DOTALL
    )
    assert card is not None
    assert "never" in card[1]
    assert "unknown" not in card[1]
    assert "从未得到服务" in page("zh")


def test_a_percentile_that_was_not_measured_is_unknown_and_not_never(page: Page) -> None:
    def served(told: dict[str, Any]) -> None:
        told["surge"] |= {"ok": told["surge"]["offered"], "p99_ms": None}

    card = re.search(
        r"Latency under surge, p99.*?</div>\s*<div class=\"v\">(.*?)</div>",
        page("en", served),
        re.DOTALL,
    )
    assert card is not None
    assert "unknown" in card[1]
    assert "never" not in card[1]


def test_a_valid_generator_is_not_shown_as_a_good_service(page: Page) -> None:
    failed = page("en", **FAILS)
    row = re.search(r"load generator</span></dt><dd>(.*?)</dd>", failed)
    assert row is not None
    assert text(row[1]).strip() == "valid measurement"
    assert "good" not in row[1], "no green tick"
    assert 'data-verdict="FAIL"' in failed
    assert "no judgement of the service" in failed


def test_the_service_is_shown_against_what_was_declared_of_it(page: Page) -> None:
    shown = text(page("en"))
    assert re.search(r"Service health-code share served ≥ 0.999", shown, re.IGNORECASE)
    assert re.search(r"Surge surge-during-failover share served ≥ 0.99", shown, re.IGNORECASE)
    assert re.search(r"share served ≥ 0.999 0\.\d{4} \d+ not met", text(page("en", **FAILS)))


def test_the_picture_shows_the_sites_of_the_evidence_and_no_others(
    page: Page, tmp_path: Path
) -> None:
    names = {"site-a": "east", "site-b": "west", "site-c": "hill", "city-1": "old-town"}
    text_of = (files("zaibei.config") / "templates/two-places-three-centres.yaml").read_text()
    for old, new in names.items():
        text_of = text_of.replace(old, new)
    file = tmp_path / "stack.yaml"
    file.write_text(text_of)
    shown = page("en", declared=load(file))
    picture = re.search(r'<figure class="topology">.*?</figure>', shown, re.DOTALL)
    assert picture is not None
    assert re.findall(r'<div class="name">(.*?)</div>', picture[0]) == ["east", "west", "hill"]
    assert "old-town" in picture[0]
    assert re.search(r'<div class="site down">\s*<div class="name">east<', picture[0])
    west = picture[0].split('class="name">west<')[1].split('class="name">')[0]
    assert "writer after" in west
    assert "site-a" not in shown


def test_evidence_that_does_not_record_the_sites_has_no_picture_and_says_so(page: Page) -> None:
    shown = page("en", lambda told: told.pop("topology"))
    assert "topology" not in re.sub(r"<style>.*?</style>", "", shown, flags=re.DOTALL)
    assert "does not record the sites, so no picture is drawn" in shown


def test_no_site_is_named_in_the_code_of_the_reports() -> None:
    for file in (Path(str(files("zaibei.reports")))).rglob("*"):
        if file.suffix in {".py", ".j2", ".css"}:
            assert "site-a" not in file.read_text(), file
    assert not [k for k in WORDS if k.startswith("site-")]


def test_the_report_names_what_was_declared_and_what_to_compare_on_paper(page: Page) -> None:
    shown = text(page("en"))
    for what in (
        "health_code: RTO ≤ 60",
        "demo-city",
        "service-slo",
        "To be signed",
        "Name Signature Date",
    ):
        assert what in shown, what
    assert re.search(r"sha256 of the declared stack [0-9a-f]{64}", shown)
    assert re.search(r"checkpoint \(write it down\) 2:[A-Za-z0-9+/]{43}=", shown)
    assert len(re.findall(r"\.pub [0-9a-f]{64}", shown)) >= 2


# -- markup ---------------------------------------------------------------------------------------


class Shape(HTMLParser):
    """Every table with what is in it, every svg with its title and description, every id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[dict[str, int]] = []
        self.svgs: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self._inside: list[str] = []
        self._th_without_scope = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if named.get("id"):
            self.ids.append(str(named["id"]))
        if tag == "table":
            self.tables.append({"caption": 0, "th": 0, "unscoped": 0, "thead": 0})
        elif tag == "svg":
            self.svgs.append(named | {"title": None, "desc": None})
        elif tag == "th":
            self.tables[-1]["th"] += 1
            self.tables[-1]["unscoped"] += named.get("scope") not in {"col", "row"}
        elif tag in {"caption", "thead"}:
            self.tables[-1][tag] += 1
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside and self._inside[-1] in {"title", "desc"} and "svg" in self._inside:
            self.svgs[-1][self._inside[-1]] = data


def test_every_table_has_a_caption_and_headers_with_a_scope(page: Page) -> None:
    tables = Shape(page("both")).tables
    assert len(tables) >= 8
    for table in tables:
        assert table["caption"] == 1, table
        assert table["thead"] == 1, table
        assert table["th"] > 1, table
        assert table["unscoped"] == 0, table


def test_every_drawing_has_a_title_a_description_and_its_data_as_a_table(page: Page) -> None:
    shape = Shape(page("both"))
    assert [s["class"] for s in shape.svgs] == ["chart wide", "chart narrow"]
    for svg in shape.svgs:
        assert svg["role"] == "img"
        assert svg["title"]
        assert "27.0" in str(svg["desc"]), "the description tells the figures, not only the subject"
        assert set(str(svg["aria-labelledby"]).split()) <= set(shape.ids)
    assert len(shape.ids) == len(set(shape.ids)), "an id names one element"
    rows = re.findall(r'<tr><th scope="row"><data value=', page("en"))
    assert len(rows) == 80, "a row a second"


def test_bars_are_told_apart_without_colour(page: Page) -> None:
    shown = page("en")
    for kind in ("fail", "info"):
        assert f'<pattern id="{kind}-wide"' in shown
    assert 'fill="url(#fail-wide)" d="M' in shown


def test_the_line_of_a_mark_crosses_no_legend(page: Page) -> None:
    for kind, svg in re.findall(r'<svg class="chart (\w+)"(.*?)</svg>', page("en"), re.DOTALL):
        keys = [
            float(y) for y in re.findall(r'<rect [^>]*y="([\d.]+)" width="12" height="12"', svg)
        ]
        assert keys
        for path in re.findall(r'<path class="mark \w+" d="([^"]+)"', svg):
            for begin, end in re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)", path):
                assert not [y for y in keys if float(begin) < y + 12 and y < float(end)], kind


def test_phases_follow_each_other_as_they_were_seen(page: Page) -> None:
    def promoted_before_elected(told: dict[str, Any]) -> None:
        told["phases_s"] = {"app": 1.0, "detect": 20.0, "elect": 2.0, "promote": 4.0}
        ends = {"detect": 20.0, "promote": 24.0, "elect": 26.0}
        for event in told["timeline"]:
            event["t_s"] = ends.get(event["kind"], event["t_s"])

    shown = page("en", promoted_before_elected)
    assert re.findall(r'<i style="flex:([\d.]+) ', shown) == ["20.0", "4.0", "2.0", "1.0"]


@pytest.mark.attack
def test_what_goes_into_the_style_sheet_is_a_plain_id(page: Page) -> None:
    assert f'content:"{drills.DRILL}"' in page("en")

    def inject(told: dict[str, Any]) -> None:
        told["title"] = {"zh": '"} body{display:none}', "en": "</style><script>"}

    assert "<script" not in page("en", inject)
    assert page("en", inject).count("</style>") == 1


# -- colours --------------------------------------------------------------------------------------


def palettes() -> dict[str, dict[str, str]]:
    light, dark = (
        dict(re.findall(r"--([a-z-]+):(#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    )
    assert light.keys() == dark.keys()
    return {"light": light, "dark": dark}


def contrast(one: str, other: str) -> float:
    """WCAG 2: (lighter + 0.05) / (darker + 0.05) of the relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


TEXTS = [
    *(
        (ink, on)
        for ink in ("ink", "soft", "accent", "good", "bad", "warn")
        for on in ("paper", "ground", "inset")
    ),
    ("on-accent", "accent"),
    ("on-verdict", "v-pass"),
    ("on-verdict", "v-fail"),
    ("on-verdict", "v-invalid"),
]
DRAWN = ["ok", "info", "fail", "surge", "line-dark", "line-alt", "axis", "good", "bad", "warn"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_and_graphics_are_seen(scheme: str) -> None:
    colours = palettes()[scheme]
    for ink, on in TEXTS:
        assert contrast(colours[ink], colours[on]) >= 4.5, (scheme, ink, on)
    for name in DRAWN:
        assert contrast(colours[name], colours["paper"]) >= 3, (scheme, name)


def test_no_colour_of_text_stands_outside_the_palette() -> None:
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert not re.findall(r"(?<![-\w])(?:color|fill):\s*#", rules)
