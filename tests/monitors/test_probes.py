"""The probes against real servers, and what they say when nobody answers."""

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup import status
from backup.format.snapshot import Content, Snapshot
from backup.status import WalStatus
from monitors.ask import Asker, ask_all
from monitors.metrics import BY_NAME
from monitors.pages import declared
from monitors.probes import certificates, doors, host, https, patroni, postgres, records
from monitors.probes.postgres import Follower, Member, lag, sync_degraded
from monitors.reading import Probe, Unknown
from monitors.site_exporter import config, samples
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Damage, Unreachable
from zaibei.kernel.wait import wait_until

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SOON = timedelta(seconds=5)


def _member(**changed: Any) -> Member:
    facts: dict[str, Any] = {
        "in_recovery": True,
        "now": NOW,
        "timeline": 1,
        "position_bytes": 1000,
        "replayed_at": NOW - timedelta(hours=1),
        "sync_names": "",
        "followers": (),
    }
    return Member(**(facts | changed))


def _writer(**changed: Any) -> Member:
    return _member(**({"in_recovery": False, "replayed_at": None} | changed))


def _follower(**changed: Any) -> Follower:
    facts: dict[str, Any] = {
        "name": "site-b",
        "address": None,
        "state": "streaming",
        "sync_state": "sync",
        "replay_lag": None,
        "reply_time": NOW - timedelta(seconds=2),
    }
    return Follower(**(facts | changed))


def test_an_idle_standby_that_is_level_with_its_writer_is_not_behind() -> None:
    told = lag(_member(), _writer(), site="site-b", address="x")
    assert (told.behind_bytes, told.age) == (0, timedelta(0))


def test_a_standby_without_a_writer_to_compare_with_is_never_level() -> None:
    """It replayed all that it received; by itself it would look perfect for as long as the cut lasts."""
    told = lag(_member(), None, site="site-b", address="x")
    assert told.behind_bytes is None
    assert told.age == timedelta(hours=1)


def test_a_stream_that_went_silent_ages_although_its_last_measure_was_good() -> None:
    writer = _writer(
        position_bytes=5000, followers=(_follower(reply_time=NOW - timedelta(seconds=40)),)
    )
    assert lag(_member(), writer, site="site-b", address="x").age == timedelta(seconds=40)


def test_a_fork_that_looks_ahead_is_not_level() -> None:
    told = lag(_member(position_bytes=9000), _writer(timeline=2), site="site-b", address="x")
    assert told.behind_bytes is None
    assert told.age == timedelta(hours=1)


@given(
    written=st.integers(0, 10**6),
    replayed=st.integers(0, 10**6),
    timeline=st.integers(1, 2),
    idle_s=st.integers(1, 10**6),
    reply_s=st.integers(0, 100),
)
def test_an_age_of_zero_is_only_told_of_a_standby_that_was_seen_level(
    written: int, replayed: int, timeline: int, idle_s: int, reply_s: int
) -> None:
    standby = _member(position_bytes=replayed, replayed_at=NOW - timedelta(seconds=idle_s))
    reply = NOW - timedelta(seconds=reply_s + 1)
    writer = _writer(
        position_bytes=written, timeline=timeline, followers=(_follower(reply_time=reply),)
    )
    told = lag(standby, writer, site="site-b", address="x")
    level = replayed >= written and timeline == 1
    assert (told.age == timedelta(0)) is level
    assert (told.behind_bytes == 0) is level


@pytest.mark.parametrize(
    ("names", "followers", "degraded"),
    [
        ("", (), True),
        ("", (_follower(sync_state="async"),), True),
        ("site-b", (), True),
        ("site-b", (_follower(state="catchup"),), True),
        ("site-b", (_follower(sync_state="potential"),), True),
        ("site-b", (_follower(),), False),
        ("ANY 1 (site-b)", (_follower(sync_state="quorum"),), False),
    ],
)
def test_durability_on_two_sites_needs_a_named_partner_that_streams(
    names: str, followers: tuple[Follower, ...], degraded: bool
) -> None:
    assert (sync_degraded(_writer(sync_names=names, followers=followers)) is not None) is degraded


@pytest.mark.integration
def test_two_real_members_say_who_writes_and_how_far_the_other_is_behind(pair: Any) -> None:
    pair.ask_writer("create table if not exists t (n int); insert into t values (1)")

    def level() -> str | None:
        standby = postgres.ask(pair.standby_dsn, password=None, deadline=SOON)
        writer = postgres.ask(pair.writer_dsn, password=None, deadline=SOON)
        assert standby.in_recovery
        assert not writer.in_recovery
        assert (standby.timeline, writer.timeline) == (1, 1)
        told = lag(standby, writer, site="site-b", address="127.0.0.1")
        assert told.age is not None
        return None if told.behind_bytes == 0 else f"behind by {told.behind_bytes}"

    wait_until(level, what="the standby is level", deadline=SOON * 4, clock=SystemClock())
    assert sync_degraded(postgres.ask(pair.writer_dsn, password=None, deadline=SOON))
    try:
        pair.ask_writer("alter system set synchronous_standby_names = '\"site-b\"'")
        pair.ask_writer("select pg_reload_conf()")
        wait_until(
            lambda: sync_degraded(postgres.ask(pair.writer_dsn, password=None, deadline=SOON)),
            what="commits are on two members",
            deadline=SOON * 4,
            clock=SystemClock(),
        )
    finally:
        pair.ask_writer("alter system reset synchronous_standby_names")
        pair.ask_writer("select pg_reload_conf()")


@pytest.mark.integration
def test_a_standby_whose_replay_stands_still_is_behind_in_bytes_and_in_time(pair: Any) -> None:
    with psycopg.connect(pair.standby_dsn, autocommit=True) as link:
        link.execute("select pg_wal_replay_pause()")
        try:
            pair.ask_writer("create table if not exists u (n int); insert into u values (1)")
            standby = postgres.ask(pair.standby_dsn, password=None, deadline=SOON)
            writer = postgres.ask(pair.writer_dsn, password=None, deadline=SOON)
            told = lag(standby, writer, site="site-b", address="127.0.0.1")
            assert told.behind_bytes is not None
            assert told.behind_bytes > 0
            assert told.age is not None
            assert told.age > timedelta(0)
        finally:
            link.execute("select pg_wal_replay_resume()")


def test_a_member_that_is_not_there_is_told_with_the_reason() -> None:
    with pytest.raises(Unreachable, match="refused"):
        postgres.ask("host=127.0.0.1 port=1 user=x dbname=x", password=None, deadline=SOON)


def test_a_probe_that_hangs_costs_its_own_answer_and_not_the_round() -> None:
    stuck, other = socket.socketpair()
    with stuck, other:
        asked = [
            Probe(name="hangs", site="a", ask=lambda _: stuck.recv(1)),
            Probe(name="fails", site="a", ask=lambda _: 1 // 0),
            Probe(name="answers", site="a", ask=lambda _: 42),
        ]
        answers = ask_all(asked, deadline=timedelta(milliseconds=50), clock=SystemClock())
        other.send(b"x")
    assert [a.probe for a in answers] == ["hangs", "fails", "answers"]
    assert isinstance(answers[0].value, Unknown)
    assert answers[1].value == Unknown(reason="integer division or modulo by zero")
    assert answers[2].value == 42


PAGES: dict[str, tuple[int, object]] = {
    "/patroni": (503, {"state": "running", "role": "primary", "timeline": 3, "pause": True}),
    "/cluster": (
        200,
        {
            "members": [
                {
                    "name": "a",
                    "host": "10.0.0.1",
                    "role": "leader",
                    "state": "running",
                    "timeline": 3,
                },
                {
                    "name": "b",
                    "host": "10.0.0.2",
                    "role": "sync_standby",
                    "state": "streaming",
                    "lag": "unknown",
                },
            ]
        },
    ),
    "/health": (503, {"health": "false"}),
    "/healthz/ready": (503, "not json"),
    "/lag": (
        200,
        'SeaweedFS_filerSync_lag_seconds{a="1"} 2\nSeaweedFS_filerSync_lag_seconds{a="2"} 7.5\n',
    ),
    "/nolag": (200, "other 1\n"),
}


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, said = PAGES.get(self.path, (404, "no"))
        body = (said if isinstance(said, str) else json.dumps(said)).encode()
        if self.path.startswith("/moved/"):
            # With the very words that the probe looks for, and to a page that has them too.
            status, body = 302, b'{"health": "true", "role": "primary", "state": "running"}'
        self.send_response(status)
        if self.path.startswith("/moved/"):
            self.send_header("Location", self.path.removeprefix("/moved"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def server(pki: Any) -> Iterator[tuple[str, str]]:
    """The same pages over TLS and in the clear."""
    plain = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    secure = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pki.cert, pki.key)
    secure.socket = tls.wrap_socket(secure.socket, server_side=True)
    threads = [Thread(target=s.serve_forever, args=(0.05,)) for s in (plain, secure)]
    for thread in threads:
        thread.start()
    yield (
        f"https://127.0.0.1:{secure.server_port}",
        f"http://127.0.0.1:{plain.server_port}",
    )
    for one, thread in zip((plain, secure), threads, strict=True):
        one.shutdown()
        one.server_close()
        thread.join()


def test_patroni_etcd_and_the_door_are_read_from_their_bodies(
    server: tuple[str, str], pki: Any
) -> None:
    url, _ = server
    tls = https.context(ca_file=pki.ca)
    own = patroni.own(url, tls=tls, deadline=SOON)
    assert (own.leads, own.paused, own.timeline) == (True, True, 3)
    cluster = patroni.cluster(url, tls=tls, deadline=SOON)
    leader = cluster.leader()
    assert leader is not None
    assert leader.host == "10.0.0.1"
    assert cluster.members[1].lag_bytes is None, "`unknown` is not zero"
    assert doors.etcd(url, tls=tls, deadline=SOON) is False
    assert not doors.ready(doors.entry(url, tls=tls, deadline=SOON))


def test_a_server_of_another_ca_is_not_believed(server: tuple[str, str]) -> None:
    with pytest.raises(Unreachable, match="certificate"):
        patroni.own(server[0], tls=ssl.create_default_context(), deadline=SOON)


@pytest.mark.attack
def test_a_redirect_is_not_the_word_of_patroni_of_etcd_or_of_the_door(
    server: tuple[str, str], pki: Any
) -> None:
    url, tls = f"{server[0]}/moved", https.context(ca_file=pki.ca)
    with pytest.raises(Unreachable, match="redirect"):
        patroni.own(url, tls=tls, deadline=SOON)
    with pytest.raises(Unreachable, match="redirect"):
        patroni.cluster(url, tls=tls, deadline=SOON)
    assert doors.etcd(url, tls=tls, deadline=SOON) is False
    assert not doors.ready(doors.entry(url, tls=tls, deadline=SOON))
    with pytest.raises(Unreachable, match="status 302"):
        https.page(f"{url}/lag", tls=tls, deadline=SOON)


def test_an_expiry_is_read_also_where_nobody_would_trust_the_certificate(
    server: tuple[str, str], pki: Any
) -> None:
    shown = certificates.shown(server[0], client_cert=pki.cert, client_key=pki.key, deadline=SOON)
    assert shown == pki.expires == certificates.on_disk(pki.cert)


def test_the_object_lag_is_the_worst_one_and_absent_is_not_zero(server: tuple[str, str]) -> None:
    assert host.object_lag(f"{server[1]}/lag", deadline=SOON) == timedelta(seconds=7.5)
    with pytest.raises(Unreachable):
        host.object_lag(f"{server[1]}/nolag", deadline=SOON)


def test_a_closed_port_is_an_answer_and_a_full_disk_is_seen(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        assert host.listens("127.0.0.1", port, deadline=SOON)
    assert not host.listens("127.0.0.1", port, deadline=SOON)
    free, share = host.disk_free(tmp_path)
    assert free > 0
    assert 0 < share <= 1


def _at(**ago: float) -> str:
    return (NOW - timedelta(**ago)).isoformat()


def test_backup_facts_are_read_as_the_backup_job_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the writer itself: the two sides of the file cannot drift apart unseen."""
    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path))
    file = tmp_path / "backup" / "status.json"
    repository, other = "site-b/zaibei-vault", "site-c/zaibei-vault"
    then = NOW - timedelta(hours=2)
    status.backed_up(repository, kind="postgres", sequence=7, at=then)
    status.backed_up(repository, kind="files", sequence=8, at=NOW)
    status.failed(other, why="unreachable", at=NOW)
    status.restore_verified(repository, sequence=7, at=NOW - timedelta(days=3), took_s=9.0)
    lane = WalStatus(
        receiving=True,
        restarts=0,
        received_lsn="0/1",
        timeline=1,
        spool_bytes=0,
        lag=timedelta(seconds=1.5),
        vaults=(),
        error=None,
        gaps=("0/1-0/2",),
        held_bytes=4096,
    )
    status.wal(lane, at=NOW - timedelta(seconds=3))
    told = records.backups(file, vaults=["site-b", "site-c"], now=NOW)
    assert told.vaults["site-b"].last_success == timedelta(hours=2), "not the age of the files"
    assert told.vaults["site-b"].last_restored == timedelta(days=3)
    assert told.vaults["site-c"].last_success is None, "a failure is not a backup"
    assert told.vaults["site-c"].last_restored is None
    assert told.wal_age == timedelta(seconds=4.5)
    assert told.wal_gaps == 1
    assert told.wal_facts == {
        "zaibei_wal_receiving": 1,
        "zaibei_wal_receiver_restarts": 0,
        "zaibei_wal_slot_held_bytes": 4096,
        "zaibei_wal_spool_bytes": 0,
    }
    assert told.vaults["site-b"].anomalous is None and told.overdue is None, "nobody said"


def test_a_rehearsal_of_one_vault_leaves_the_proof_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path))
    file = tmp_path / "backup" / "status.json"
    for site, days in (("site-b", 9), ("site-c", 2)):
        at = NOW - timedelta(days=days)
        status.restore_verified(f"{site}/zaibei-vault", sequence=7, at=at, took_s=9.0)
    told = records.backups(file, vaults=["site-a", "site-b", "site-c"], now=NOW)
    ages = {v: one.last_restored for v, one in told.vaults.items()}
    assert ages == {"site-a": None, "site-b": timedelta(days=9), "site-c": timedelta(days=2)}
    assert told.vaults["site-b"].last_success is None, "a restore is not a backup"


def test_a_proof_from_before_there_was_one_a_vault_counts_for_the_vault_it_names(
    tmp_path: Path,
) -> None:
    file = tmp_path / "status.json"
    old = {"vault": "site-b/zaibei-vault", "snapshot": 7, "at": _at(days=3), "took_s": 9.0}
    file.write_text(json.dumps({"format": 1, "vaults": {}, "verified_restore": old}))
    told = records.backups(file, vaults=["site-b", "site-c"], now=NOW)
    assert told.vaults["site-b"].last_restored == timedelta(days=3)
    assert told.vaults["site-c"].last_restored is None


def test_what_the_guard_and_the_schedule_wrote_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path))
    for name, verdict in (("a", "anomalous"), ("b", "clean"), ("c", "unknown")):
        content = Content(
            kind="files",
            label="",
            host=name,
            started=NOW,
            finished=NOW,
            tree=(),
            entries=0,
            size_bytes=0,
            complete=True,
            facts={"guard": {"verdict": verdict, "reasons": []}},
        )
        made = Snapshot(sequence=1, digest="", previous=None, content=content)
        status.judged("site-b/zaibei-vault", made, at=NOW)
    late, soon = NOW - timedelta(seconds=1), NOW + timedelta(hours=1)
    status.scheduled(
        {
            "nightly": {"due_by": late.isoformat()},
            "hourly": {"due_by": soon.isoformat()},
            "off": {"due_by": None},
        },
        at=NOW - timedelta(days=1),
    )
    file = tmp_path / "backup" / "status.json"
    told = records.backups(file, vaults=["site-b", "site-c"], now=NOW)
    assert told.vaults["site-b"].anomalous == 1
    assert told.vaults["site-c"].anomalous is None, "nothing was judged there"
    assert told.overdue == 1, "by its own word, although the scheduler has said nothing for a day"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"vaults": {}}',
        '{"format": 2, "vaults": {}}',
        '{"format": 1, "vaults": []}',
        '{"format": 1, "vaults": {"site-b": 3}}',
        '{"format": 1, "vaults": {"site-b": {"verified_restore": 3}}}',
        '{"format": 1, "vaults": {"site-b": {"verified_restore": {"at": "2026-01-03T00:00:00Z"}}}}',
        '{"format": 1, "vaults": {}, "wal": {"lag_s": -1}}',
        '{"format": 1, "vaults": {}, "wal": {"at": "yesterday"}}',
        '{"format": 1, "vaults": {}, "wal": {"at": "2026-01-01T00:00:00"}}',
        '{"format": 1, "vaults": {}, "wal": {"at": "2026-01-03T00:00:00Z"}}',
    ],
)
def test_a_garbled_status_is_damage_and_no_age(tmp_path: Path, content: str) -> None:
    file = tmp_path / "status.json"
    file.write_text(content)
    with pytest.raises(Damage):
        records.backups(file, vaults=["site-b"], now=NOW)


def test_a_missing_status_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        records.backups(tmp_path / "none.json", vaults=[], now=NOW)


def test_an_invalid_drill_is_the_last_one_and_measured_nothing(tmp_path: Path) -> None:
    for name, scenario, verdict, days in (
        ("drill-1", "site-power-loss", "PASS", 9),
        ("drill-2", "site-power-loss", "INVALID", 1),
        ("drill-3", "somebody-elses", "PASS", 1),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(
            json.dumps({"scenario": scenario, "verdict": verdict, "ended_at": _at(days=days)})
        )
    told = records.drills(tmp_path, scenarios=["site-power-loss", "ransomware"], now=NOW)
    assert told["site-power-loss"].last_verdict == "INVALID"
    assert told["site-power-loss"].measured_age == timedelta(days=9)
    assert told["ransomware"].measured_age is None
    (tmp_path / "drill-2" / "result.json").write_text("{")
    with pytest.raises(Damage):
        records.drills(tmp_path, scenarios=["site-power-loss"], now=NOW)


@pytest.mark.integration
def test_the_exporter_of_a_site_serves_its_own_facts_over_tls(
    pair: Any, pki: Any, server: tuple[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    file = tmp_path / "exporter.json"
    file.write_text(
        json.dumps(
            {
                "site": "site-b",
                "address": "127.0.0.1",
                "port": port,
                "certificate": str(pki.cert),
                "key": str(pki.key),
                "services": {"patroni": 1, "haproxy": str(port)},
                "mounts": {"data": str(tmp_path)},
                "postgres_dsn": pair.standby_dsn,
                "object_lag_urls": {
                    "citizen-objects": f"{server[1]}/lag",
                    "geo-images": f"{server[1]}/nolag",
                },
            }
        )
    )
    program = [sys.executable, "-P", "-m", "monitors.site_exporter", str(file)]
    child = subprocess.Popen(program, env=os.environ)
    try:
        tls = https.context(ca_file=pki.ca)
        url = f"https://127.0.0.1:{port}/metrics"
        page: list[bytes] = []

        def ready() -> str | None:
            try:
                page.append(https.request(url, tls=tls, deadline=SOON).body)
            except Unreachable as gone:
                return gone.message
            # Its own port is among the services: the first round was before it listened.
            return None if b'service="haproxy",site="site-b"} 1' in page[-1] else "no second round"

        wait_until(ready, what="it serves", deadline=SOON * 4, clock=SystemClock())
        assert child.poll() is None
    finally:
        child.terminate()
        assert child.wait(timeout=20) == 0
    seen = {(s.metric, s.labels): s.value for s in declared(page[-1].decode(), site="site-b")}
    assert seen["zaibei_service_up", ("site-b", "patroni")] == 0
    assert seen["zaibei_service_up", ("site-b", "haproxy")] == 1
    assert seen["zaibei_local_in_recovery", ("site-b",)] == 1
    assert seen["zaibei_object_lag_seconds", ("site-b",)] == 7.5
    assert seen["zaibei_local_probe_up", ("site-b", "objectlag_citizen-objects")] == 1
    assert seen["zaibei_local_probe_up", ("site-b", "objectlag_geo-images")] == 0
    assert list(declared(page[0].decode(), site="site-a")) == [], "a site speaks of itself alone"


def test_a_site_whose_database_is_gone_says_so_and_nothing_else_about_it(tmp_path: Path) -> None:
    file = tmp_path / "exporter.json"
    file.write_text(
        json.dumps(
            {
                "site": "site-b",
                "address": "127.0.0.1",
                "port": 1,
                "certificate": "x",
                "key": "x",
                "services": {},
                "mounts": {},
                "postgres_dsn": "host=127.0.0.1 port=1 user=x dbname=x",
            }
        )
    )
    clock = SystemClock()
    told = {(s.metric, s.labels): s.value for s in samples(config(file), Asker(clock=clock), clock)}
    assert told == {("zaibei_local_probe_up", ("site-b", "postgres")): 0}
    assert replace(config(file), site="x").site == "x"
    assert {m for m, _ in told} <= BY_NAME.keys()


@pytest.mark.parametrize(
    ("wal", "following"),
    [
        ('"wal": null', False),
        ('"wal": {"at": "2026-01-01T23:59:00Z", "lag_s": 2, "gaps": []}', True),
        ('"wal": {"at": "2026-01-01T23:59:00Z", "lag_s": 2, "following": false}', False),
        ('"schedule": null', None),
    ],
)
def test_an_archiver_that_was_ended_on_purpose_has_no_age_and_one_that_says_nothing_is_not_quiet(
    tmp_path: Path, wal: str, following: bool | None
) -> None:
    (tmp_path / "status.json").write_text(f'{{"format": 1, "vaults": {{}}, {wal}}}')
    told = records.backups(tmp_path / "status.json", vaults=[], now=NOW)
    assert told.following is following
    assert (told.wal_age is not None) is (following is True)


@pytest.mark.attack
@pytest.mark.parametrize(
    "text",
    [
        '"wal": 0',
        '"wal": []',
        '"wal": ""',
        '"wal": false',
        '"wal": {"following": "no"}',
        '"wal": {"following": 0}',
        '"guard": []',
        '"guard": 0',
        '"verified_restore": ""',
        '"schedule": {"jobs": []}',
        '"schedule": {"jobs": 0}',
    ],
)
def test_a_record_with_rubbish_where_nothing_stands_is_damage_and_not_quiet(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "status.json").write_text(f'{{"format": 1, "vaults": {{}}, {text}}}')
    with pytest.raises(Damage):
        records.backups(tmp_path / "status.json", vaults=["site-b"], now=NOW)
