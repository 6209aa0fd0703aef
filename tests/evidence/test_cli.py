import json
import subprocess
import sys
from pathlib import Path

from tests.evidence.conftest import Desk
from zaibei.evidence.keys import fingerprint


def zaibei(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "zaibei.cli.main", "evidence", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_verify_ends_with_0_for_an_honest_pack_and_with_8_for_a_changed_one(a_pack: Path) -> None:
    good = zaibei("verify", a_pack, "--json")
    assert good.returncode == 0
    assert json.loads(good.stdout)["ok"] is True
    (a_pack / "VERIFY.zh.md").write_text("相信我\n")
    bad = zaibei("verify", a_pack)
    assert bad.returncode == 8
    assert "changed since it was packed: VERIFY.zh.md" in " ".join(bad.stderr.split())
    assert bad.stdout == ""
    told = zaibei("verify", a_pack, "--json")
    assert (told.returncode, json.loads(told.stdout)["ok"]) == (8, False)


def test_log_show_keys_and_pack_speak_of_the_same_log(honest_desk: Desk, tmp_path: Path) -> None:
    where = ["--evidence", honest_desk.root / "evidence"]
    entries = json.loads(zaibei("log", *where, "--json").stdout)["entries"]
    assert [e["kind"] for e in entries] == ["schedule", "intent", "drill", "intent", "aborted"]
    shown = json.loads(zaibei("show", "2", *where).stdout)
    assert shown["predicate"]["verdict"] == "PASS"
    keys = json.loads(zaibei("keys", *where, "--json").stdout)["fingerprints"]
    assert keys["p256.pub"] == fingerprint(honest_desk.evidence.keys.p256)
    made = zaibei("pack", "2", "--to", tmp_path / "p", "--artefacts", honest_desk.artefacts, *where)
    assert made.stdout.strip() == str(tmp_path / "p")
    flags = [f for value in keys.values() for f in ("--fingerprint", value)]
    assert zaibei("verify", tmp_path / "p.tar.gz", *flags).returncode == 0


def test_a_pack_that_is_not_there_is_a_mistake_of_the_request(tmp_path: Path) -> None:
    assert zaibei("verify", tmp_path / "nothing").returncode == 2
