"""One round of questions to the whole stack, and what its answers mean as samples.

`questions` says what to ask, `samples` is pure: answers in, samples out. A probe without an answer gives
`zaibei_probe_up` 0 and nothing else. All are asked at once, so a round takes as long as its slowest probe.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from infra.sites import SiteAccess, StackAccess
from monitors import moves, pages
from monitors.ask import Asker
from monitors.bounds import Bounds
from monitors.metrics import Sample, sample
from monitors.probes import certificates, doors, host, https, patroni, postgres, records
from monitors.reading import OPERATOR, Answer, Probe, Unknown
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Missing

DEADLINE = timedelta(seconds=2)  # of a round
_ZERO = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A probe that got no answer."""

    probe: str
    site: str
    reason: str
    local: bool = False  # of the site's own exporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    at: datetime
    samples: tuple[Sample, ...]
    silences: tuple[Silence, ...]
    hosts: tuple[
        Sample, ...
    ] = ()  # what the exporters of the sites show: for the check, not for our page


def survey(
    access: StackAccess,
    bounds: Bounds,
    *,
    state: Path,
    clock: Clock,
    deadline: timedelta = DEADLINE,
    asker: Asker | None = None,
) -> Survey:
    """`asker`: the one of the rounds before, when this is not the only one."""
    now = clock.now()
    asked = questions(access, bounds, state=state, now=now)
    answers = (asker or Asker(clock=clock)).ask(asked, deadline=deadline)
    seat = moves.note(state / "monitor" / "writer.json", _members(answers), now=now)
    told = samples(answers, access=access, bounds=bounds, now=now)
    return Survey(
        at=now,
        samples=(*told, *moves.samples(seat, sites=bounds.sites, now=now)),
        hosts=tuple(
            one
            for a in answers
            if a.probe == "exporter" and not isinstance(a.value, Unknown)
            for one in a.value
        ),
        silences=tuple(
            Silence(probe=a.probe, site=a.site, reason=a.value.reason)
            for a in answers
            if isinstance(a.value, Unknown)
        ),
    )


def questions(
    access: StackAccess, bounds: Bounds, *, state: Path, now: datetime
) -> list[Probe[Any]]:
    asked: list[Probe[Any]] = []
    reached = {site.name for site in access.sites}
    for site in access.sites:
        if site.name in bounds.sites:
            asked += _of_site(access, site, bounds)
    # A site that is declared and not provisioned is asked nothing: that is not quiet either.
    asked += [
        Probe(name="access", site=name, ask=partial(_not_provisioned, name))
        for name in bounds.sites
        if name not in reached
    ]
    asked += [
        Probe(
            name="backup_record",
            site=OPERATOR,
            ask=lambda _: records.backups(
                state / "backup" / "status.json", vaults=bounds.vaults, now=now
            ),
        ),
        Probe(
            name="store_audit",
            site=OPERATOR,
            ask=lambda _: _audited(state / "store" / "divergence.json", bounds, now),
        ),
        Probe(
            name="drill_record",
            site=OPERATOR,
            ask=lambda _: records.drills(state / "drills", scenarios=bounds.scenarios, now=now),
        ),
        Probe(
            name="drill_mark",
            site=OPERATOR,
            ask=lambda _: records.drill_in_progress(state / "drills", sites=bounds.sites),
        ),
        Probe(name="state_disk", site=OPERATOR, ask=lambda _: host.disk_free(state)),
        *_own_certificates(access),
        Probe(name="cert_ca", site=OPERATOR, ask=lambda _: certificates.on_disk(access.ca_file)),
    ]
    return asked


def _not_provisioned(site: str, _: timedelta) -> None:
    raise Missing(f"{site}: declared in the stack and not in its access record")


def _own_certificates(access: StackAccess) -> Iterator[Probe[Any]]:
    """The operator's: one for each kind of door, and where there is one for all, that."""
    files = {f"cert_client_{door}": own.cert for door, own in access.identities.items()}
    for name, file in (files or {"cert_client": access.client_cert}).items():
        yield Probe(name=name, site=OPERATOR, ask=partial(_on_disk, file))


def _on_disk(file: Path, deadline: timedelta) -> datetime:
    return certificates.on_disk(file)


def _audited(file: Path, bounds: Bounds, now: datetime) -> dict[str, records.BucketAudit]:
    found = records.audits(file, buckets=bounds.buckets, now=now)
    if missing := [b for b in bounds.buckets if b not in found]:
        # One bucket that nobody audits must not hide behind another that is clean.
        raise Damage(f"{file}: never audited: {', '.join(missing)}")
    return found


def _of_site(access: StackAccess, site: SiteAccess, bounds: Bounds) -> Iterator[Probe[Any]]:
    def tls(door: str | None = None) -> Any:
        """Without a door: as anybody. With one: as who may look behind it."""
        return https.context_of(access, door)

    def member(deadline: timedelta) -> postgres.Member:
        return postgres.ask(
            access.member_dsn(site.name, user="zaibei_probe", database="postgres"),
            password=access.password("zaibei_probe"),
            deadline=deadline,
        )

    def shown(url: str, deadline: timedelta) -> datetime:
        own = access.identity("exporter")  # the one of these doors that asks for a certificate
        return certificates.shown(url, client_cert=own.cert, client_key=own.key, deadline=deadline)

    def store(deadline: timedelta) -> None:
        for bucket in bounds.buckets[:1]:
            doors.store(site.store, bucket=bucket, ca_file=access.ca_file, deadline=deadline)

    yield Probe(name="postgres", site=site.name, ask=member)
    yield Probe(
        name="patroni",
        site=site.name,
        ask=lambda d: patroni.own(site.patroni_url, tls=tls("patroni"), deadline=d),
    )
    yield Probe(
        name="etcd",
        site=site.name,
        ask=lambda d: doors.etcd(site.etcd_url, tls=tls("etcd"), deadline=d),
    )
    yield Probe(
        name="door",
        site=site.name,
        ask=lambda d: doors.entry(site.entry_url, tls=tls(), deadline=d),
    )
    if bounds.buckets:
        yield Probe(name="store", site=site.name, ask=store)
    yield Probe(
        name="exporter",
        site=site.name,
        ask=lambda d: pages.read(
            site.exporter_url, site=site.name, tls=tls("exporter"), deadline=d
        ),
    )
    for endpoint, url in _tls_endpoints(site):
        yield Probe(name=f"cert_{endpoint}", site=site.name, ask=partial(shown, url))


def _tls_endpoints(site: SiteAccess) -> tuple[tuple[str, str], ...]:
    return (
        ("entry", site.entry_url),
        ("patroni", site.patroni_url),
        ("store", site.store.endpoint),
        ("exporter", site.exporter_url),
        *((("vault", site.vault.endpoint),) if site.vault else ()),
    )


def samples(
    answers: Sequence[Answer[Any]], *, access: StackAccess, bounds: Bounds, now: datetime
) -> Iterator[Sample]:
    for answer in answers:
        answered = not isinstance(answer.value, Unknown)
        yield sample("zaibei_probe_up", answered, answer.probe, answer.site)
        yield sample("zaibei_probe_seconds", answer.took.total_seconds(), answer.probe, answer.site)
        if answered:
            yield from _alone(answer.probe, answer.site, answer.value, now=now)
            if answer.probe == "backup_record":
                yield sample("zaibei_wal_follower_expected", bounds.follower_expected)
    yield from _together(_members(answers), addresses={s.name: s.address for s in access.sites})
    for site, limit in bounds.lag_limit.items():
        yield sample("zaibei_replication_lag_limit_seconds", limit.total_seconds(), site)
    for vault, limit in bounds.backup_limit.items():
        yield sample("zaibei_backup_limit_seconds", limit.total_seconds(), vault)
    for scenario, every in bounds.drill_every.items():
        yield sample("zaibei_drill_limit_seconds", every.total_seconds(), scenario)


def _members(answers: Sequence[Answer[Any]]) -> dict[str, postgres.Member]:
    return {
        a.site: a.value
        for a in answers
        if a.probe == "postgres" and isinstance(a.value, postgres.Member)
    }


def _alone(probe: str, site: str, value: Any, *, now: datetime) -> Iterable[Sample]:
    """What one answer says without the others."""
    match probe:
        case "postgres":
            yield sample("zaibei_writer", not value.in_recovery, site)
            yield sample("zaibei_timeline", value.timeline, site)
        case "patroni":
            yield sample("zaibei_patroni_leader", value.leads, site)
            yield sample("zaibei_patroni_paused", value.paused, site)
        case "etcd":
            yield sample("zaibei_etcd_healthy", value, site)
        case "door":
            yield sample("zaibei_door_ready", doors.ready(value), site)
        case "backup_record":
            yield from _backups(value)
        case "store_audit":
            for bucket, audit in value.items():
                yield sample("zaibei_store_divergent_objects", audit.divergent, bucket)
                if audit.age is not None:
                    yield sample(
                        "zaibei_store_audit_age_seconds", audit.age.total_seconds(), bucket
                    )
        case "drill_record":
            yield from _drills(value)
        case "drill_mark":
            if value is not None:
                yield sample("zaibei_drill_in_progress", 1, value.scenario, value.site)
        case "state_disk":
            yield sample("zaibei_state_disk_free_ratio", value[1])
        case name if name.startswith("cert_"):
            left = (value - now).total_seconds()
            yield sample("zaibei_cert_expiry_seconds", left, site, name.removeprefix("cert_"))
        case _:
            pass  # store: that it answered is all there is to say; exporter: its page speaks for itself


def _backups(record: records.BackupRecord) -> Iterator[Sample]:
    for vault, one in record.vaults.items():
        yield sample("zaibei_backup_recorded", one.last_success is not None, vault)
        if one.last_success is not None:
            yield sample("zaibei_backup_age_seconds", one.last_success.total_seconds(), vault)
        yield sample("zaibei_backup_restore_recorded", one.last_restored is not None, vault)
        if one.last_restored is not None:
            yield sample(
                "zaibei_backup_restored_age_seconds", one.last_restored.total_seconds(), vault
            )
        if one.anomalous is not None:
            yield sample("zaibei_backup_anomalous", one.anomalous, vault)
    if record.overdue is not None:
        yield sample("zaibei_backup_overdue", record.overdue)
    if record.following is not None:
        yield sample("zaibei_wal_following", record.following)
    if record.wal_age is not None:
        yield sample("zaibei_wal_archive_age_seconds", record.wal_age.total_seconds())
    for metric, value in record.wal_facts.items():
        yield sample(metric, value)
    if record.wal_gaps is not None:
        yield sample("zaibei_wal_archive_gaps", record.wal_gaps)


def _drills(found: dict[str, records.DrillRecord]) -> Iterator[Sample]:
    for scenario, record in found.items():
        yield sample("zaibei_drill_recorded", record.measured_age is not None, scenario)
        if record.measured_age is not None:
            yield sample("zaibei_drill_age_seconds", record.measured_age.total_seconds(), scenario)
        if record.last_verdict is not None:
            for verdict in records.VERDICTS:
                yield sample(
                    "zaibei_drill_last_verdict", verdict == record.last_verdict, scenario, verdict
                )


def _together(
    members: dict[str, postgres.Member], *, addresses: dict[str, str]
) -> Iterator[Sample]:
    """What only the members side by side can say: epoch, durability, lag."""
    writers = [m for m in members.values() if not m.in_recovery]
    # Two writers: the younger epoch is the one that the stack follows; the alert says the rest.
    writer = max(writers, key=lambda m: m.timeline, default=None)
    if writer is not None:
        yield sample("zaibei_epoch", writer.timeline)
        yield sample("zaibei_sync_degraded", postgres.sync_degraded(writer) is not None)
    for site, member in members.items():
        if not member.in_recovery:
            continue
        behind = postgres.lag(member, writer, site=site, address=addresses[site])
        if behind.behind_bytes is not None:
            yield sample("zaibei_replication_lag_bytes", behind.behind_bytes, site)
        if behind.age is not None:
            yield sample("zaibei_replication_lag_seconds", behind.age.total_seconds(), site)
