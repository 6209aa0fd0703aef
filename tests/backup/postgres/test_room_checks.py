"""What is judged around a room without starting one: targets, the log's words, damage with a file's name."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.format.snapshot import Content, Snapshot
from backup.format.wal_segment import SEGMENT_BYTES, say_lsn
from backup.postgres.checks import Check
from backup.postgres.recovery_target import Action, Target, stopped
from backup.sources.postgres import why_it_failed
from backup.wal.required import wal_needed_from
from zaibei.kernel.errors import Damage, ToolFailed, Usage


def snapshot(kind: str, **facts: object) -> Snapshot:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    content = Content(
        kind=kind,
        label="",
        host="h",
        started=at,
        finished=at,
        tree=(),
        entries=0,
        size_bytes=0,
        complete=True,
        facts=facts,
    )
    return Snapshot(sequence=1, digest="", previous=None, content=content)


def test_a_wrong_page_checksum_is_damage_and_names_the_file() -> None:
    said = (
        'WARNING:  checksum verification failed in file "./base/5/16384", block 7: calculated 1 but expected 2\n'
        "pg_basebackup: error: checksum error occurred"
    )
    found = why_it_failed("pg_basebackup: exit 1: …", said)
    assert isinstance(found, Damage)
    assert "./base/5/16384 (block 7)" in found.message and "another member" in found.hints[0]
    assert isinstance(why_it_failed("pg_basebackup: exit 1: no", "connection refused"), ToolFailed)


@given(lsn=st.integers(1, 2**63), timeline=st.integers(1, 2**31), system=st.integers(1, 2**63))
def test_the_log_is_needed_from_where_the_backup_began(
    lsn: int, timeline: int, system: int
) -> None:
    one = snapshot(
        "postgres", start_lsn=say_lsn(lsn), start_timeline=timeline, system_identifier=str(system)
    )
    assert wal_needed_from(one) == (system, timeline, lsn // SEGMENT_BYTES)
    assert wal_needed_from(snapshot("files")) is None


def test_a_target_says_which_timeline_and_what_to_do_there() -> None:
    one = Target.parse("name=before", timeline=3, action=Action.PAUSE)
    assert one.settings() == {
        "recovery_target_name": "before",
        "recovery_target_action": "pause",
    }
    assert str(one) == "name before of timeline 3"
    assert Target.parse("latest").settings() == {}
    for wrong in ("time=2026-11-22T04:00:00", "lsn=7", "name=it's", "latest=x", "xid=7"):
        with pytest.raises(Usage):
            Target.parse(wrong)
    with pytest.raises(Usage, match="nothing to pause at"):
        Target.parse("latest", action=Action.PAUSE)
    with pytest.raises(Usage, match="not a timeline"):
        Target.parse("latest", timeline=0)


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("2026-11-30T05:43:58Z", "2026-11-30 05:43:58+00:00"),
        ("2026-11-30T05:43:58.000123Z", "2026-11-30 05:43:58.000123+00:00"),
        ("2026-11-30 13:43:58+08:00", "2026-11-30 13:43:58+08:00"),
        ("20261130T134358+0800", "2026-11-30 13:43:58+08:00"),
        ("2026-W49-1T05:43:58,5Z", "2026-11-30 05:43:58.500000+00:00"),
    ],
)
def test_a_time_reaches_postgresql_with_an_offset_in_digits(said: str, written: str) -> None:
    """PostgreSQL 15 does not start with the Z that our own hint shows."""
    assert Target.parse(f"time={said}").settings()["recovery_target_time"] == written


def test_why_recovery_stopped_is_the_servers_own_word() -> None:
    log = '2026 LOG:  recovery stopping at restore point "p", time 2026-11-22 07:00:00+00\n… LOG:  redo done'
    assert stopped(log) == 'recovery stopping at restore point "p", time 2026-11-22 07:00:00+00'
    assert stopped("LOG:  redo done at 0/7000060") is None


def test_not_knowing_is_a_failure_only_where_it_was_asked_for() -> None:
    assert Check(name="x", passed=True, detail="").holds
    assert not Check(name="x", passed=False, detail="").holds
    assert not Check(name="x", passed=None, detail="").holds
    assert Check(name="x", passed=None, detail="", needed=False).holds
