"""`zaibei init` and `zaibei stack …`, as a person and a script meet them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from zaibei.config import TEMPLATES, reference, sample


def zaibei(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "zaibei"
    return subprocess.run(
        [program, *argv], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_init_writes_is_valid(tmp_path: Path, template: str) -> None:
    made = zaibei("init", "--template", template, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "stack.yaml").read_text() == sample(template)
    checked = zaibei("stack", "validate", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("stack.yaml: ok, ")


def test_init_does_not_overwrite_somebody_s_work(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("my work")
    refused = zaibei("init", "mine.yaml", cwd=tmp_path)
    assert refused.returncode == 4
    assert refused.stderr == snapshot("""\
refused: mine.yaml is there already
hint: --force replaces it; another name keeps both
""")
    assert mine.read_text() == "my work"
    forced = zaibei("init", "mine.yaml", "--force", "--json", cwd=tmp_path)
    assert json.loads(forced.stdout) == {
        "path": "mine.yaml",
        "template": "two-places-three-centres",
    }
    assert mine.read_text() == sample()


def test_validate_tells_line_and_hint_and_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "stack.yaml").write_text(sample().replace("role: production", "role: prod"))
    said = zaibei("stack", "validate", cwd=tmp_path)
    assert (said.returncode, said.stdout) == (2, "")
    assert " ".join(said.stderr.split()) == snapshot(
        "usage: stack.yaml:52: sites[0].role: 'prod' is not one of production, same-city, remote, witness "
        "hint: line 52: did you mean production?"
    )
    as_json = zaibei("stack", "validate", "--json", cwd=tmp_path)
    assert as_json.returncode == 2
    told = json.loads(as_json.stdout)
    assert (told["ok"], told["digest"]) == (False, None)
    assert told["faults"][0]["line"] == 52


def test_validate_of_a_good_file_says_the_digest_in_json(tmp_path: Path) -> None:
    zaibei("init", cwd=tmp_path)
    told = json.loads(zaibei("stack", "validate", "--json", cwd=tmp_path).stdout)
    assert told["ok"] is True
    assert told["faults"] == []
    assert len(told["digest"]) == 64


def test_explain_prints_one_value_a_line_and_can_be_narrowed(tmp_path: Path) -> None:
    zaibei("init", cwd=tmp_path)
    said = zaibei("stack", "explain", "--under", "sites.site-c", cwd=tmp_path).stdout
    assert [line.split() for line in said.splitlines()] == snapshot(
        [
            ["path", "value", "origin"],
            ["sites.site-c.name", "site-c", "stack.yaml:55"],
            ["sites.site-c.city", "city-2", "stack.yaml:55"],
            ["sites.site-c.role", "remote", "stack.yaml:55"],
            ["sites.site-c.owner", "duty-cloud", "stack.yaml:55"],
            ["sites.site-c.hosts", "site-c", "default"],
            ["sites.site-c.witness", "true", "stack.yaml:55"],
        ]
    )
    rows = json.loads(zaibei("stack", "explain", "--json", cwd=tmp_path).stdout)
    assert {"path": "name", "value": "demo-city", "origin": "stack.yaml:7"} in rows
    nothing = zaibei("stack", "explain", "--under", "sites.site-q", cwd=tmp_path)
    assert nothing.returncode == 2


def test_schema_prints_json_schema_or_the_reference(tmp_path: Path) -> None:
    said = json.loads(zaibei("stack", "schema", cwd=tmp_path).stdout)
    assert said["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert zaibei("stack", "schema", "--markdown", cwd=tmp_path).stdout == reference()
