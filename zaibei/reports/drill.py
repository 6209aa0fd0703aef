"""The report of one drill: a single HTML file for an auditor and a commander, made from a verified pack.

A pack that does not verify has no report. Nothing is fetched, nothing is run: the file reads the same in
ten years on a machine without a network.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from zaibei.evidence import Findings, Kind, verify
from zaibei.evidence.packing import run_id
from zaibei.kernel.errors import Damage, Usage
from zaibei.kernel.state import write_atomic
from zaibei.reports import charts, facts, topology
from zaibei.reports.facts import Facts
from zaibei.reports.marks import HTML_LANG, Marks
from zaibei.reports.words import word

Language = Literal["zh", "en", "both"]
VERDICTS = ("PASS", "FAIL", "INVALID")
TABLE_MAX = 900  # seconds written out below the chart; a longer series is in the ledger
_SERIES = ("ok", "info", "fail", "p50_ms", "p99_ms", "surge_offered", "surge_ok")
_DRILL_ID = re.compile(r"[A-Za-z0-9-]{1,60}")


def drill_report(
    pack: Path,
    dest: Path,
    lang: Language = "both",
    *,
    trusted_fingerprints: Collection[str] | None = None,
) -> Path:
    """Write the report of the one drill in `pack` to `dest`.

    Raises Damage when the pack does not verify, Usage when it holds no outcome, or several.
    """
    found = verify(pack, trusted_fingerprints=trusted_fingerprints)
    if not found.ok:
        raise Damage(
            f"no report from a pack that does not verify: {found.problems[0]}",
            hint=f"zaibei evidence verify {pack}",
        )
    write_atomic(dest, render(found, lang))
    return dest


def render(found: Findings, lang: Language = "both") -> str:
    """The HTML. Reads nothing but what was verified."""
    assert found.ok, "a report is made from verified entries only"
    outcomes = [e for e in found.entries if e.statement.predicate_type == Kind.OUTCOME]
    if len(outcomes) != 1:
        raise Usage(
            f"a drill report needs one outcome; this pack has {len(outcomes)}",
            hint="zaibei evidence pack INDEX --to ... with the index of one outcome",
        )
    held = Facts(entry=outcomes[0])
    languages = ("zh", "en") if lang == "both" else (lang,)
    marks = Marks(facts=held, languages=languages)
    recorded = held.text("verdict")
    drill = next(d for d in found.roll.drills if d.drill_id == held.entry.statement.drill_id)
    denied = drill.denied
    verdict = recorded if recorded in VERDICTS else "UNKNOWN"
    drill_id = held.text("drill_id") or ""
    page = Environment(
        loader=PackageLoader("zaibei.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("drill.html.j2")
    return page.render(
        k=marks,
        f=held,
        found=found,
        languages=languages,
        html_lang=HTML_LANG[languages[0]],
        verdict="INVALID" if denied else verdict,
        recorded=recorded,
        denied=denied,
        title=held.named("title"),
        figures=_figures(held),
        topology=topology.picture(held),
        wide=charts.timeline(marks, charts.WIDE),
        narrow=charts.timeline(marks, charts.NARROW),
        described=charts.described(marks),
        seconds=_seconds(held),
        series=_SERIES,
        phases=list(charts.phases(held)),
        checks=_checks(held),
        both=facts.both,
        word=word,
        run_id=run_id,
        # What goes into a style sheet is not escaped: anything but a plain id is left out.
        footer=drill_id if _DRILL_ID.fullmatch(drill_id) else "",
        short=lambda e: e.statement.predicate_type.removeprefix("urn:zaibei:").partition("/")[0],
    )


def _figures(held: Facts) -> list[dict[str, object]]:
    """The cards: name, path, unit, path of what it is measured against, and whether it was met."""
    rto = "objective.rto_s"

    def card(
        name: str, path: str, unit: str = "", *, goal: str | None = None, met: bool | None = None
    ) -> dict[str, object]:
        return {"name": name, "path": path, "unit": unit, "goal": goal, "met": met}

    def within(path: str) -> bool | None:
        return facts.met(held.number(path), held.number(rto))

    # An objective in seconds and a count of writes are comparable only where the objective is none at all.
    nothing = held.number("objective.rpo_s") == 0
    lost, objects = held.number("lost"), held.number("objects.lost")
    goal = "objective.rpo_s" if nothing else None
    return [
        card("rto_first", "rto_first_s", "s", goal=rto, met=within("rto_first_s")),
        card("rto_stable", "rto_stable_s", "s", goal=rto, met=within("rto_stable_s")),
        card("lost", "lost", goal=goal, met=facts.met(lost, 0) if nothing else None),
        card(
            "lost_objects",
            "objects.lost",
            goal=goal,
            met=facts.met(objects, 0) if nothing else None,
        ),
        card("unserved", "surge.unserved"),
        card("surge_p99", "surge.p99_ms", "ms"),
        card("info", "info"),
        card("phantoms", "phantoms", met=facts.met(held.number("phantoms"), 0)),
        card("restore_time", "backup.restore_s", "s"),
        card("failback_time", "failback.took_s", "s"),
    ]


def _checks(held: Facts) -> list[dict[str, Any]]:
    """Each check with its words in both languages, and whether the drill may not pass without it."""
    required = set(map(str, held.items("required")))
    found: list[dict[str, Any]] = []
    for check in held.items("checks"):
        if not isinstance(check, Mapping):
            continue
        name, title = check.get("name"), check.get("title")
        found.append(
            {
                "code": name if isinstance(title, Mapping) and isinstance(name, str) else None,
                "title": facts.both(title if isinstance(title, Mapping) else name),
                "ran": check.get("ran"),
                "passed": check.get("passed"),
                "detail": facts.both(check.get("detail_i18n") or check.get("detail")),
                "required": isinstance(name, str) and name in required,
            }
        )
    return found


def _seconds(held: Facts) -> list[tuple[int, float]]:
    """Number and begin of each bin of the chart; none when there are too many to write out."""
    bin_s, start = held.number("series.bin_s"), held.number("series.t0_s")
    bins = max(len(held.series(name)) for name in _SERIES)
    if not bin_s or bin_s <= 0 or start is None or bins > TABLE_MAX:
        return []
    return [(n, start + n * bin_s) for n in range(bins)]
