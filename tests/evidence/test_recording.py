import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evidence.conftest import DRILL, OUTCOME, Desk, Forger, open_desk, small_log
from zaibei.evidence import Evidence, Kind, Witness, log, tiles
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Busy, Damage, Refused, Usage
from zaibei.kernel.state import sole


def test_what_was_recorded_reads_back_in_order(desk: Desk) -> None:
    small_log(desk)
    found = Evidence.open(desk.root / "evidence", desk.clock).entries()
    assert [e.index for e in found] == [0, 1, 2, 3, 4]
    assert found[OUTCOME].statement.drill_id == DRILL
    assert found[OUTCOME].statement.predicate["recorded_at"] == "2026-01-01T00:00:00.000Z"
    assert [s.name for s in found[OUTCOME].statement.subject] == ["ledger.jsonl", "in/plan.json"]


def test_an_outcome_without_an_intent_is_refused_and_leaves_nothing(desk: Desk) -> None:
    with pytest.raises(Refused, match="without its intent"):
        desk.evidence.record(Kind.OUTCOME, {"drill_id": "d", "verdict": "PASS"})
    assert desk.evidence.entries() == ()


def test_a_drill_has_one_outcome(desk: Desk) -> None:
    desk.drill("d", "FAIL")
    with pytest.raises(Refused, match="second end"):
        desk.evidence.record(Kind.OUTCOME, {"drill_id": "d", "verdict": "PASS"})


def test_an_entry_too_long_for_the_log_is_refused_with_a_way_out(desk: Desk) -> None:
    with pytest.raises(Usage) as told:
        desk.evidence.record(Kind.ACTION, {"x": "y" * 60_000})
    assert "artefact" in told.value.hints[0]
    assert desk.evidence.entries() == ()


def test_private_keys_are_for_their_owner_and_are_made_once(desk: Desk) -> None:
    folder = desk.root / "evidence" / "keys"
    assert {p.name: p.stat().st_mode & 0o777 for p in folder.glob("*.key")} == {
        p.name: 0o600 for p in folder.glob("*.key")
    }
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    Evidence.open(desk.root / "evidence", desk.clock)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert {"p256.key", "ed25519.key"} <= before.keys()


def test_a_lost_key_is_damage_and_not_a_new_key(desk: Desk) -> None:
    small_log(desk)
    shutil.rmtree(desk.root / "evidence" / "keys")
    with pytest.raises(Damage, match="gone"):
        Evidence.open(desk.root / "evidence", desk.clock)


def test_a_lost_checkpoint_is_damage_and_not_a_new_log(desk: Desk) -> None:
    small_log(desk)
    (desk.root / "evidence" / "log" / "checkpoint").unlink()
    with pytest.raises(Damage, match="no checkpoint"):
        Evidence.open(desk.root / "evidence", desk.clock)


def test_nothing_is_appended_to_a_log_that_was_changed(desk: Desk) -> None:
    small_log(desk)
    bundle = desk.root / "evidence" / "log" / "tile/entries/000.p/5"
    bundle.write_bytes(bundle.read_bytes().replace(b"payload", b"Payload", 1))
    with pytest.raises(Damage):
        desk.evidence.record(Kind.ACTION, {"a": 1})


def test_nothing_is_signed_on_top_of_a_head_that_somebody_else_wrote(desk: Desk) -> None:
    small_log(desk)
    other = open_desk(desk.root / "other" if (desk.root / "other").mkdir() is None else desk.root)
    small_log(other)
    shutil.rmtree(desk.root / "evidence" / "log")
    shutil.copytree(other.root / "evidence" / "log", desk.root / "evidence" / "log")
    with pytest.raises(Damage, match="not signed by the key"):
        desk.evidence.record(Kind.ACTION, {"a": 1})


def test_a_second_writer_waits_and_then_is_told_who_writes(desk: Desk) -> None:
    with (
        sole(desk.root / "evidence" / "lock", what="a long drill"),
        pytest.raises(Busy, match="a long drill"),
    ):
        desk.evidence.record(Kind.ACTION, {"a": 1})
    assert desk.clock.elapsed_s == pytest.approx(10, abs=0.1)


def fill(desk: Desk, size: int) -> None:
    """Many entries under one head; `record` would sign as many heads."""
    folder = desk.root / "evidence" / "log"
    held = log.read(folder)
    for n in range(size):
        entry = Forger(desk).entry(n, Kind.ACTION, {"n": n})
        held = log.append(folder, held, entry.envelope)
    desk.evidence.checkpoint()


def test_a_log_of_more_than_one_tile_keeps_all_its_entries(desk: Desk) -> None:
    fill(desk, 255)
    for n in range(255, 258):
        desk.evidence.record(Kind.ACTION, {"n": n})
    again = Evidence.open(desk.root / "evidence", desk.clock)
    assert [e.statement.predicate["n"] for e in again.entries()] == list(range(258))
    held = log.read(desk.root / "evidence" / "log")
    on_disk = {
        str(p.relative_to(desk.root / "evidence" / "log"))
        for p in (desk.root / "evidence" / "log").rglob("*")
        if p.is_file()
    }
    assert on_disk == log.wanted(held.leaves) | {"checkpoint"}
    assert "tile/1/000.p/1" in on_disk


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("before", [0, 5, 255, 256])
def test_a_kill_between_any_two_writes_of_an_append_loses_nothing_that_was_signed(
    desk: Desk, before: int
) -> None:
    """Replays an append one written file at a time and opens the log after each of them."""
    fill(desk, before)
    folder = desk.root / "evidence" / "log"
    old = _files(folder)
    desk.evidence.record(Kind.ACTION, {"n": before})
    new = _files(folder)

    written = sorted((k for k in new if new[k] != old.get(k)), key=_order_of_writing)
    removed = [k for k in old if k not in new]
    states = [dict(old) | {k: new[k] for k in written[:n]} for n in range(len(written) + 1)]
    states += [
        {k: v for k, v in states[-1].items() if k not in removed[:n]} for n in range(len(removed))
    ]
    for state in states:
        shutil.rmtree(folder)
        for name, raw in state.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(raw)
        evidence = Evidence.open(desk.root / "evidence", desk.clock)
        assert len(evidence.entries()) >= before
        evidence.record(Kind.ACTION, {"n": "after"})
        numbers = [e.statement.predicate["n"] for e in evidence.entries()]
        assert numbers in ([*range(before), "after"], [*range(before + 1), "after"])
        signed_before_crash = state != old
        assert (numbers[-2:-1] == [before]) == signed_before_crash, "a durable entry is finished"


def _order_of_writing(name: str) -> tuple[int, str]:
    return (0 if "entries" in name else 2 if name == "checkpoint" else 1, name)


def test_a_torn_tail_is_passed_over_and_a_torn_signed_entry_is_damage(desk: Desk) -> None:
    small_log(desk)
    folder = desk.root / "evidence" / "log"
    whole = (folder / tiles.path("entries", 0, 5)).read_bytes()
    torn = folder / tiles.path("entries", 0, 6)
    torn.write_bytes(whole + b"\x10\x00half an ent")
    assert len(desk.evidence.entries()) == 5
    desk.evidence.record(Kind.ACTION, {"a": 1})
    assert len(desk.evidence.entries()) == 6

    (folder / tiles.path("entries", 0, 6)).write_bytes(whole)
    with pytest.raises(Damage):
        desk.evidence.entries()


WRITER = """
import sys
from pathlib import Path
from zaibei.evidence import Evidence, Kind
from zaibei.kernel.clock import SystemClock
evidence = Evidence.open(Path(sys.argv[1]), SystemClock())
while True:
    print(evidence.record(Kind.ACTION, {"n": len(evidence.entries())}).index, flush=True)
"""


def test_a_writer_that_is_killed_keeps_every_entry_it_reported(desk: Desk) -> None:
    root = desk.root / "evidence"
    said = -1
    for kill_after in (1, 3, 4):
        writer = subprocess.Popen(
            [sys.executable, "-P", "-c", WRITER, root], stdout=subprocess.PIPE, text=True
        )
        try:
            assert writer.stdout is not None
            for _ in range(kill_after):
                said = int(writer.stdout.readline())
        finally:
            writer.send_signal(signal.SIGKILL)
            rest, _ = writer.communicate()
        said = max([said, *map(int, rest.split())])
        found = Evidence.open(root, desk.clock).entries()
        assert [e.statement.predicate["n"] for e in found] == list(range(len(found)))
        assert len(found) > said


def test_a_witness_signs_a_continuation(desk: Desk) -> None:
    small_log(desk)
    first = desk.evidence.checkpoint()
    desk.drill("drill-3")
    second = desk.evidence.checkpoint()
    assert first.count("— urn:zaibei:witness:".encode()) == 2
    assert second.count("— urn:zaibei:witness:".encode()) == 2
    assert [w.last().size for w in desk.evidence.witnesses if w.last()] == [7, 7]  # type: ignore[union-attr]


def test_a_witness_refuses_a_log_that_went_back(desk: Desk) -> None:
    small_log(desk)
    keep = desk.root / "keep"
    shutil.copytree(desk.root / "evidence", keep)
    desk.drill("drill-that-failed", "FAIL")
    desk.evidence.checkpoint()
    shutil.rmtree(desk.root / "evidence")
    shutil.copytree(keep, desk.root / "evidence")
    with pytest.raises(Refused, match="went back from 7 to 5"):
        desk.evidence.checkpoint()


def test_a_witness_refuses_a_log_that_was_rewritten_with_the_right_key(desk: Desk) -> None:
    small_log(desk)
    keep = desk.root / "keep"
    shutil.copytree(desk.root / "evidence", keep)
    desk.drill("drill-3", "FAIL")
    desk.evidence.checkpoint()
    shutil.rmtree(desk.root / "evidence")
    shutil.copytree(keep, desk.root / "evidence")
    desk.drill("drill-3", "PASS")
    with pytest.raises(Refused, match="not the ones it saw"):
        desk.evidence.checkpoint()


def test_a_witness_that_is_busy_leaves_its_line_out_and_nothing_else(desk: Desk) -> None:
    small_log(desk)
    with sole(desk.root / "site-b" / "lock", what="another log"):
        signed = desk.evidence.checkpoint()
    assert b"witness:site-c" in signed
    assert b"witness:site-b" not in signed


def test_a_witness_does_not_change_the_log_it_watches(desk: Desk, tmp_path: Path) -> None:
    other = Evidence.open(tmp_path / "other", SimClock())
    with pytest.raises(Refused, match="another key"):
        Witness(desk.root / "site-b", name="site-b", log_key=other.keys.ed25519, clock=desk.clock)


def test_without_sm2_the_log_goes_on_and_says_so(tmp_path: Path) -> None:
    """openssl without SM2: a program of that name, first in the path, that knows no algorithm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "openssl").write_text("#!/bin/sh\necho 'unknown algorithm SM2' >&2\nexit 1\n")
    (folder / "openssl").chmod(0o755)
    code = (
        "import sys\nfrom pathlib import Path\nfrom zaibei.evidence import Evidence, Kind\n"
        "from zaibei.kernel.clock import SimClock\n"
        "e = Evidence.open(Path(sys.argv[1]), SimClock())\ne.record(Kind.ACTION, {'a': 1})\n"
        "print(e.keys.sm2, e.keys.sm2_absent)\n"
    )
    env = dict(os.environ) | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, tmp_path / "e"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(
        "None openssl genpkey -algorithm SM2: exit 1: unknown algorithm SM2"
    )
    assert (tmp_path / "e/log/checkpoint").read_text().count("— ") == 1
