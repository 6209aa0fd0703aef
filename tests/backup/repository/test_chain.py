"""Junk under a snapshot's number: it makes the chain no longer than it is, and stops nobody for good."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backup.crypto.keyring import Kdf
from backup.errors import Incomplete
from backup.format.snapshot import key_of
from backup.integrity import check_chain, damage, heal, repair
from backup.integrity.report import Report
from backup.integrity.verify import verify
from backup.lifecycle.forget import decide
from backup.lifecycle.retention import Policy
from backup.repository import chain, last_seen
from backup.repository.init import create_repository
from backup.repository.repository import Repository
from backup.run import run_files
from backup.writer.pack_health import Level
from infra.objectstore.directory import DirectoryStore
from zaibei.cli.backup import app
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.progress import Silent

CLOCK, FAST = SystemClock(), Kdf(memory_kib=64, iterations=1, lanes=1)
pytestmark = pytest.mark.timeout(60)
FAR = 9_999_999_999


class Vault:
    def __init__(self, base: Path) -> None:
        self.base, self.root = base, base / "r"
        (base / "secret").write_text("look\n")
        self.source = base / "source"
        self.source.mkdir()
        self.repo = create_repository(DirectoryStore(self.root), "look", clock=CLOCK, kdf=FAST)
        for day in (1, 2):
            assert self.backup(day) is None

    def backup(self, day: int) -> str | None:
        (self.source / f"day{day}").write_bytes(random.Random(day).randbytes(5000))
        try:
            run_files([self.source], [self.repo], CLOCK, random.Random(day), Silent())
        except (Incomplete, Damage) as bad:
            return str(bad)
        return None

    def at(self, sequence: int) -> Path:
        return self.root / key_of(sequence)

    def verify(self) -> Report:
        return verify(self.repo, Level.STRUCTURE, rng=random.Random(1), progress=Silent())

    def repair(self, *, deleter: bool = False) -> repair.Repaired:
        return repair.repair(
            self.repo, Silent(), deleter=self.repo.store if deleter else None, rng=random.Random(1)
        )

    def run(self, *argv: str) -> tuple[int, str, str]:
        at = ["--repo", self.repo.name, "--password-file", str(self.base / "secret")]
        done = CliRunner().invoke(app, [*argv, *at])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


@pytest.mark.parametrize("number", [99, FAR])
def test_junk_far_above_is_no_snapshot_and_no_loss(vault: Vault, number: int) -> None:
    vault.at(number).write_text("junk\n")
    (told,) = vault.verify().findings
    assert (told.object, check_chain.WHAT in told.why) == (key_of(number), True)
    assert vault.backup(3) is None, "the chain goes on where it was"
    done = vault.repair()
    assert (done.wounds.snapshots, done.losses, done.complete) == ({}, [], False)
    assert done.stay == {key_of(number): "only the deleter can remove it"}
    assert not vault.repo.forgotten()
    assert vault.repair(deleter=True).complete
    assert not vault.at(number).exists()
    assert not vault.verify().damage
    assert [one.sequence for one in vault.repo.snapshots()] == [1, 2, 3]


def test_heal_tells_of_junk_far_above_and_ends(vault: Vault, tmp_path: Path) -> None:
    other = create_repository(DirectoryStore(tmp_path / "c"), "look", clock=CLOCK, kdf=FAST)
    vault.at(FAR).write_text("junk\n")
    done = heal.heal(vault.repo, other, Silent(), rng=random.Random(1))
    assert [key_of(FAR) in line for line in done.unhealed] == [True]
    done = heal.heal(vault.repo, other, Silent(), deleter=vault.repo.store, rng=random.Random(1))
    assert done.complete
    assert not vault.at(FAR).exists()


def test_what_this_machine_saw_is_no_stray(vault: Vault) -> None:
    for day in (3, 4):
        vault.backup(day)
    last_seen.remember(vault.repo, vault.repo.snapshot(4))
    vault.at(3).unlink()
    vault.at(4).write_text("junk\n")
    assert chain.strays(vault.repo) == []
    assert sorted(damage.find(vault.repo, Silent(), read=False).snapshots) == [3, 4]


def test_a_signed_number_far_ahead_is_not_searched_up_to(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "HOLES_MAX", 2)
    for day in (3, 4, 5):
        vault.backup(day)
    for sequence in (2, 3, 4):
        vault.at(sequence).unlink()
    with pytest.raises(Refused, match="snapshot 5 is signed, and 3 before it are not there"):
        vault.repair()
    with pytest.raises(Damage, match="missing"):
        chain.sound(vault.repo, lambda _number, _why: None)


def test_junk_at_the_next_number_is_stated_as_that_one(vault: Vault) -> None:
    vault.at(3).write_text("junk\n")
    assert vault.backup(3) is not None
    assert [loss.snapshot for loss in vault.repair().losses] == [3]
    assert vault.backup(4) is None
    assert [one.sequence for one in vault.repo.snapshots()] == [1, 2, 4]


def test_list_shows_the_sound_ones_and_names_the_damaged(vault: Vault) -> None:
    vault.backup(3)
    vault.at(1).write_text("junk\n")
    code, out, err = vault.run("list")
    assert (code, out.count("complete")) == (1, 2)
    assert f"DAMAGED: {vault.repo.name}: snapshot 1: " in err
    assert "hint: zaibei backup heal" in err
    code, out, _ = vault.run("list", "--json")
    told: dict[str, Any] = json.loads(out)
    assert [one["sequence"] for one in told["damaged"]] == [1]
    assert "repair" in told["damaged"][0]["hint"]
    assert code == 1


def test_list_names_a_hole(vault: Vault) -> None:
    vault.backup(3)
    vault.at(2).unlink()
    code, out, err = vault.run("list")
    assert (code, out.count("complete")) == (1, 2)
    assert "snapshot 2: missing from the chain" in err


def test_who_needs_every_snapshot_is_told_where_and_what_mends_it(vault: Vault) -> None:
    vault.at(1).write_text("junk\n")
    with pytest.raises(Damage) as told:
        decide(vault.repo, Policy(last=1))
    assert told.value.message.startswith(vault.repo.name)
    assert any("heal" in hint for hint in told.value.hints)


def test_a_directory_in_the_next_place_is_named_and_repair_goes_on_after_it(vault: Vault) -> None:
    vault.at(3).mkdir()
    assert "is a directory and not a file" in str(vault.backup(3))
    (told,) = vault.verify().findings
    assert (told.object, "is a directory" in told.why) == (key_of(3), True)
    assert [loss.snapshot for loss in vault.repair().losses] == [3]
    assert vault.backup(4) is None
    assert [one.sequence for one in vault.repo.snapshots()] == [1, 2, 4]
    assert not vault.verify().damage


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("what", ["fifo", "link", "directory"])
def test_no_file_in_the_place_of_the_newest_is_stated(
    vault: Vault, what: str, remembered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not remembered:
        monkeypatch.setenv("ZAIBEI_STATE", str(vault.base / "another"))
    place = vault.at(2)
    place.unlink()
    match what:
        case "fifo":
            os.mkfifo(place)
        case "link":
            place.symlink_to("/dev/null")
        case _:
            place.mkdir()
    assert vault.backup(3) is not None
    assert [loss.snapshot for loss in vault.repair().losses] == [2]
    assert vault.backup(4) is None
    assert [one.sequence for one in vault.repo.snapshots()] == [1, 3]


def test_no_gap_no_reading(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repository, "link", lambda *_: pytest.fail("read"))
    assert vault.repo.present() == [1, 2]
