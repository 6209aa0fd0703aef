"""What the commands say over a vault with wounds: what is gone is named, what mends it too, and nothing ends well
that is not."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backup.crypto.keyring import Kdf
from backup.repository.init import create_repository
from backup.repository.reader import Reader
from backup.run import run_files
from infra.objectstore.directory import DirectoryStore
from zaibei.cli.backup import app
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.progress import Silent

CLOCK, FAST = SystemClock(), Kdf(memory_kib=64, iterations=1, lanes=1)


class Vault:
    def __init__(self, base: Path) -> None:
        self.base, self.root = base, base / "r"
        (base / "secret").write_text("look\n")
        self.source = base / "source"
        self.source.mkdir()
        self.repo = create_repository(DirectoryStore(self.root), "look", clock=CLOCK, kdf=FAST)
        for day in (1, 2, 3):
            (self.source / f"day{day}").write_bytes(random.Random(day).randbytes(5000))
            run_files([self.source], [self.repo], CLOCK, random.Random(day), Silent())

    def run(self, *argv: str, target: str | None = None) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        where = ["--target", str(self.base / target)] if target else []
        at = ["--repo", self.repo.name, "--password-file", str(self.base / "secret")]
        done = CliRunner().invoke(app, [*argv, *where, *at])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        return done.exit_code, done.stdout, done.stderr

    def json(self, *argv: str, target: str | None = None) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run(*argv, "--json", target=target)[1])
        return found

    def lose_the_end(self) -> None:
        (self.root / "snapshots/0000000003").unlink()

    def tear_a_segment(self) -> None:
        one = min((self.root / "index").iterdir())
        raw = bytearray(one.read_bytes())
        raw[-1] ^= 1
        one.write_bytes(raw)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


GONE = "snapshot 3 was there and is not any more"


def test_list_tells_an_end_that_this_machine_remembers(vault: Vault) -> None:
    assert vault.run("list")[0] == 0
    vault.lose_the_end()
    code, out, err = vault.run("list")
    assert (code, out.count("complete")) == (1, 2)
    assert f"ROLLED BACK: {vault.repo.name}: {GONE}" in err
    assert vault.json("list")["rolled_back"] == [f"{vault.repo.name}: {GONE}"]
    for path in (vault.root / "snapshots").iterdir():
        path.unlink()
    code, out, err = vault.run("list")
    assert (code, out) == (1, ""), "an empty vault that was not empty"
    assert GONE in err


@pytest.mark.parametrize("which", ["latest", "1"])
def test_restore_goes_on_with_what_is_left_and_does_not_end_well(vault: Vault, which: str) -> None:
    vault.lose_the_end()
    code, out, err = vault.run("restore", which, target="t")
    assert code == 1
    assert GONE in out
    assert GONE in err
    assert (vault.base / "t/source/day1").read_bytes() == (vault.source / "day1").read_bytes()
    told = vault.json("restore", which, target="t2")
    assert (told["complete"], told["lost"]) == (False, [])
    assert told["rolled_back"] == [f"{vault.repo.name}: {GONE}"]


@pytest.mark.parametrize("memory", ["torn", "of the newest that is damaged"])
def test_an_older_snapshot_comes_back_whatever_became_of_the_newest_and_of_our_memory(
    vault: Vault, state: Path, memory: str
) -> None:
    if memory == "torn":
        (head,) = (state / "backup/heads").iterdir()
        head.write_text("{")
    else:
        (vault.root / "snapshots/0000000003").write_bytes(b"junk")
    code, _, err = vault.run("restore", "1", target="t")
    assert code == 0
    assert ("UNKNOWN whether" in err) == (memory == "torn")
    assert (vault.base / "t/source/day1").exists()


def test_what_is_asked_for_and_gone_is_not_called_never_there(vault: Vault) -> None:
    for path in (vault.root / "snapshots").iterdir():
        path.unlink()
    for argv in (("restore", "latest", "--dry-run"), ("show", "latest"), ("show", "3")):
        code, _, err = vault.run(*argv)
        assert code == 1
        assert GONE in err
        assert "backup run" not in err, "a run is not what brings it back"


def test_show_latest_says_that_it_is_not_the_latest(vault: Vault) -> None:
    vault.lose_the_end()
    code, out, err = vault.run("show", "latest")
    assert (code, "day2" in out) == (1, True)
    assert f"{GONE}; the newest that is there is 2" in err
    assert vault.json("show", "latest")["rolled_back"] == [f"{vault.repo.name}: {GONE}"]
    assert vault.run("show", "1")[0] == 0


@pytest.mark.parametrize("argv", [("forget", "--keep-last", "1"), ("forget", "1"), ("gc",)])
def test_what_takes_away_refuses_without_the_end(vault: Vault, argv: tuple[str, ...]) -> None:
    vault.lose_the_end()
    for more in (("--dry-run",), ("--confirm", vault.repo.name)):
        code, _, err = vault.run(*argv, *more)
        assert code == 1
        assert GONE in err
        assert "zaibei backup repair" in err
    assert not (vault.root / "forgets").exists()
    assert vault.run("repair", "--confirm", vault.repo.name)[0] == 1
    assert vault.run(*argv, "--dry-run")[0] == 0, "the loss is stated: everything goes on"
    assert vault.run("list")[0] == 0


def test_a_copy_of_what_is_left_does_not_end_well(vault: Vault) -> None:
    vault.lose_the_end()
    other = create_repository(DirectoryStore(vault.base / "c"), "look", clock=CLOCK, kdf=FAST)
    assert vault.run("copy", "--to", other.name, "--dry-run")[0] == 1
    code, out, err = vault.run("copy", "--to", other.name)
    assert (code, "2 copied" in out, GONE in err) == (1, True, True)


def test_a_torn_segment_costs_a_restore_nothing_and_repair_is_named(vault: Vault) -> None:
    vault.tear_a_segment()
    code, out, _ = vault.run("restore", "latest", target="t")
    assert code == 0
    assert "LOST" not in out
    assert "TAKEN FROM ELSEWHERE" not in out
    assert "zaibei backup repair" in out
    for day in (1, 2, 3):
        assert (vault.base / f"t/source/day{day}").exists()
    told = vault.json("restore", "latest", "--dry-run")
    assert len(told["damaged"]) == 1
    code, out, err = vault.run("show", "latest")
    assert (code, "day1" in out) == (0, True)
    assert "zaibei backup repair" in err
    code, _, err = vault.run("gc", "--dry-run")
    assert code == 1
    assert "hint: zaibei backup repair" in err


def test_repair_says_what_it_mended_and_that_nothing_was_wrong(vault: Vault) -> None:
    vault.tear_a_segment()
    code, out, _ = vault.run("repair", "--confirm", vault.repo.name)
    assert code == 0
    assert "packs indexed again" in out
    assert "1 damaged or missing objects marked" in out
    assert "nothing is wrong: every pack was read" in vault.run("repair", "--dry-run")[1]
    assert "no pack was read" in vault.run("repair", "--dry-run", "--no-read-data")[1]


def test_junk_in_the_place_of_the_next_snapshot_leaves_the_older_ones_named(vault: Vault) -> None:
    (vault.root / "snapshots/0000000004").write_bytes(b"junk")
    code, _, err = vault.run("restore", "latest", target="t")
    assert code == 1
    assert "hint: an older one by its number: 3" in err
    assert vault.run("restore", "3", target="t")[0] == 0
    code, _, err = vault.run("run", "--files", str(vault.source))
    assert code == 1
    assert "zaibei backup repair states" in err
    assert vault.run("repair", "--confirm", vault.repo.name)[0] == 1
    assert vault.run("run", "--files", str(vault.source))[0] == 0


@pytest.mark.parametrize("where", ["r/sub", "r", "."])
def test_a_target_and_a_repository_are_not_in_one_another(vault: Vault, where: str) -> None:
    code, _, err = vault.run("restore", "latest", target=where)
    assert code == 2
    assert "are in one another" in err
    assert not (vault.root / "sub").exists()


def test_a_target_by_a_link_into_the_repository_is_seen_through(vault: Vault) -> None:
    (vault.base / "link").symlink_to(vault.root)
    assert vault.run("restore", "latest", target="link/sub")[0] == 2
    assert vault.run("restore", "latest", target="r-beside")[0] == 0, "a like name is no place"


def test_a_kind_that_is_none_and_a_kind_of_which_there_is_none(vault: Vault) -> None:
    code, _, err = vault.run("restore", "latest", "--kind", "foo", target="t")
    assert code == 2
    assert "no kind 'foo'" in err
    code, _, err = vault.run("restore", "latest", "--kind", "postgres", target="t")
    assert code == 2
    assert "none of its snapshots is of postgres" in err


def test_rules_that_leave_nothing_are_said(vault: Vault) -> None:
    code, out, _ = vault.run("restore", "latest", "--exclude", "*", target="t")
    assert code == 0
    assert "note: nothing in the snapshot is left by the rules" in out
    assert vault.json("restore", "latest", target="t2")["notes"] == []


def test_what_is_not_there_is_not_to_be_copied(vault: Vault) -> None:
    other = create_repository(DirectoryStore(vault.base / "c"), "look", clock=CLOCK, kdf=FAST)
    code, _, err = vault.run("copy", "99", "--to", other.name, "--dry-run")
    assert code == 2
    assert "no snapshot 99" in err
    assert vault.json("copy", "2", "2", "--to", other.name, "--dry-run")["to_copy"] == [2]


def test_forgetting_by_number_names_each_once(vault: Vault) -> None:
    yes = ("--confirm", vault.repo.name)
    _, out, _ = vault.run("forget", "1", "1", "1", *yes)
    assert f"{vault.repo.name}: 1 forgotten: 1\n" in out
    _, out, _ = vault.run("forget", "1", "2", *yes)
    assert "1  forgotten already" in out
    assert f"{vault.repo.name}: 1 forgotten: 2\n" in out
    code, out, _ = vault.run("forget", "1", *yes)
    assert (code, "0 forgotten\n" in out) == (0, True)
    told = vault.json("forget", "1", *yes)["repositories"][vault.repo.name]
    assert (told["forgotten"], told["already"]) == ([], [1])


def test_numbers_and_a_policy_together_are_no_request(vault: Vault) -> None:
    for policy in (("--keep-last", "3"), ("--keep-within", "1d"), ("--keep-label", "x")):
        code, _, err = vault.run("forget", "2", *policy, "--dry-run")
        assert code == 2
        assert "numbers, and a policy" in err
    assert vault.run("forget", "2", "--dry-run")[0] == 0


def test_an_index_that_is_torn_and_a_pack_that_is_lost_are_told_apart(vault: Vault) -> None:
    with Reader(vault.repo) as reader:
        node = next(n for n in reader.nodes(vault.repo.find("3")) if n.path == b"source/day3")
        pack = reader.catalogue.locations(node.blobs[0])[0].pack
    vault.tear_a_segment()
    (vault.root / "packs" / pack[:2] / pack).unlink()
    code, out, _ = vault.run("restore", "latest", target="t")
    assert code == 1
    assert "LOST: 'source/day3'" in out
    assert (vault.base / "t/source/day1").exists()
    assert (vault.base / "t/source/day2").exists()
