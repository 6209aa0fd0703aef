"""What a backup every few minutes does not wait for."""

import subprocess
import sys

HEAVY = {"numpy", "psycopg", "structlog", "boto3", "temporalio", "apscheduler", "pydantic", "rich"}


def loaded(*lines: str) -> set[str]:
    program = "\n".join(["import sys", *lines, "print('modules', *sys.modules)"])
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.partition("modules ")[2].split())


def test_the_command_and_the_opening_of_a_repository_load_nothing_heavy() -> None:
    found = loaded(
        "from zaibei.cli.main import build",
        "build(['backup'])",
        "import backup.repository.repository, backup.locations.stack",
    )
    assert "zaibei.cli.backup.run" in found, "a test that loads nothing passes for ever"
    assert not found & HEAVY


def test_a_run_over_files_loads_no_driver_of_databases_or_stores() -> None:
    found = loaded("import backup.run, backup.sources.files")
    assert "numpy" in found, "the index stands on it, and it comes while a key is derived"
    assert not found & (HEAVY - {"numpy"})


def test_the_door_has_all_groups_and_opens_one() -> None:
    found = loaded("from zaibei.cli import main", "main.build(['backup'])")
    assert not {f"zaibei.cli.{g}" for g in ("drill", "lab", "surge")} & found
    found = loaded("from zaibei.cli.main import app")
    assert {f"zaibei.cli.{g}" for g in ("drill", "lab", "surge", "evidence")} <= found
