"""Unknown is told alert by alert and site by site: one that answers does not speak for one that is silent."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitors import moves
from monitors.bounds import Bounds
from monitors.check import Check, check, must_be_known
from monitors.metrics import Sample, sample
from monitors.pages import declared
from monitors.probes import records
from monitors.probes.postgres import Member
from monitors.rules import all_rules
from monitors.survey import Silence, Survey
from zaibei.kernel.errors import Damage, Usage
from zaibei.kernel.state import marked

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SITES = ("site-a", "site-b", "site-c")
BOUNDS = Bounds(
    sites=SITES,
    buckets=("geo-images",),
    vaults=("site-b", "site-c"),
    scenarios=("site-power-loss",),
    lag_limit={"site-c": timedelta(seconds=60)},
    backup_limit={},
    drill_every={},
)


def _well() -> list[Sample]:
    """Every site answers, and all is well."""
    told = [sample("zaibei_backup_age_seconds", 60, v) for v in BOUNDS.vaults]
    told += [sample("zaibei_backup_limit_seconds", 999, v) for v in BOUNDS.vaults]
    for site in SITES:
        told += [
            sample("zaibei_etcd_healthy", 1, site),
            sample("zaibei_door_ready", 1, site),
            sample("zaibei_writer", site == "site-a", site),
            sample("zaibei_cert_expiry_seconds", 9e9, site, "entry"),
            sample("zaibei_probe_up", 1, "exporter", site),
        ]
    told += [sample("zaibei_replication_lag_seconds", 0, s) for s in SITES[1:]]
    told += [sample("zaibei_replication_lag_limit_seconds", 60, "site-c")]
    return [*told, sample("zaibei_sync_degraded", 0), sample("zaibei_epoch", 1)]


def _hosts() -> list[Sample]:
    return [
        made
        for site in SITES
        for made in (
            sample("zaibei_disk_free_ratio", 0.9, site, "root"),
            sample("zaibei_disk_free_ratio", 0.9, site, "data"),
            sample("zaibei_local_probe_up", 1, site, "disk_data"),
            sample("zaibei_local_round_age_seconds", 1, site),
        )
    ]


def _judged(
    *silent: tuple[str, str],
    without: Callable[[Sample], bool] = lambda _: False,
    site: str | None = None,
    local: tuple[str, str] | None = None,
) -> Check:
    hosts = [h for h in _hosts() if not without(h)]
    if local is not None:
        hosts.append(sample("zaibei_local_probe_up", 0, *local))
    seen = Survey(
        at=NOW,
        samples=tuple(s for s in _well() if not without(s)),
        silences=tuple(Silence(probe=p, site=s, reason="frozen") for p, s in silent),
        hosts=tuple(hosts),
    )
    return check(all_rules(), seen, BOUNDS, site=site)


def _at(found: Check, alert: str) -> list[str]:
    return [d.at for d in found.unmeasured if d.alert == alert]


def test_where_all_answer_nothing_is_unknown() -> None:
    found = _judged()
    for alert in (
        "EtcdUnhealthy",
        "DiskFilling",
        "NoWriter",
        "TwoWriters",
        "SyncDegraded",
        "ReplicationLag",
        "BackupTooOld",
        "ExporterDown",
        "WriterMoved",
        "RoundStale",
    ):
        assert _at(found, alert) == [], alert


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    ("probe", "metric", "alert"),
    [
        ("etcd", "zaibei_etcd_healthy", "EtcdUnhealthy"),
        ("door", "zaibei_door_ready", "DoorNotReady"),
        ("cert_entry", "zaibei_cert_expiry_seconds", "CertificateExpiresNow"),
        ("exporter", "zaibei_disk_free_ratio", "DiskFilling"),
        ("exporter", "zaibei_service_up", "ServiceDown"),
        ("exporter", "zaibei_local_probe_up", "SiteProbeDown"),
    ],
)
def test_a_probe_that_is_silent_at_one_site_makes_its_alerts_unknown_there_alone(
    probe: str, metric: str, alert: str, site: str
) -> None:
    def gone(one: Sample) -> bool:
        return one.metric == metric and site in one.labels

    found = _judged((probe, site), without=gone)
    assert _at(found, alert) == [site]
    assert alert in found.unknown
    assert _at(_judged((probe, site), without=gone, site=site), alert) == [site]
    other = next(s for s in SITES if s != site)
    assert _at(_judged((probe, site), without=gone, site=other), alert) == []


def test_a_mount_that_its_site_cannot_read_is_unknown_although_the_other_is_seen() -> None:
    def gone(one: Sample) -> bool:
        return one.labels == ("site-b", "data")

    found = _judged(without=gone, local=("site-b", "disk_data"))
    assert _at(found, "DiskFilling") == ["site-b"]


def test_a_page_that_answers_and_tells_nothing_of_the_disks_is_not_quiet() -> None:
    def gone(one: Sample) -> bool:
        return one.metric == "zaibei_disk_free_ratio" and one.labels[0] == "site-c"

    assert _at(_judged(without=gone), "DiskFilling") == ["site-c"]


def test_with_the_writer_seen_a_silent_site_may_be_a_second_one_and_there_is_a_first() -> None:
    def gone(one: Sample) -> bool:
        return one.metric == "zaibei_writer" and one.labels == ("site-b",)

    found = _judged(("postgres", "site-b"), without=gone)
    assert _at(found, "TwoWriters") == ["site-b"]
    assert _at(found, "NoWriter") == []
    assert _at(found, "SyncDegraded") == [], "the writer itself tells it"


def test_a_silent_writer_leaves_the_lag_of_the_others_unknown() -> None:
    def gone(one: Sample) -> bool:
        of_writer = one.metric in (
            "zaibei_sync_degraded",
            "zaibei_epoch",
            "zaibei_replication_lag_seconds",
        )
        return of_writer or (one.metric == "zaibei_writer" and one.labels == ("site-a",))

    found = _judged(("postgres", "site-a"), without=gone)
    assert _at(found, "ReplicationLag") == list(SITES)
    assert _at(found, "ReplicationLagBeyondObjective") == ["site-c"], (
        "of the others none is promised"
    )
    assert _at(found, "SyncDegraded") == [""]
    assert "NoWriter" in {f.alert for f in found.firing}


def test_a_vault_without_any_backup_is_unknown_although_the_other_is_fresh() -> None:
    def gone(one: Sample) -> bool:
        return one.metric == "zaibei_backup_age_seconds" and one.labels == ("site-c",)

    assert _at(_judged(without=gone), "BackupTooOld") == ["site-c"]


def test_a_site_that_was_never_provisioned_is_unknown_in_everything() -> None:
    found = _judged(("access", "site-c"), without=lambda s: "site-c" in s.labels)
    for alert in ("EtcdUnhealthy", "DiskFilling", "DoorNotReady", "CertificateExpiresSoon"):
        assert _at(found, alert) == ["site-c"], alert


def test_what_fires_while_a_drill_runs_is_told_apart() -> None:
    told = [s for s in _well() if s.metric != "zaibei_writer"]
    told += [sample("zaibei_writer", 0, s) for s in SITES]
    seen = Survey(at=NOW, samples=tuple(told), silences=())
    (quiet,) = [f for f in check(all_rules(), seen, BOUNDS).firing if f.alert == "NoWriter"]
    assert quiet.drill == ""
    running = sample("zaibei_drill_in_progress", 1, "site-power-loss", "site-a")
    seen = replace(seen, samples=(*told, running))
    (made,) = [f for f in check(all_rules(), seen, BOUNDS).firing if f.alert == "NoWriter"]
    assert made.drill == "site-power-loss"


@pytest.mark.attack
def test_the_page_of_a_site_speaks_of_itself_alone_and_in_numbers() -> None:
    page = (
        'zaibei_disk_free_ratio{site="site-a",mount="data"} NaN\n'
        'zaibei_disk_free_ratio{site="site-b",mount="data"} 0.9\n'
        'zaibei_disk_free_ratio{site="site-a",mount="\x1b[2Jdata"} 0.9\n'
        'zaibei_disk_free_ratio{site="site-a",mount="root",more="x"} 0.9\n'
        'zaibei_writer{site="site-a"} 1\n'
        'zaibei_disk_free_ratio{site="site-a",mount="root"} 0.5\n'
    )
    told = list(declared(page, site="site-a"))
    assert told == [sample("zaibei_disk_free_ratio", 0.5, "site-a", "root")]


def _member(*, writes: bool, timeline: int = 1) -> Member:
    return Member(
        in_recovery=not writes,
        now=NOW,
        timeline=timeline,
        position_bytes=1,
        replayed_at=None,
        sync_names="",
        followers=(),
    )


def test_a_takeover_is_seen_after_it_is_over_and_by_an_exporter_that_was_restarted(
    tmp_path: Path,
) -> None:
    file = tmp_path / "monitor" / "writer.json"
    before = {"site-a": _member(writes=True), "site-b": _member(writes=False)}
    assert moves.note(file, before, now=NOW) == moves.Seat(site="site-a", timeline=1)
    outage = {"site-b": _member(writes=False)}
    moves.note(file, outage, now=NOW + timedelta(seconds=10))
    after = {"site-b": _member(writes=True, timeline=2)}
    moves.note(file, after, now=NOW + timedelta(seconds=40))
    seat = moves.note(file, after, now=NOW + timedelta(seconds=50))
    told = list(moves.samples(seat, sites=SITES, now=NOW + timedelta(seconds=50)))
    assert told == [
        sample("zaibei_writer_moves", 1),
        sample("zaibei_writer_moved_age_seconds", 10, "site-a", "site-b"),
    ]
    seen = Survey(at=NOW, samples=(*_well(), *told), silences=())
    (fired,) = [f for f in check(all_rules(), seen, BOUNDS).firing if f.alert == "WriterMoved"]
    assert fired.summary["en"] == "the writer moved from site-a to site-b"
    assert fired.runbook == "fail-back.yml"


def test_what_is_no_move_is_not_told_as_one() -> None:
    seat = moves.Seat(site="site-a", timeline=3)
    same = {"site-a": _member(writes=True, timeline=3)}
    assert moves.seen(seat, same, now=NOW) == seat
    assert moves.seen(seat, {}, now=NOW) == seat, "a silence moves nobody"
    younger = {"site-a": _member(writes=True, timeline=1)}
    fresh = moves.seen(seat, younger, now=NOW)
    assert fresh is not None
    assert (fresh.timeline, fresh.moves) == (1, 0), "another cluster at the same place"
    two = same | {"site-b": _member(writes=True, timeline=4)}
    taken = moves.seen(seat, two, now=NOW)
    assert taken is not None
    assert (taken.site, taken.previous, taken.moves) == ("site-b", "site-a", 1)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "site": 3, "timeline": 1}',
        '{"format": 1, "site": "site-a", "timeline": "x"}',
        '{"format": 1, "odd": 1}',
        '{"format": 1, "site": "site-a", "timeline": 1, "moved_at": "2026-01-01T00:00:00"}',
        '{"format": 1, "site": "site-a", "timeline": 1, "moved_at": 3}',
    ],
)
def test_a_garbled_record_of_the_writer_is_begun_again(tmp_path: Path, content: str) -> None:
    file = tmp_path / "writer.json"
    file.write_text(content)
    after = moves.note(file, {"site-b": _member(writes=True)}, now=NOW)
    assert after == moves.Seat(site="site-b", timeline=1)
    assert json.loads(file.read_text())["site"] == "site-b"


_HOLDER = """
import pathlib, sys
from zaibei.kernel.state import marked
with marked(pathlib.Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_drill_is_in_progress_for_as_long_as_its_process_lives(tmp_path: Path) -> None:
    file = tmp_path / "running.json"
    assert records.drill_in_progress(tmp_path, sites=SITES) is None
    mark = json.dumps({"drill_id": "x", "scenario": "site-power-loss", "site": "site-a"})
    argv = [sys.executable, "-P", "-c", _HOLDER, str(file), mark]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    found = records.drill_in_progress(tmp_path, sites=SITES)
    assert found == records.DrillMark(scenario="site-power-loss", site="site-a")
    child.kill()
    child.communicate()
    assert file.exists(), "nobody was left to take it away"
    assert records.drill_in_progress(tmp_path, sites=SITES) is None


@pytest.mark.parametrize(
    "mark",
    [
        "",
        "[]",
        "{}",
        '{"scenario": "x", "site": "site-z"}',
        '{"scenario": "\\u001b[2J", "site": "site-a"}',
    ],
)
def test_a_garbled_mark_is_damage_and_marks_no_alert(tmp_path: Path, mark: str) -> None:
    with marked(tmp_path / "running.json", mark), pytest.raises(Damage):
        records.drill_in_progress(tmp_path, sites=SITES)
    assert records.drill_in_progress(tmp_path, sites=SITES) is None


def _of_the_log(*samples: Sample) -> tuple[list[str], list[str]]:
    found = check(all_rules(), Survey(at=NOW, samples=samples, silences=()), BOUNDS)
    wal = [a for a in found.unknown if a.startswith("Wal")]
    return [f.alert for f in found.firing if f.alert.startswith("Wal")], wal


def test_an_archive_that_nothing_follows_on_purpose_is_not_behind_and_a_warning_says_so() -> None:
    """`WalArchiveBehind` once fired for ever between two drills, and check-backup could not be proven."""
    ended = sample("zaibei_wal_following", 0)
    expected = sample("zaibei_wal_follower_expected", 1)
    assert _of_the_log(ended, expected) == (["WalNotFollowed"], [])
    assert _of_the_log(ended, replace(expected, value=0)) == ([], [])
    assert "WalArchiveBehind" in _of_the_log(expected)[1], "not said is not ended"
    assert "WalArchiveBehind" in _of_the_log(replace(ended, value=1), expected)[1]


def test_an_alert_that_no_rule_has_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(Usage) as wrong:
        must_be_known("WalArchivBehind", frozenset(r.alert for r in all_rules()))
    assert wrong.value.hints == ("did you mean WalArchiveBehind?",)
