"""Planted faults are found with file and line; the library itself has none."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from failover import scenario
from runbooks.library import BadRunbook, find, library_dir, read, runbook_files
from runbooks.lint import Finding, lint
from runbooks.render import page, reference
from zaibei.cli.main import app
from zaibei.cli.runbook import commands
from zaibei.kernel.errors import Usage

SCENARIOS = frozenset({"site-partition"})
GOOD = (library_dir() / "fence-site.yml").read_text()
REPOSITORY = Path(__file__).parents[2]


def _lint(folder: Path, content: str, *, name: str = "fence-site") -> list[Finding]:
    (folder / f"{name}.yml").write_text(content)
    return list(lint(scenarios=SCENARIOS, commands=frozenset(), path=folder).findings)


def test_the_library_itself_has_no_findings() -> None:
    known = frozenset(scenario.names())
    report = lint(scenarios=known, commands=commands())
    assert [str(f) for f in report.findings] == []
    assert set(report.runbooks) == {f.name for f in runbook_files()}


def test_the_linter_of_the_command_line_finds_nothing_and_ends_with_0() -> None:
    ended = CliRunner().invoke(app, ["runbook", "lint", "--json"])
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert told["findings"] == []
    assert "fence-site.yml" in told["runbooks"]


def test_a_runbook_without_faults_has_no_findings(tmp_path: Path) -> None:
    assert _lint(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("good", "bad", "rule", "says"),
    [
        ("check: site-takes-no-writes", "check: site-is-happy", "action", "no native check"),
        ("play: stop-services.yml", "play: stop-everything.yml", "action", "no playbook"),
        ("services: [patroni]", "servces: [patroni]", "action", "does not use the variable"),
        ('args: {site: "{site}"}\n', 'args: {siet: "{site}"}\n', "action", "needs the argument 'site'"),
        ("level: destructive", "level: disruptive", "danger", "does not say so"),
        ("drill: site-partition", "drill: site-party", "drill", "no scenario 'site-party'"),
        ("id: fence-site", "id: fencesite", "id", "not verb-object"),
        ("zh: 隔离站点", "zh: fence", "language", "no Chinese"),
        ("en: Fence a site", "en: 隔离", "language", "Chinese in the English"),
        ("ports: [postgres]", 'ports: ["{door}"]', "parameter", "{door} is used and not declared"),
        ("title: {zh: 要隔离的站点, en: the site to fence}}", "title: {zh: 站, en: s}}\n  other: {type: text, title: {zh: 别, en: o}}", "parameter", "'other' is declared and never used"),
        ("uplink of the store;", "uplink of {stroe};", "parameter", "{stroe} in a text"),
        ("deadline: 90s", "deadline: soon", "schema", "not a duration"),
        ("    fallback:\n      zh: 电话通知 {site} 机房断开入口交换机上联，并请网络值班撤下其公网地址。\n      en: call the operators of {site} to unplug the entry's uplink; have the network desk withdraw its address.\n", "", "schema", "fallback: field required"),
        ('    undo: {play: start-services.yml, limit: "{site}", args: {services: [haproxy]}}\n', "", "schema", "undo: field required"),
        ("title: {zh: 隔离站点, en: Fence a site}", "title: {zh: 隔离站点}", "schema", "title.en: field required"),
        ("id: stop-database", "id: stop-routers", "schema", "two steps have the same id"),
        ("owner:", "onwer:", "schema", "onwer: extra inputs"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found_where_it_is(
    tmp_path: Path, good: str, bad: str, rule: str, says: str
) -> None:
    assert good in GOOD
    content = GOOD.replace(good, bad, 1)
    found = [f for f in _lint(tmp_path, content) if f.rule == rule and says in f.what]
    assert found, [str(f) for f in _lint(tmp_path, content)]
    at = found[0]
    assert at.file == "fence-site.yml"
    assert 1 <= at.line <= content.count("\n") + 1


def test_a_missing_proof_is_told_with_the_line_of_its_step(tmp_path: Path) -> None:
    start = GOOD.index("    proof:\n")
    content = GOOD[:start] + GOOD[GOOD.index("    fallback:\n") :]
    (found,) = _lint(tmp_path, content)
    assert "steps.0.proof: field required" in found.what
    assert content.splitlines()[found.line - 1].strip() == "- id: stop-routers"


def test_a_command_that_zaibei_does_not_have_is_found(tmp_path: Path) -> None:
    content = (library_dir() / "check-backup.yml").read_text()
    found = [f.what for f in _lint(tmp_path, content, name="check-backup")]
    assert "no command `zaibei backup verify`" in found


def test_text_that_is_not_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "break-yaml.yml"
    file.write_text("id: break-yaml\ntitle: {zh: 一, en: [\n")
    with pytest.raises(BadRunbook) as told:
        read(file)
    assert told.value.faults[0][0] >= 2


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(Usage) as told:
        find("fense-site")
    assert "fence-site" in told.value.hints[0]


@pytest.mark.parametrize("file", runbook_files(), ids=lambda f: f.stem)
def test_every_runbook_reads_as_a_page_in_both_languages(file: Path) -> None:
    runbook = read(file).runbook
    chinese, english = page(runbook, "zh"), page(runbook, "en")
    assert runbook.title.zh in chinese
    assert runbook.title.en in english
    for step in runbook.steps:
        assert step.fallback.zh in chinese
        assert step.fallback.en in english


def test_the_reference_page_is_what_the_library_says() -> None:
    file = REPOSITORY / "docs" / "reference" / "runbooks.md"
    assert file.read_text() == reference(), (
        "python -P -m runbooks.render > docs/reference/runbooks.md"
    )
