"""A small budget a day reads everything: whoever was read longest ago comes next, and nobody is forgotten."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup.integrity.report import Report
from backup.writer.pack_health import Level, PackHealth, Reading, coverage
from zaibei.kernel.errors import Damage

DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = [f"{n:064x}" for n in range(40)]


def report(level: Level = Level.SAMPLE, *, read: int = 0, damaged: tuple[str, ...] = ()) -> Report:
    out = Report(repository="site-b", level=level, packs_read=read, bytes_read=read * 10)
    for key in damaged:
        out.found(key, Damage("bad"), by_content=True)
    return out


def finish(ledger: PackHealth, found: Report, *, at: datetime, took: timedelta) -> None:
    ledger.finish(
        found.findings,
        level=found.level,
        packs_read=found.packs_read,
        bytes_read=found.bytes_read,
        at=at,
        took=took,
    )


def key(name: str) -> str:
    return f"packs/{name[:2]}/{name}"


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 15), st.sampled_from(NAMES))
def test_every_pack_is_read_once_before_any_is_read_twice(
    packs: int, a_day: int, start: str
) -> None:
    with PackHealth(None) as ledger:
        ledger.know((n, 10) for n in NAMES[:packs])
        read: list[str] = []
        for day in range(-(-packs // a_day)):
            for name, _ in [*ledger.due(start)][:a_day]:
                ledger.record(name, at=START + day * DAY, sound=True)
                read.append(name)
        assert set(read) == set(NAMES[:packs])
        assert len(set(read[:packs])) == packs
        assert ledger.coverage(START).never_verified == 0


def test_what_was_found_damaged_is_read_again_first(tmp_path: Path) -> None:
    with PackHealth(tmp_path / "l") as ledger:
        ledger.know((n, 10) for n in NAMES[:4])
        for at, name in enumerate(NAMES[:3]):
            ledger.record(name, at=START + at * DAY, sound=name != NAMES[2])
        assert [n for n, _ in ledger.due(NAMES[0])] == [NAMES[2], NAMES[3], NAMES[0], NAMES[1]]


def test_the_ledger_is_of_what_is_there_now_and_outlives_the_process(tmp_path: Path) -> None:
    with PackHealth(tmp_path / "l") as ledger:
        ledger.know([(NAMES[0], 10), (NAMES[1], 10)])
        ledger.record(NAMES[1], at=START, sound=True)
    with PackHealth(tmp_path / "l") as ledger:
        ledger.know([(NAMES[1], 10), (NAMES[2], 30)])
        found = ledger.coverage(START)
    assert (found.never_verified, found.never_verified_bytes) == (1, 30)
    assert found.oldest_verified_at == START


def test_damage_stays_until_it_was_found_sound_again(tmp_path: Path) -> None:
    with PackHealth(tmp_path / "l") as ledger:
        ledger.know([(NAMES[0], 10), (NAMES[1], 10)])

        def damaged_after(found: Report) -> list[str]:
            finish(ledger, found, at=START, took=timedelta(seconds=1))
            return ledger.damaged()

        ledger.record(NAMES[0], at=START, sound=False)
        wal = "wal/system=1/epoch=1/timeline=00000001/000000010000000000000003"
        both = damaged_after(report(Level.FULL, damaged=(key(NAMES[0]), wal)))
        assert both == [key(NAMES[0]), wal]
        assert damaged_after(report(Level.STRUCTURE)) == both, "nobody read it again"
        ledger.record(NAMES[1], at=START, sound=True)
        assert damaged_after(report()) == both, "the sample read another pack"
        ledger.record(NAMES[0], at=START, sound=True)
        assert damaged_after(report()) == [wal]
        assert damaged_after(report(Level.FULL)) == []


def test_one_sample_is_no_pace_and_two_are(tmp_path: Path) -> None:
    with PackHealth(tmp_path / "l") as ledger:
        ledger.know((n, 10) for n in NAMES)
        for day, name in enumerate(NAMES[:2]):
            ledger.record(name, at=START + day * DAY, sound=True)
            finish(ledger, report(read=1), at=START + day * DAY, took=DAY)
            found = ledger.coverage(START + day * DAY)
            if day == 0:
                assert (found.bytes_per_day, found.days_to_full_coverage) == (None, None)
        assert found.bytes_per_day == pytest.approx(10)
        assert found.days_to_full_coverage == pytest.approx(38)
        assert found.days_a_round == pytest.approx(40)


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 10**12)), max_size=6))
def test_days_are_never_promised_where_nothing_was_read(runs: list[tuple[int, int]]) -> None:
    read = [Reading(at=START + d * DAY, read_bytes=b) for d, b in sorted(runs)]
    found = coverage(read, packs_unread=3, bytes_unread=30, bytes_total=100, oldest=None)
    paced = sum(r.read_bytes for r in read[1:]) > 0 and read[-1].at > read[0].at
    assert (found.days_to_full_coverage is not None) == paced
    if found.days_to_full_coverage is not None:
        assert found.days_to_full_coverage > 0


def test_a_ledger_that_cannot_be_read_is_begun_anew_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "l.sqlite"
    file.write_bytes(b"not a database" * 1000)
    with PackHealth(file) as ledger:
        ledger.know([(NAMES[0], 10)])
        assert ledger.coverage(START).never_verified == 1
    assert (tmp_path / "l.damaged").exists()
