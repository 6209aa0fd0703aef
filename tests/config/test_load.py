"""What comes out of a stack file that is right."""

import hashlib
import json
import re
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from failover import scenario
from zaibei.config import TEMPLATES, explain, json_schema, load, reference, reveal, sample
from zaibei.config._build import digest
from zaibei.config._explain import NOT_SHOWN
from zaibei.config._yaml import parse
from zaibei.config.model import (
    Grade,
    Hazard,
    Role,
    SecretFrom,
    SecretRef,
    SiteLoss,
    Stack,
    Takeover,
)
from zaibei.kernel.errors import BadStack, Missing, Refused, ToolFailed, Usage

SECRETS = """
secrets:
  by-env: {env: ZAIBEI_TEST_SECRET}
  by-file: {file: /nowhere/at/all}
  by-command: {command: [printf, hunter2]}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "stack.yaml"
    path.write_text(text)
    return path


def test_the_default_sample_declares_the_three_sites_and_their_promises(stack_file: Path) -> None:
    stack = load(stack_file)
    assert [(s.name, s.role, s.hosts) for s in stack.sites] == [
        ("site-a", Role.PRODUCTION, ("site-a",)),
        ("site-b", Role.SAME_CITY, ("site-b",)),
        ("site-c", Role.REMOTE, ("site-c",)),
    ]
    assert [s.witness for s in stack.sites] == [False, False, True]
    assert stack.site("site-c").city != stack.site("site-a").city == stack.site("site-b").city
    assert stack.on_site_loss is SiteLoss.DEGRADE
    names = [d.name for d in stack.databases]
    assert names == ["population", "legal_entity", "geospatial", "economy", "health_code"]
    assert stack.databases[0].grade is Grade.CORE
    for database in stack.databases:
        assert [o.hazard for o in database.objectives] == list(Hazard)
        h1 = database.objectives[0]
        assert (h1.rto, h1.rpo) == (timedelta(seconds=60), timedelta(0))
        assert h1.takeover is Takeover.AUTOMATIC
        assert h1.city is not None
        assert h1.city.takeover is Takeover.APPROVED
        assert all(o.takeover is None and o.city is None for o in database.objectives[1:])
        assert database.backup.vaults == ("site-b", "site-c")
        assert database.backup.every == timedelta(minutes=15)
        assert database.backup.keep == timedelta(days=35)
        assert database.backup.max_age == timedelta(hours=1)
    assert [(b.name, b.sites, b.copies_to) for b in stack.buckets] == [
        ("geo-images", ("site-a", "site-b"), ("site-c",)),
        ("citizen-objects", ("site-a", "site-b"), ("site-c",)),
    ]
    assert stack.entry == ("site-a", "site-b")
    (service,) = stack.services
    assert (service.name, service.peak_rps, service.surge_factor) == ("health-code", 40, 10)
    assert service.channels == ("app", "mini-program", "web", "hall")
    assert {n.zone for n in stack.networks} == {"intranet", "extranet"}
    assert [c.scenario for c in stack.calendar if c.every == timedelta(days=30)] == [
        "site-power-loss",
        "site-partition",
        "primary-crash",
    ]


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_sample_loads_fits_the_schema_and_is_commented_in_two_languages(
    tmp_path: Path, template: str
) -> None:
    text = sample(template)
    stack = load(written(tmp_path, text))
    assert stack.people
    Draft202012Validator(json_schema()).validate(parse(text).tree)
    comments = [line.split("#", 1)[1] for line in text.splitlines() if "#" in line]
    assert len([c for c in comments if re.search("[\u4e00-\u9fff]", c)]) >= 10
    assert len([c for c in comments if re.search("[a-z]{4}", c)]) >= 10
    assert all(
        x.owner
        for x in (*stack.sites, *stack.networks, *stack.databases, *stack.buckets, *stack.services)
    )


@pytest.mark.parametrize("template", TEMPLATES)
def test_no_calendar_of_a_sample_names_a_drill_that_does_not_exist(
    tmp_path: Path, template: str
) -> None:
    stack = load(written(tmp_path, sample(template)))
    assert {c.scenario for c in stack.calendar} <= set(scenario.names())
    roles = {s.role for s in stack.sites}
    assert not stack.calendar or {Role.PRODUCTION, Role.SAME_CITY, Role.REMOTE} <= roles


def test_every_drill_of_the_default_sample_has_a_date_and_an_objective(stack_file: Path) -> None:
    stack = load(stack_file)
    assert {c.scenario for c in stack.calendar} == set(scenario.names())
    for entry in stack.calendar:
        drill = scenario.load(entry.scenario)
        assert drill.objective(stack).rto
        assert drill.fault_in(stack).site == "site-a"


def test_an_unknown_template_is_refused_with_the_nearest() -> None:
    with pytest.raises(Usage) as caught:
        sample("two-places")
    assert caught.value.hints == ("did you mean two-places-three-centres?",)


def test_the_schema_is_a_schema_and_knows_what_the_loader_refuses() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for old, new in (
        ("on_site_loss: degrade", "on_site_los: degrade"),
        ("every: 15min\n", "every: 15\n"),
        ("every: 15min\n", "every: 15 minutes\n"),
        ("role: production", "role: prod"),
        ("# secrets:\n", "secrets:\n  a: hunter2\n"),
        ("# secrets:\n", "secrets:\n  a: {env: A, file: /b}\n"),
    ):
        text = sample()
        assert old in text
        assert not validator.is_valid(parse(text.replace(old, new)).tree), new


def test_every_key_of_the_schema_says_what_it_is_for() -> None:
    schema = json_schema()
    for name, model in {"": schema, **schema["$defs"]}.items():
        for key, field in model.get("properties", {}).items():
            assert field.get("description"), f"{name}.{key}"


def test_the_reference_in_the_docs_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "stack.md"
    again = "zaibei stack schema --markdown > docs/reference/stack.md"
    assert page.read_text() == reference(), again
    for key in (
        "on_site_loss",
        "witness",
        "personal_data",
        "surge_factor",
        "copies_to",
        "takeover",
    ):
        assert f" {key} |" in reference() or f"*{key}*" in reference(), key


def test_the_digest_is_of_the_meaning_and_not_of_the_text(stack_file: Path, tmp_path: Path) -> None:
    first = load(stack_file).digest
    assert re.fullmatch("[0-9a-f]{64}", first)
    text = sample()
    same = text.replace("rto: 60s  #", "rto: 1min  #").replace("on_site_loss: degrade\n", "")
    assert same.count("\n") < text.count("\n")
    assert load(written(tmp_path, "# a comment\n" + same)).digest == first
    other = text.replace("rpo: 60s", "rpo: 61s")
    assert load(written(tmp_path, other)).digest != first


def test_the_digest_covers_every_field(stack_file: Path) -> None:
    stack = load(stack_file)
    changed: list[Stack] = [
        replace(stack, title="x"),
        replace(stack, entry=("site-b", "site-a")),
        replace(stack, sites=(replace(stack.sites[0], hosts=("elsewhere",)), *stack.sites[1:])),
        replace(stack, people=(replace(stack.people[0], public_key="ssh-x"), *stack.people[1:])),
        replace(stack, secrets=(SecretRef(name="a", source=SecretFrom.ENV, where=("A",)),)),
    ]
    digests = {digest(s) for s in (stack, *changed)}
    assert len(digests) == 1 + len(changed)
    assert digest(replace(stack, digest="x")) == digest(stack)


def test_the_digest_is_the_sha256_of_rfc_8785_json_by_hand(stack_file: Path) -> None:
    """A golden value would hide a change of method; this is the method, spelled out once more."""
    stack = load(stack_file)
    content = asdict(stack)
    content.pop("digest")
    canonical = json.dumps(
        content,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        default=lambda d: (
            int(d.total_seconds()) if d.total_seconds().is_integer() else d.total_seconds()
        ),
    )
    # RFC 8785 writes 40.0 as 40, as JavaScript does.
    canonical = (
        canonical.replace(":40.0,", ":40,").replace(":10.0}", ":10}").replace(":10.0,", ":10,")
    )
    assert hashlib.sha256(canonical.encode()).hexdigest() == stack.digest


def test_explain_tells_the_line_the_inheritance_and_the_default(stack_file: Path) -> None:
    rows = {r.path: r for r in explain(stack_file)}
    lines = sample().splitlines()

    def told(path: str) -> str:
        file, line = rows[path].origin.rsplit(":", 1)
        assert file == str(stack_file)
        return lines[int(line) - 1]

    assert rows["data.databases.population.objectives.H1.rto"].value == "60s"  # as it is written
    assert "rto: 60s" in told("data.databases.population.objectives.H1.rto")
    assert "vaults: [site-b, site-c]" in told("data.databases.economy.backup.vaults")
    assert rows["data.databases.economy.backup.vaults"].value == ("site-b", "site-c")
    assert "name: site-b" in told("sites.site-b.city")
    assert rows["data.databases.population.schema"].value == "public"
    assert rows["data.databases.population.schema"].origin == "default"
    assert rows["sites.site-a.hosts"].value == ("site-a",)
    assert rows["sites.site-a.hosts"].origin == "default"


def test_a_hazard_is_inherited_whole_or_not_at_all(tmp_path: Path) -> None:
    own = "      personal_data: true\n      objectives: {H1: {rto: 90s, rpo: 0s}}\n"
    text = sample().replace("      personal_data: true\n", own, 1)
    path = written(tmp_path, text)
    population, legal_entity = load(path).databases[:2]
    assert population.objectives[0].rto == timedelta(seconds=90)
    assert population.objectives[0].city is None, "the common objective has one; it is not mixed in"
    assert population.objectives[1:] == legal_entity.objectives[1:]
    rows = {r.path: r for r in explain(path)}
    assert rows["data.databases.population.objectives.H1.doo"].origin == "default"
    assert rows["data.databases.population.objectives.H1.doo"].value is None
    assert rows["data.databases.legal_entity.objectives.H1.doo"].origin != "default"


def test_explain_names_the_keeper_of_a_secret_and_never_shows_one(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("ZAIBEI_TEST_SECRET", "hunter2")
    rows = explain(written(tmp_path, sample() + SECRETS))
    told = {r.path: (r.value, r.origin) for r in rows if r.path.startswith("secrets.")}
    assert told == {
        "secrets.by-env": (NOT_SHOWN, "env ZAIBEI_TEST_SECRET"),
        "secrets.by-file": (NOT_SHOWN, "file /nowhere/at/all"),
        "secrets.by-command": (NOT_SHOWN, "command printf"),
    }
    assert "hunter2" not in repr(rows)


def test_explain_of_a_faulty_file_tells_its_faults(tmp_path: Path) -> None:
    with pytest.raises(BadStack, match="unknown key 'x'"):
        explain(written(tmp_path, "x: 1\n"))


def test_a_secret_is_fetched_from_where_the_file_says(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("hunter2\nsecond line\n")
    kept.chmod(0o600)

    def ref(source: SecretFrom, *where: str) -> SecretRef:
        return SecretRef(name="a", source=source, where=where)

    assert reveal(ref(SecretFrom.ENV, "A"), env={"A": "hunter2"}) == "hunter2"
    assert reveal(ref(SecretFrom.FILE, str(kept))) == "hunter2"
    assert reveal(ref(SecretFrom.COMMAND, "printf", "hunter2\n")) == "hunter2"
    for nothing in (
        ref(SecretFrom.ENV, "A"),
        ref(SecretFrom.FILE, str(tmp_path / "gone")),
        ref(SecretFrom.FILE, str(tmp_path)),
        ref(SecretFrom.COMMAND, "true"),
        ref(SecretFrom.COMMAND, "zaibei-no-such-program"),
    ):
        with pytest.raises(Missing):
            reveal(nothing, env={})
    with pytest.raises(ToolFailed):
        reveal(ref(SecretFrom.COMMAND, "false"))
    kept.chmod(0o644)
    with pytest.raises(Refused, match="everybody on this machine may read") as caught:
        reveal(ref(SecretFrom.FILE, str(kept)))
    assert "hunter2" not in str(caught.value)
