"""From answers to samples to a page: what is unknown is absent, and what is not declared is refused."""

import random
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from infra.lab import identity, pki
from infra.lab.plan import plan
from infra.sites import SiteAccess, StackAccess, StoreAccess
from monitors.bounds import Bounds, bounds
from monitors.check import check, of_alert
from monitors.exporter import families, page, serve
from monitors.metrics import BY_NAME, Sample, Where, sample
from monitors.probes.postgres import Member
from monitors.probes.records import BackupRecord, VaultRecord
from monitors.reading import Answer, Unknown
from monitors.rules import all_rules
from monitors.survey import Survey, questions, samples, survey
from tests.infra.conftest import three_sites
from zaibei.cli.choice import chosen_stack
from zaibei.cli.main import app
from zaibei.config import DEFAULT
from zaibei.config import load as load_stack
from zaibei.config import sample as sample_of
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Busy, Usage

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def _bounds() -> Bounds:
    return Bounds(
        sites=("site-a", "site-b"),
        buckets=("geo-images",),
        vaults=("site-b",),
        scenarios=("site-power-loss",),
        lag_limit={"site-b": timedelta(seconds=10)},
        backup_limit={"site-b": timedelta(days=1)},
        drill_every={"site-power-loss": timedelta(days=30)},
    )


def _access(folder: Path) -> StackAccess:
    """Two sites at which nothing listens."""
    sites = tuple(
        SiteAccess(
            name=name,
            address="127.0.0.1",
            store=StoreAccess(endpoint="https://127.0.0.1:1", region="x", keys={}),
            postgres_port=1,
            primary_port=1,
            replica_port=1,
            patroni_url="https://127.0.0.1:1",
            etcd_url="https://127.0.0.1:1",
            entry_url="https://127.0.0.1:1",
            exporter_url="https://127.0.0.1:1",
        )
        for name in ("site-a", "site-b")
    )
    return StackAccess(
        stack="trial",
        operator_address="127.0.0.1",
        ca_file=folder / "ca.crt",
        client_cert=folder / "client.crt",
        client_key=folder / "client.key",
        ssh_key=folder / "ssh",
        ssh_known_hosts=folder / "known",
        sites=sites,
        passwords={},
    )


def _member(*, in_recovery: bool, timeline: int = 1) -> Member:
    return Member(
        in_recovery=in_recovery,
        now=NOW,
        timeline=timeline,
        position_bytes=100,
        replayed_at=None,
        sync_names="",
        followers=(),
    )


def _told(tmp_path: Path, *members: Member | Unknown) -> dict[tuple[str, tuple[str, ...]], float]:
    answers = [
        Answer(probe="postgres", site=site, took=timedelta(0), value=value)
        for site, value in zip(("site-a", "site-b"), members, strict=True)
    ]
    made = samples(answers, access=_access(tmp_path), bounds=_bounds(), now=NOW)
    return {(s.metric, s.labels): s.value for s in made}


def test_a_site_that_does_not_answer_is_absent_and_not_a_standby(tmp_path: Path) -> None:
    told = _told(tmp_path, Unknown(reason="refused"), _member(in_recovery=True))
    assert told["zaibei_probe_up", ("postgres", "site-a")] == 0
    assert ("zaibei_writer", ("site-a",)) not in told
    assert ("zaibei_epoch", ()) not in told
    assert ("zaibei_sync_degraded", ()) not in told
    assert ("zaibei_replication_lag_bytes", ("site-b",)) not in told


def test_two_writers_are_both_told_and_the_epoch_is_the_younger_one(tmp_path: Path) -> None:
    one, two = _member(in_recovery=False), _member(in_recovery=False, timeline=2)
    told = _told(tmp_path, one, two)
    assert told["zaibei_writer", ("site-a",)] == told["zaibei_writer", ("site-b",)] == 1
    assert told["zaibei_epoch", ()] == 2
    seen = Survey(
        at=NOW,
        samples=tuple(Sample(metric=m, labels=k, value=v) for (m, k), v in told.items()),
        silences=(),
    )
    assert "TwoWriters" in {f.alert for f in check(all_rules(), seen, _bounds()).firing}


def test_a_stack_of_which_nothing_answers_gives_no_value_at_all(
    tmp_path: Path,
) -> None:
    seen = survey(
        _access(tmp_path),
        _bounds(),
        state=tmp_path / "none",
        clock=SystemClock(),
        deadline=timedelta(seconds=2),
    )
    asked = questions(_access(tmp_path), _bounds(), state=tmp_path, now=NOW)
    # That no drill runs is an answer: nothing else is known.
    assert len(seen.silences) == len(asked) - 1
    assert all(s.reason for s in seen.silences)
    known = {s.metric for s in seen.samples}
    limits = {m for m in BY_NAME if m.endswith("_limit_seconds")}
    assert known == limits | {"zaibei_probe_up", "zaibei_probe_seconds"}
    up = {s.labels[0] for s in seen.samples if s.metric == "zaibei_probe_up" and s.value}
    assert up == {"drill_mark"}
    found = check(all_rules(), seen, _bounds())
    assert "NoWriter" in found.unknown, "nobody could tell: that is not quiet"
    assert {f.alert for f in found.firing} == {
        "ProbeDown",
        "CertificateUnknown",
        "ExporterDown",
        "BackupUnknown",
        "StoreAuditUnknown",
        "DrillRecordUnknown",
    }
    assert of_alert(found, "NoWriter", frozenset({"NoWriter"})).unknown == ("NoWriter",)
    with pytest.raises(Usage):
        of_alert(found, "NoSuchAlert", frozenset({"NoWriter"}))


def test_a_vault_that_was_never_rehearsed_is_seen_and_the_one_beside_it_is_quiet(
    tmp_path: Path,
) -> None:
    def vault(restored: timedelta | None) -> VaultRecord:
        return VaultRecord(last_success=timedelta(0), last_restored=restored, anomalous=None)

    record = BackupRecord(
        vaults={"site-b": vault(None), "site-c": vault(timedelta(days=1))},
        wal_age=None,
        wal_gaps=None,
        overdue=None,
    )
    answer = Answer(probe="backup_record", site="", took=timedelta(0), value=record)
    made = samples([answer], access=_access(tmp_path), bounds=_bounds(), now=NOW)
    found = check(all_rules(), Survey(at=NOW, samples=tuple(made), silences=()), _bounds())
    fired = [(f.alert, f.labels["vault"]) for f in found.firing if f.alert.startswith("Restore")]
    assert fired == [("RestoreNeverRehearsed", "site-b")]


def test_a_site_alone_is_judged_by_its_own_samples() -> None:
    free = (sample("zaibei_disk_free_ratio", 0.01, "site-a", "data"),)
    seen = Survey(at=NOW, samples=(), silences=(), hosts=free)
    assert [f.alert for f in check(all_rules(), seen, _bounds()).firing] == ["DiskFilling"]
    there = check(all_rules(), seen, _bounds(), site="site-b")
    assert there.firing == ()
    assert "DiskFilling" in there.unknown


def test_labels_and_limits_come_from_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    stack = chosen_stack(None)
    within = bounds(stack)
    assert within.sites == tuple(s.name for s in stack.sites)
    assert within.scenarios
    assert set(within.vaults) <= set(within.sites)
    for vault, limit in within.backup_limit.items():
        held = [d.backup.max_age for d in stack.databases if vault in d.backup.vaults]
        assert limit == min(held), "the strictest of the databases that are kept there"


def test_a_remote_site_may_be_as_far_behind_as_was_promised_for_the_loss_of_the_city(
    tmp_path: Path,
) -> None:
    def limits(*swaps: tuple[str, str], template: str = DEFAULT) -> dict[str, timedelta]:
        text = sample_of(template)
        for old, new in swaps:
            assert text.count(old) == 1
            text = text.replace(old, new)
        (tmp_path / "stack.yaml").write_text(text)
        return bounds(load_stack(tmp_path / "stack.yaml")).lag_limit

    assert limits() == {"site-c": timedelta(seconds=60)}
    assert limits(("rpo: 60s  #", "rpo: 7s  #")) == {"site-c": timedelta(seconds=7)}
    # The 15min of ransomware and the 1h of an operator's error are the backups' promise, not the copy's.
    assert limits(template="single") == {"site-v": timedelta(minutes=5)}
    assert limits(template="core-plus-three") == dict.fromkeys(
        ("guilin", "wuzhou"), timedelta(seconds=60)
    )


@pytest.mark.parametrize(
    "bad",
    [
        [sample("zaibei_writer", 1, "a"), sample("zaibei_writer", 0, "a")],
        [sample("zaibei_service_up", 1, "a", "b")],
    ],
)
def test_a_page_that_prometheus_would_misread_is_a_bug(bad: list[Sample]) -> None:
    with pytest.raises(AssertionError):
        list(families(bad, where=Where.OPERATOR))


@given(value=st.floats(allow_nan=False), label=st.text(max_size=20))
@settings(max_examples=50)
def test_what_is_shown_is_what_was_measured(value: float, label: str) -> None:
    shown = page(lambda: [sample("zaibei_writer", value, label)], where=Where.OPERATOR)
    (family,) = text_string_to_metric_families(shown)
    (one,) = family.samples
    assert (one.name, one.labels, one.value) == ("zaibei_writer", {"site": label}, value)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield held.getsockname()[1]


def test_a_port_that_is_taken_is_told_with_a_way_out(taken: int) -> None:
    with pytest.raises(Busy, match=f"127.0.0.1:{taken}") as told:
        serve(list, where=Where.OPERATOR, address="127.0.0.1", port=taken)
    assert "--port" in told.value.hints[0]


def test_a_scrape_gets_the_samples_of_that_moment() -> None:
    rng = random.Random(7)
    port, stop = serve(
        lambda: [sample("zaibei_epoch", rng.randrange(100))],
        where=Where.OPERATOR,
        address="127.0.0.1",
        port=0,
    )
    try:
        pages = [urllib.request.urlopen(f"http://127.0.0.1:{port}/").read() for _ in range(2)]
    finally:
        stop()
    wanted = random.Random(7)
    assert [f"zaibei_epoch {wanted.randrange(100)}.0".encode() in p for p in pages] == [True, True]


def test_without_a_provisioned_stack_the_command_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path))
    told = CliRunner().invoke(app, ["monitor", "check", "--json"])
    assert told.exit_code != 0
    assert "zaibei lab up" in str(told.exception)


def test_the_rules_are_listed_with_their_runbooks() -> None:
    told = CliRunner().invoke(app, ["monitor", "rules"])
    assert told.exit_code == 0
    assert "fence-site" in told.output


@pytest.mark.attack
def test_a_page_of_a_site_is_for_who_has_a_certificate_under_the_right_root(
    tmp_path: Path,
) -> None:
    lab = replace(plan(three_sites(), tmp_path), vaults=("site-c",))
    identity.ensure(lab, SystemClock())
    folder = lab.secrets / "pki"
    port, stop = serve(
        lambda: [sample("zaibei_service_up", True, "site-a", "etcd")],
        where=Where.SITE,
        address="127.0.0.1",
        port=0,
        certificate=(folder / "site-a" / "exporter.pem", folder / "site-a" / "exporter.pem"),
        client_ca=pki.root_file(folder, "scrape"),
    )

    def scrape(leaf: str | None) -> bytes:
        tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        if leaf is not None:
            tls.load_cert_chain(folder / leaf)
        return urllib.request.urlopen(  # type: ignore[no-any-return]
            f"https://127.0.0.1:{port}/metrics", context=tls, timeout=5
        ).read()

    try:
        assert b"zaibei_service_up" in scrape("operator/exporter.pem")
        for leaf in (None, "operator/patroni.pem", "site-a/exporter.pem", "site-b/healthcode.pem"):
            with pytest.raises(OSError):
                scrape(leaf)
    finally:
        stop()
