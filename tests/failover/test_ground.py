from datetime import timedelta
from pathlib import Path

import pytest

from backup import status
from failover.steady_state import why_no_recent_backup
from zaibei import config
from zaibei.config.model import Stack
from zaibei.kernel.clock import SimClock


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path / "state"))
    file = tmp_path / "stack.yaml"
    file.write_text(config.sample(config.DEFAULT))
    return config.load(file)


def test_a_drill_sees_the_backups_that_backup_says_it_took(stack: Stack) -> None:
    """Through the writer itself: a reader with keys of its own once refused every drill."""
    clock = SimClock()
    assert why_no_recent_backup(stack, now=clock.now()) == "no backup was ever taken"

    status.backed_up("site-b/zaibei-vault", kind="postgres", sequence=1, at=clock.now())
    assert why_no_recent_backup(stack, now=clock.now()) == "the vault of site-c has none"

    status.backed_up("site-c/zaibei-vault", kind="files", sequence=1, at=clock.now())
    assert why_no_recent_backup(stack, now=clock.now()) == "the vault of site-c has none"

    status.backed_up("site-c/zaibei-vault", kind="postgres", sequence=2, at=clock.now())
    assert why_no_recent_backup(stack, now=clock.now()) is None

    clock.sleep(timedelta(hours=1, seconds=1))
    old = why_no_recent_backup(stack, now=clock.now())
    assert old == "the newest in the vault of site-b is 60 minutes old"

    for other in (
        "site-b/another",
        "site-c/another",
    ):  # the newest of a site counts, whatever its name
        status.backed_up(other, kind="postgres", sequence=1, at=clock.now())
    assert why_no_recent_backup(stack, now=clock.now()) is None
