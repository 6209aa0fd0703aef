import random
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.evidence.conftest import (
    DRILL,
    OUTCOME,
    Desk,
    Forger,
    Judge,
    by_python,
    by_shell,
    open_desk,
    shell,
    small_log,
)
from zaibei.evidence import Kind, log, verify
from zaibei.evidence.packing import archive, fingerprints
from zaibei.kernel.errors import Missing, Usage


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x01
    path.write_bytes(bytes(raw))


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_an_honest_pack_verifies(a_pack: Path, why_refused: Judge) -> None:
    assert why_refused(a_pack) is None


def test_python_and_shell_say_the_same_of_an_honest_pack(a_pack: Path) -> None:
    found, said = verify(a_pack), shell(a_pack).stdout
    assert [e.index for e in found.entries] == [1, 2]
    assert (found.witnesses, len(found.unknown_witnesses)) == ((), 2)
    assert f"{found.size} entries, root {found.root}" in said
    for name, value in found.fingerprints.items():
        assert f"{value}  {name}" in said


def test_a_script_in_the_pack_checks_the_pack_it_lies_in(a_pack: Path) -> None:
    done = subprocess.run(["sh", a_pack / "verify.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("VERIFIED\n")


def test_the_archive_is_the_folder_and_the_same_each_time(
    honest_desk: Desk, tmp_path: Path
) -> None:
    first = honest_desk.root / "pack.tar.gz"
    assert verify(first).ok
    shutil.copytree(honest_desk.root / "pack", tmp_path / "pack")
    with (tmp_path / "again.tar.gz").open("wb") as out:
        archive(tmp_path / "pack", out)
    assert (tmp_path / "again.tar.gz").read_bytes() == first.read_bytes()


def test_a_truncated_archive_is_damage_not_silence(honest_desk: Desk, tmp_path: Path) -> None:
    raw = (honest_desk.root / "pack.tar.gz").read_bytes()
    for keep in (0, 10, len(raw) // 2, len(raw) - 9):
        (tmp_path / "cut.tar.gz").write_bytes(raw[:keep])
        assert not verify(tmp_path / "cut.tar.gz").ok


def test_an_archive_cannot_write_outside_its_place(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "x", arcname="pack/../../escaped")
    assert "not a file of a pack" in verify(tmp_path / "bad.tar.gz").problems[0]


def test_every_byte_of_a_pack_matters_to_python(a_pack: Path) -> None:
    """The full sweep: each file, at its first, last and some other bytes."""
    rng = random.Random(20988)
    for name in files(a_pack):
        path = a_pack / name
        whole = path.read_bytes()
        assert whole, f"{name} is empty: nothing to flip"
        places = {0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(6))}
        for at in places:
            flip(path, at)
            assert not verify(a_pack).ok, (name, at)
            path.write_bytes(whole)
    assert verify(a_pack).ok


def test_every_file_of_a_pack_matters_to_the_shell(a_pack: Path) -> None:
    rng = random.Random(20988)
    for name in files(a_pack):
        path = a_pack / name
        whole = path.read_bytes()
        flip(path, rng.randrange(len(whole)))
        assert by_shell(a_pack) is not None, name
        path.write_bytes(whole)


def test_bytes_all_over_the_manifest_matter_to_python(a_pack: Path) -> None:
    path = a_pack / "MANIFEST"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        flip(path, at)
        assert not verify(a_pack).ok, at
        path.write_bytes(whole)


def test_the_last_characters_of_a_signature_matter(a_pack: Path, why_refused: Judge) -> None:
    """base64 has unused bits at its end; a decoder that ignores them lets the file change."""
    path = a_pack / "MANIFEST"
    text = path.read_text()
    assert text.endswith("=\n")
    last = text[-3]
    other = chr(ord(last) + 1) if last not in "Zz9" else "A"
    path.write_text(text[:-3] + other + "=\n")
    assert why_refused(a_pack) is not None


@pytest.mark.parametrize(
    "victim",
    [
        "MANIFEST",
        "log/checkpoint",
        "keys/p256.pub",
        "keys/ed25519.pub",
        f"runs/00000{OUTCOME}-drill/statement.json",
        "verify.sh",
        f"runs/00000{OUTCOME}-drill/artifacts/ledger.jsonl",
    ],
)
def test_a_missing_file_is_damage(a_pack: Path, victim: str, why_refused: Judge) -> None:
    (a_pack / victim).unlink()
    assert why_refused(a_pack) is not None


@pytest.mark.parametrize(
    "extra", ["runs/000002-drill/artifacts/better.jsonl", "README", "log/x", "runs/.x"]
)
def test_an_extra_file_is_damage(a_pack: Path, extra: str, why_refused: Judge) -> None:
    (a_pack / extra).write_text("x")
    assert why_refused(a_pack) is not None


def test_links_and_empty_folders_are_damage(a_pack: Path, why_refused: Judge) -> None:
    (a_pack / "runs/000009-drill").mkdir()
    assert "empty folder" in (why_refused(a_pack) or "")
    (a_pack / "runs/000009-drill").rmdir()
    (a_pack / "VERIFY.en.md").rename(a_pack.parent / "elsewhere.md")
    (a_pack / "VERIFY.en.md").symlink_to(a_pack.parent / "elsewhere.md")
    assert "neither a file nor a folder" in (why_refused(a_pack) or "")


def test_a_truncated_log_is_damage(a_pack: Path, forger: Forger, why_refused: Judge) -> None:
    bundle = a_pack / "log/tile/entries/000.p/5"
    bundle.write_bytes(bundle.read_bytes()[:-40])
    assert why_refused(a_pack) is not None
    forger.reseal(a_pack)
    assert "cut off" in (why_refused(a_pack) or "")


# --- what a forger who holds the keys, and signs the manifest again, still cannot do ------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("runs/000002-drill/artifacts/ledger.jsonl", "artefacts of|what the statement says"),
        ("runs/000002-drill/statement.json", "what was logged|what the statement says"),
        ("runs/000002-drill/statement.dsse.json", "what was logged|what the statement says"),
        ("proofs/000002-drill.txt", "proof of|base64"),
        ("schedule/000000-schedule.json", "what was logged|what the statement says"),
        ("log/tile/0/000.p/5", "hashes of the log"),
        ("log/tile/entries/000.p/5", "cut off|more than|signs|entries where|hashes of the log"),
        ("keys/FINGERPRINTS.txt", "fingerprints of the keys"),
    ],
)
def test_a_new_manifest_over_a_changed_file_does_not_help(
    a_pack: Path, forger: Forger, name: str, reason: str, why_refused: Judge
) -> None:
    flip(a_pack / name, (a_pack / name).stat().st_size * 2 // 3)
    forger.reseal(a_pack)
    assert re.search(reason, why_refused(a_pack) or "accepted")


def test_a_new_manifest_over_any_changed_byte_of_the_proof_helps_nobody(
    a_pack: Path, forger: Forger
) -> None:
    """Everything but the documents and the script is held by the log, and not only by the manifest."""
    free = {"VERIFY.en.md", "VERIFY.zh.md", "verify.sh", "MANIFEST"}
    rng = random.Random(7)
    for name in sorted(set(files(a_pack)) - free):
        path = a_pack / name
        whole = path.read_bytes()
        for at in {0, len(whole) - 1, rng.randrange(len(whole)), rng.randrange(len(whole))}:
            flip(path, at)
            forger.reseal(a_pack)
            assert not verify(a_pack).ok, (name, at)
            path.write_bytes(whole)


def test_an_artefact_that_no_statement_names_is_damage(
    a_pack: Path, forger: Forger, why_refused: Judge
) -> None:
    (a_pack / "runs/000002-drill/artifacts/better.jsonl").write_text("lost: 0\n")
    forger.reseal(a_pack)
    assert why_refused(a_pack) is not None


def test_an_artefact_left_out_is_damage(a_pack: Path, forger: Forger, why_refused: Judge) -> None:
    (a_pack / "runs/000002-drill/artifacts/ledger.jsonl").unlink()
    forger.reseal(a_pack)
    assert why_refused(a_pack) is not None


def test_an_intent_left_out_of_the_pack_is_damage(
    a_pack: Path, forger: Forger, why_refused: Judge
) -> None:
    shutil.rmtree(a_pack / "runs/000001-intent")
    (a_pack / "proofs/000001-intent.txt").unlink()
    forger.reseal(a_pack)
    assert "left out" in (why_refused(a_pack) or "")


def test_a_schedule_left_out_of_the_pack_is_damage(
    a_pack: Path, forger: Forger, why_refused: Judge
) -> None:
    shutil.rmtree(a_pack / "schedule")
    forger.reseal(a_pack)
    assert why_refused(a_pack) is not None


def test_an_outcome_whose_intent_is_not_in_the_log_is_damage(
    forger: Forger, tmp_path: Path, why_refused: Judge
) -> None:
    log_ = [forger.entry(0, Kind.OUTCOME, {"drill_id": DRILL, "verdict": "PASS"})]
    made = forger.pack(log_, [0], tmp_path / "forged")
    assert f"drill of {DRILL} without its intent" in (why_refused(made) or "")


def test_an_intent_written_afterwards_is_damage(
    forger: Forger, tmp_path: Path, why_refused: Judge
) -> None:
    log_ = [
        forger.entry(0, Kind.OUTCOME, {"drill_id": DRILL, "verdict": "PASS"}),
        forger.entry(1, Kind.INTENT, {"drill_id": DRILL}),
    ]
    made = forger.pack(log_, [0, 1], tmp_path / "forged")
    assert "without its intent" in (why_refused(made) or "")


def test_a_second_outcome_is_damage(forger: Forger, tmp_path: Path, why_refused: Judge) -> None:
    log_ = [
        forger.entry(0, Kind.INTENT, {"drill_id": DRILL}),
        forger.entry(1, Kind.OUTCOME, {"drill_id": DRILL, "verdict": "FAIL"}),
        forger.entry(2, Kind.OUTCOME, {"drill_id": DRILL, "verdict": "PASS"}),
    ]
    made = forger.pack(log_, [0, 1, 2], tmp_path / "forged")
    assert "second end" in (why_refused(made) or "")


def test_a_forged_pack_in_good_order_is_told_by_the_missing_witnesses(
    forger: Forger, tmp_path: Path
) -> None:
    """The keys' holder can write another history. What it cannot do is have the witnesses sign it."""
    log_ = [
        forger.entry(0, Kind.INTENT, {"drill_id": DRILL}),
        forger.entry(1, Kind.OUTCOME, {"drill_id": DRILL}),
    ]
    found = verify(forger.pack(log_, [0, 1], tmp_path / "forged"))
    assert found.ok
    assert "no witness signed the checkpoint" in found.notes


def test_a_statement_signed_by_another_key_is_damage(
    a_pack: Path, forger: Forger, tmp_path: Path, why_refused: Judge
) -> None:
    (tmp_path / "other").mkdir()
    other = open_desk(tmp_path / "other")
    shutil.copy(other.root / "evidence/keys/p256.pub", a_pack / "keys/p256.pub")
    names = sorted(p.name for p in (a_pack / "keys").glob("*.pub"))
    raw = fingerprints({n: (a_pack / "keys" / n).read_bytes() for n in names})
    (a_pack / "keys/FINGERPRINTS.txt").write_bytes(raw)
    forger.reseal(a_pack)
    assert "key" in (why_refused(a_pack) or "")


def test_a_pack_made_whole_with_other_keys_is_caught_only_by_the_fingerprints(
    honest_desk: Desk, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = open_desk(tmp_path / "other")
    small_log(other)
    made = other.pack()
    ours = [
        honest_desk.evidence.keys.keyid,
        *verify(honest_desk.root / "pack").fingerprints.values(),
    ]
    assert verify(made).ok
    assert any("not compared" in n for n in verify(made).notes)
    assert "another fingerprint" in verify(made, trusted_fingerprints=ours).problems[0]
    flags = [f for value in ours for f in ("--fingerprint", value)]
    assert shell(made, *flags).returncode == 8
    assert shell(honest_desk.root / "pack", *flags).returncode == 0
    assert verify(honest_desk.root / "pack", trusted_fingerprints=ours).keys_compared


def test_a_witness_line_can_not_be_taken_from_another_head(
    a_pack: Path, forger: Forger, why_refused: Judge
) -> None:
    path = a_pack / "log/checkpoint"
    lines = path.read_text().splitlines(keepends=True)
    assert "witness:site-b" in lines[-2]
    path.write_text("".join([*lines[:-2], lines[-1]]))
    for proof in (a_pack / "proofs").iterdir():
        proof.write_text(proof.read_text().replace(lines[-2], ""))
    forger.reseal(a_pack)
    assert why_refused(a_pack) is not None


@pytest.mark.parametrize(
    "judge", [by_python, pytest.param(by_shell, marks=pytest.mark.integration)]
)
def test_a_log_that_spans_tiles_verifies(tmp_path: Path, judge: Judge) -> None:
    desk = open_desk(tmp_path)
    small_log(desk)
    folder = desk.root / "evidence" / "log"
    held = log.read(folder)
    forger = Forger(desk)
    for n in range(260 - len(held.entries)):
        held = log.append(folder, held, forger.entry(0, Kind.ACTION, {"n": n}).envelope)
    desk.evidence.checkpoint()
    assert desk.evidence.head().size == 260
    assert judge(desk.pack(OUTCOME, 259)) is None


def test_an_artefact_that_changed_since_is_not_packed(desk: Desk) -> None:
    small_log(desk)
    (desk.artefacts / "ledger.jsonl").write_text("nicer\n")
    with pytest.raises(Missing, match=r"ledger\.jsonl"):
        desk.pack()
    assert not (desk.root / "pack").exists()
    assert not (desk.root / "pack.tar.gz").exists()


def test_a_pack_is_never_overwritten(desk: Desk) -> None:
    small_log(desk)
    desk.pack()
    with pytest.raises(Usage, match="already there"):
        desk.pack()


def test_a_drill_that_never_ended_is_told(desk: Desk) -> None:
    small_log(desk)
    desk.evidence.record(Kind.INTENT, {"drill_id": "drill-9"})
    made = desk.pack()
    assert verify(made).open_intents == ("drill-9",)
    assert "drill-9 was announced and has no end" in shell(made).stdout
