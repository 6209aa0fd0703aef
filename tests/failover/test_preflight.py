"""What speaks against a drill before it is run, and how it is overruled."""

import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from failover import preflight
from failover.control.members import _members
from failover.preflight import Finding, State, demand, doubts_of, not_durable, why_too_full
from monitors.check import Unmeasured
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Missing, Refused, Usage
from zaibei.kernel.process import run

WELL = Finding(name="writer", state=State.OK, detail="site-a writes")
HELD = Finding(name="mounts", state=State.NOTE, detail="held")
FULL = Finding(name="disks", state=State.REFUSED, detail="site-a is full", hints=("free it",))
DARK = Finding(name="alerts", state=State.UNKNOWN, detail="site-b is silent", hints=("look",))
EMPTY = Finding(name="data", state=State.REFUSED, detail="no data", hints=("zaibei data load",))


def test_a_refusal_names_everything_that_speaks_against_it_and_the_way_out_of_each() -> None:
    with pytest.raises(Refused) as refused:
        demand([WELL, FULL, DARK, HELD], despite=())
    assert refused.value.message == (
        "not fit for a drill: disks: site-a is full; alerts: site-b is silent"
    )
    assert refused.value.hints == ("free it", "look")


def test_unknown_is_no_yes_until_it_is_overruled_by_name() -> None:
    with pytest.raises(Refused, match="site-b is silent"):
        demand([WELL, DARK], despite=("disks",))
    assert demand([WELL, DARK], despite=("alerts",)) == (DARK,)


def test_overruling_one_does_not_overrule_another() -> None:
    with pytest.raises(
        Refused, match=r"not fit for a drill: disks: site-a is full\nhint: free it$"
    ):
        demand([FULL, DARK], despite=("alerts",))


def test_a_question_that_is_not_asked_cannot_be_overruled() -> None:
    with pytest.raises(Usage, match="--despite everything: no such question") as wrong:
        preflight.known(("alerts", "everything"))
    assert "alerts" in wrong.value.hints[0]


def test_a_drill_that_takes_the_first_backup_does_not_wait_for_the_record_of_one() -> None:
    silent = [
        Unmeasured(alert=name, at="", reason="no record yet")
        for name in ("BackupAnomalous", "WalArchiveGap", "SiteDown")
    ]
    assert doubts_of(silent, backup=True) == silent
    assert doubts_of(silent, backup=False) == silent[2:]


def test_only_missing_data_is_missing() -> None:
    with pytest.raises(Missing):
        demand([WELL, EMPTY], despite=())
    with pytest.raises(Refused):
        demand([FULL, EMPTY], despite=())


def test_every_question_of_a_stack_that_does_not_answer_is_unknown_or_refused_and_none_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infra.lab.plan import plan  # noqa: PLC0415
    from tests.failover import drills  # noqa: PLC0415

    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    declared = drills.stack(tmp_path)
    found = preflight.check(
        preflight.Asked(
            stack=declared,
            lab=plan(declared, tmp_path / "state"),
            backup=True,
            access=drills.access(declared, tmp_path),
            clock=SystemClock(),
        )
    )
    said = {f.name: f.state for f in found}
    assert tuple(said) == preflight.names()
    for name in ("data", "disks", "synchronous-commit"):
        assert said[name] is State.UNKNOWN
    assert said["backup"] is State.REFUSED
    assert said["alerts"] in (State.UNKNOWN, State.REFUSED)
    with pytest.raises(Refused, match="no backup was ever taken"):
        demand(found, despite=())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_disk_without_room_or_without_inodes_is_named(
    small_disk: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    disk = small_disk(tmp_path / "disk", 8 << 20)
    run(["mount", "-o", "remount,nr_inodes=200", disk])
    assert why_too_full("site-a", disk, 1 << 20) is None
    assert "MiB free, a drill wants 512 MiB" in str(why_too_full("site-a", disk, 512 << 20))

    with suppress(OSError):
        for i in range(300):
            (disk / f"{i}").touch()
    assert os.statvfs(disk).f_favail == 0
    assert "inodes free" in str(why_too_full("site-a", disk, 0))


def test_whatever_acknowledges_before_the_standby_has_it_is_found_wherever_it_is_set() -> None:
    with _members(random.Random(1), SystemClock()) as members:
        one = members.first()
        with one.connect() as db:
            assert not_durable(db) == {}
            db.execute("CREATE ROLE app")
            db.execute("ALTER ROLE app SET synchronous_commit = off")
            db.execute(
                "ALTER ROLE app IN DATABASE postgres SET synchronous_commit = 'remote_write'"
            )
            db.execute("ALTER DATABASE template1 SET synchronous_commit = local")
            db.execute(
                "CREATE FUNCTION quick() RETURNS int LANGUAGE sql AS 'SELECT 1' SET synchronous_commit = off"
            )
            assert not_durable(db) == {
                "role app": "off",
                "role app in database postgres": "remote_write",
                "database template1": "local",
                "function quick() in database postgres": "off",
            }
        one.sql("ALTER SYSTEM SET synchronous_commit = off")
        one.sql("SELECT pg_reload_conf()")
        with one.connect() as db:
            assert "off" in not_durable(db)["the server (configuration file)"]
