"""No changed pack is accepted, and the two verifiers never disagree: seeded, and as many as ZAIBEI_MUTATIONS says."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evidence import mutations
from tests.evidence.conftest import OUTCOME, Desk, Forger, by_python, by_shell, open_desk, small_log
from zaibei.evidence import verify

pytestmark = pytest.mark.attack

COUNT = int(os.environ.get("ZAIBEI_MUTATIONS", "41"))  # `make attack`: 2,000
SEED = int(os.environ.get("ZAIBEI_SEED", "20988"))


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """What lies there, links and special files by their kind."""
    return {
        p.relative_to(folder).as_posix(): "link"
        if p.is_symlink()
        else p.read_bytes()
        if p.is_file()
        else None
        for p in folder.rglob("*")
    }


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "changed"
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.timeout(7200)
def test_no_changed_pack_is_accepted_and_the_verifiers_agree(
    honest_desk: Desk, forger: Forger, place: Path
) -> None:
    whole = honest_desk.root / "pack"
    before = contents(whole)
    kinds = (*mutations.PLAIN, *mutations.resealed(forger))
    assert len(kinds) >= 24
    changed = 0
    for n in range(COUNT):
        change, rng = kinds[n % len(kinds)], random.Random(SEED * 1_000_003 + n)
        shutil.copytree(whole, place)
        change(place, rng)
        where = f"mutation {n}: {change.__name__}"
        after = contents(place)
        sealed = "manifest" in change.__name__
        same = all(after.get(k) == v for k, v in before.items() if k != "MANIFEST" or not sealed)
        if not (same and len(after) == len(before)) or change.__name__ == "manifest_line":
            changed += 1
            assert by_python(place) is not None, f"{where}: Python accepted it"
            assert by_shell(place) is not None, f"{where}: the script accepted it"
        shutil.rmtree(place)
    assert changed > COUNT * 0.9, "most mutations must change something"
    print(
        f"{changed} changed packs of {COUNT} mutations of {len(kinds)} kinds, seed {SEED}: all refused by both"
    )


def test_what_python_verifies_of_an_archive_is_what_tar_unpacks(tmp_path: Path) -> None:
    """An auditor runs `tar xzf` and the script. Members that the two read differently must not verify."""
    desk = open_desk(tmp_path)
    small_log(desk)
    whole = desk.pack(OUTCOME)
    raw, before = (desk.root / "pack.tar.gz").read_bytes(), contents(whole)
    for n in range(COUNT):
        changed = tmp_path / "changed.tar.gz"
        changed.write_bytes(mutations.archive_changes(raw, random.Random(SEED * 7 + n)))
        if not verify(changed).ok:
            continue
        out = tmp_path / "out"
        out.mkdir()
        subprocess.run(["tar", "xzf", changed, "-C", out], check=True, capture_output=True)
        tops = list(out.iterdir())
        assert len(tops) == 1, n
        assert contents(tops[0]) == before, (
            f"archive {n}: another pack is unpacked than the one that verified"
        )
        shutil.rmtree(out)
