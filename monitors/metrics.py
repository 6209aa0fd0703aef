"""Every metric there is: name, type, unit, meaning, labels. One table.

The exporters refuse a sample that is not declared here, the alert rules and dashboards are held to it by
a test, and docs/reference/metrics.md is printed from it (`python -P -m monitors.metrics`).
An unknown value is an absent sample, never a zero: see `zaibei_probe_up`.
"""

import re
from dataclasses import dataclass
from enum import StrEnum


class Where(StrEnum):
    """Which exporter shows it. No metric is shown by both: a sum would count it twice."""

    OPERATOR = "operator"
    SITE = "site"
    PROMETHEUS = "prometheus"  # of each scrape, by Prometheus itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    name: str
    help: str
    unit: str  # "" for a flag or a count
    labels: tuple[str, ...] = ()
    probe: str = (
        ""  # a pattern: the probes without whose answer it is absent; "": it is always told
    )
    where: Where = Where.OPERATOR

    def told_by(self, probe: str) -> bool:
        return bool(self.probe) and re.fullmatch(self.probe, probe) is not None

    @property
    def each(self) -> str | None:
        """The label of which every declared name has a sample; None where an absence is no loss."""
        if self.name in _MAY_BE_ABSENT:
            return None
        return next((one for one in self.labels if one in _DECLARED), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measured value. `labels` in the order of the declaration."""

    metric: str
    labels: tuple[str, ...]
    value: float


def _m(
    name: str, unit: str, labels: str, probe: str, text: str, where: Where = Where.OPERATOR
) -> Metric:
    return Metric(
        name=name, unit=unit, labels=tuple(labels.split()), probe=probe, help=text, where=where
    )


_SITE = Where.SITE
_DECLARED = ("site", "vault", "bucket", "scenario")  # labels whose values the stack names
STANDBYS = frozenset({"zaibei_replication_lag_bytes", "zaibei_replication_lag_seconds"})
# Of an archiver that was ended on purpose there is nothing to tell; `zaibei_wal_following` says so.
OF_A_FOLLOWER = frozenset({
    "zaibei_wal_archive_age_seconds", "zaibei_wal_receiving", "zaibei_wal_receiver_restarts",
    "zaibei_wal_slot_held_bytes", "zaibei_wal_spool_bytes", "zaibei_wal_spool_free_bytes",
    "zaibei_wal_archive_gaps",
})  # fmt: skip
# Absent also where all is well: a vault that the guard judged nothing in, a site without copies of its own.
_MAY_BE_ABSENT = STANDBYS | {
    "zaibei_replication_lag_limit_seconds",
    "zaibei_writer_moved_age_seconds",
    "zaibei_backup_limit_seconds",
    "zaibei_backup_anomalous",
    "zaibei_drill_limit_seconds",
    "zaibei_drill_in_progress",
    "zaibei_probe_up",
    "zaibei_probe_seconds",
    "zaibei_probe_answer_age_seconds",
    "zaibei_service_up",
    "zaibei_local_in_recovery",
    "zaibei_local_replay_age_seconds",
    "zaibei_object_lag_seconds",
    "zaibei_local_probe_up",
    "zaibei_local_probe_answer_age_seconds",
    "up",
}

METRICS: tuple[Metric, ...] = (
    _m("zaibei_probe_up", "", "probe site", "", "1: the probe got an answer; 0: it did not, and what it would tell is absent"),
    _m("zaibei_probe_seconds", "seconds", "probe site", "", "how long the probe took, answered or not"),
    _m("zaibei_probe_answer_age_seconds", "seconds", "probe site", "", "time since the probe last got an answer; absent before the first one"),
    _m("zaibei_round_age_seconds", "seconds", "", "", "time since the round that the page shows began; a scrape starts none"),
    _m("zaibei_writer", "", "site", "postgres", "1: the member of the site takes writes (it is not in recovery); 0: it is a standby"),
    _m("zaibei_epoch", "", "", "postgres", "timeline of the writer; absent when no writer answers"),
    _m("zaibei_writer_moves", "", "", "", "takeovers and switchovers seen since the record of them began: another site wrote, or the same one on a new timeline"),
    _m("zaibei_writer_moved_age_seconds", "seconds", "previous site", "", "time since the writer was first seen at `site`, and no longer at `previous`; of the last move"),
    _m("zaibei_timeline", "", "site", "postgres", "timeline of the member of the site"),
    _m("zaibei_replication_lag_bytes", "bytes", "site", "postgres", "WAL the standby has not replayed, against the writer asked in the same round; absent when the writer is unknown"),
    _m("zaibei_replication_lag_seconds", "seconds", "site", "postgres", "upper bound of the age of the standby's data; 0 only when it was compared with the writer and is level"),
    _m("zaibei_replication_lag_limit_seconds", "seconds", "site", "", "the largest loss the stack allows a remote site (smallest RPO above zero)"),
    _m("zaibei_sync_degraded", "", "", "postgres", "1: an acknowledged commit is on the writer's site alone, or commits wait for a partner that is not there; absent when no writer answers"),
    _m("zaibei_patroni_leader", "", "site", "patroni", "1: Patroni of the site says that its member is the primary"),
    _m("zaibei_patroni_paused", "", "site", "patroni", "1: automatic failover is switched off (pause)"),
    _m("zaibei_etcd_healthy", "", "site", "etcd", "1: the etcd member of the site answers a linearizable read"),
    _m("zaibei_door_ready", "", "site", "door", "1: /healthz/ready through the public entry of the site says 200"),
    _m("zaibei_store_divergent_objects", "", "bucket", "store_audit", "objects that differ between the sites of a bucket, by the last convergence audit"),
    _m("zaibei_store_audit_age_seconds", "seconds", "bucket", "store_audit", "age of that audit"),
    _m("zaibei_backup_recorded", "", "vault", "backup_record", "1: at least one successful PostgreSQL backup is recorded for the vault; 0: none"),
    _m("zaibei_backup_age_seconds", "seconds", "vault", "backup_record", "age of the last successful PostgreSQL backup"),
    _m("zaibei_backup_limit_seconds", "seconds", "vault", "", "the age at which the stack calls a backup of this vault stale"),
    _m("zaibei_backup_restore_recorded", "", "vault", "backup_record", "1: at least one restore from the vault that was started and counted is recorded; 0: none"),
    _m("zaibei_backup_restored_age_seconds", "seconds", "vault", "backup_record", "age of the last restore from the vault that was started and counted"),
    _m("zaibei_backup_anomalous", "", "vault", "backup_record", "sources whose last backup in the vault the guard calls anomalous; absent when none was judged"),
    _m("zaibei_backup_overdue", "", "", "backup_record", "scheduled jobs that should have succeeded by now and did not; absent without a schedule"),
    _m("zaibei_wal_follower_expected", "", "", "backup_record", "1: the stack promises an RPO for H3 or H4 that is shorter than the time between two backups, so the log must be archived all along"),
    _m("zaibei_wal_following", "", "", "backup_record", "1: an archiver follows the writer, or died while it did; 0: the last one was ended and left no vault behind, or none was ever begun"),
    _m("zaibei_wal_archive_age_seconds", "seconds", "", "backup_record", "upper bound: the archiver's lag when it last told it, and the time since; absent while none follows"),
    _m("zaibei_wal_receiving", "", "", "backup_record", "1: the archiver's receiver streams, as it last told; 0: it does not start, or something else holds its slot"),
    _m("zaibei_wal_receiver_restarts", "", "", "backup_record", "how often the receiver was started again since the archiver began"),
    _m("zaibei_wal_slot_held_bytes", "bytes", "", "backup_record", "log that the archiver's slot makes the writer keep on its disk, at least"),
    _m("zaibei_wal_spool_bytes", "bytes", "", "backup_record", "log in the archiver's spool"),
    _m("zaibei_wal_spool_free_bytes", "bytes", "", "backup_record", "room on the spool's disk"),
    _m("zaibei_wal_archive_gaps", "", "", "backup_record", "holes in the archived WAL that the archiver knows of"),
    _m("zaibei_drill_recorded", "", "scenario", "drill_record", "1: a drill of the scenario with a verdict PASS or FAIL is on record; 0: none"),
    _m("zaibei_drill_last_verdict", "", "scenario verdict", "drill_record", "1 for the verdict of the last drill of the scenario, 0 for the others"),
    _m("zaibei_drill_age_seconds", "seconds", "scenario", "drill_record", "age of the last drill that measured something (an INVALID one did not)"),
    _m("zaibei_drill_limit_seconds", "seconds", "scenario", "", "how often the calendar of the stack wants the drill"),
    _m("zaibei_drill_in_progress", "", "scenario site", "drill_mark", "1 while a drill runs that breaks `site`; absent when none runs"),
    _m("zaibei_cert_expiry_seconds", "seconds", "site endpoint", "cert_.*", "time until the certificate shown by the endpoint expires; negative: it has"),
    _m("zaibei_state_disk_free_ratio", "ratio", "", "state_disk", "free share of the file system that holds zaibei's state, for an unprivileged process"),
    _m("zaibei_service_up", "", "site service", "service_.*", "1: a TCP connection to the service's port on the site succeeds", _SITE),
    _m("zaibei_local_in_recovery", "", "site", "postgres", "1: the local PostgreSQL member is a standby", _SITE),
    _m("zaibei_local_replay_age_seconds", "seconds", "site", "postgres", "age of the last transaction the local standby replayed; grows while nobody writes", _SITE),
    _m("zaibei_disk_free_bytes", "bytes", "site mount", "disk_.*", "free bytes of a watched file system, for an unprivileged process", _SITE),
    _m("zaibei_disk_free_ratio", "ratio", "site mount", "disk_.*", "free share of a watched file system", _SITE),
    _m("zaibei_object_lag_seconds", "seconds", "site", "objectlag_.*", "largest lag of the asynchronous object copies that the site's SeaweedFS reports", _SITE),
    _m("zaibei_local_probe_up", "", "site probe", "", "1: the probe of the site's own exporter got an answer", _SITE),
    _m("zaibei_local_probe_answer_age_seconds", "seconds", "site probe", "", "time since that probe last got an answer", _SITE),
    _m("zaibei_local_round_age_seconds", "seconds", "site", "", "time since the round that the site's page shows began", _SITE),
    _m("up", "", "job site", "", "1: Prometheus got the page of the target; 0: it did not", Where.PROMETHEUS),
)  # fmt: skip

BY_NAME = {m.name: m for m in METRICS}


def sample(metric: str, value: float, *labels: str) -> Sample:
    declared = BY_NAME[metric]
    assert len(labels) == len(declared.labels), f"{metric} has the labels {declared.labels}"
    return Sample(metric=metric, labels=labels, value=float(value))


def reference() -> str:
    """docs/reference/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Printed from `monitors/metrics.py` (`python -P -m monitors.metrics`); a test holds the two together.",
        "All are gauges. **A value that nobody could measure is absent**, and `zaibei_probe_up` of its probe is 0:",
        "`probe` names the question that it is the answer to.",
        "",
    ]
    titles = {
        Where.OPERATOR: "## Outside the sites: `zaibei monitor serve`, port 9471",
        Where.SITE: "## On each site: `monitors.site_exporter`, port 9470",
        Where.PROMETHEUS: "## By Prometheus itself",
    }
    for where, title in titles.items():
        lines += [
            title,
            "",
            "| metric | labels | unit | probe | meaning |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| `{m.name}` | {', '.join(m.labels) or '–'} | {m.unit or '–'} "
            f"| {m.probe.replace('.*', '…') or '–'} | {m.help} |"
            for m in METRICS
            if m.where is where
        ]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(reference(), end="")
