"""The copy to the remote site: with the role's own settings, and its watchdog's reasons."""

import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from infra.objectstore import converge
from infra.objectstore.filersync import STALLED_AFTER, Seen, read, why_restart
from infra.objectstore.loopback import LoopbackSite, loopback, render, weed
from infra.objectstore.s3 import connect, open_store
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.wait import wait_until

BUCKET = "citizen-objects"


def seen(**changes: float) -> Seen:
    calm = {"at_s": 1000.0, "failed": 0.0, "processed": 5.0, "in_flight": 0.0, "lag_s": 0.0}
    return Seen(**{**calm, **changes})


def test_a_failed_event_asks_for_a_restart_because_nothing_else_replays_it() -> None:
    assert "replayed" in (why_restart(seen(failed=1), 1000.0) or "")


def test_an_event_retried_for_ever_is_a_stall_though_nothing_failed() -> None:
    late = STALLED_AFTER.total_seconds() + 1
    assert why_restart(seen(in_flight=1), 1000.0 - late) is not None
    assert why_restart(seen(in_flight=1), 999.0) is None


def test_an_idle_sync_is_left_alone_however_long() -> None:
    assert why_restart(seen(), 0.0) is None


def test_the_figures_are_those_of_the_metrics_page() -> None:
    page = (
        "# TYPE SeaweedFS_filerSync_events_failed_total counter\n"
        'SeaweedFS_filerSync_events_failed_total{path="/a"} 2\n'
        "# TYPE SeaweedFS_filerSync_events_processed_total counter\n"
        'SeaweedFS_filerSync_events_processed_total{path="/a"} 7\n'
        "# TYPE SeaweedFS_filerSync_in_flight_jobs gauge\n"
        'SeaweedFS_filerSync_in_flight_jobs{path="/a"} 1\n'
        "# TYPE SeaweedFS_filerSync_lag_seconds gauge\n"
        'SeaweedFS_filerSync_lag_seconds{path="/a"} 1.5\n'
    )
    assert read(page, 9.0) == Seen(at_s=9.0, failed=2, processed=7, in_flight=1, lag_s=1.5)
    assert read("", 9.0).processed == 0


@pytest.mark.integration
def test_a_bucket_reaches_the_remote_site_with_its_versions_over_mutual_tls(
    site: LoopbackSite, tmp_path: Path
) -> None:
    clock = SystemClock()
    with loopback(tmp_path, clock=clock, name="site-c", share=site) as remote:
        for end in (site, remote):
            admin = connect(end.access, ca_file=end.ca_file, role="admin")
            admin.create_bucket(Bucket=BUCKET)
            admin.put_bucket_versioning(
                Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"}
            )
        here = open_store(
            site.access, ca_file=site.ca_file, bucket=BUCKET, role="business", site=site.name
        )
        there = open_store(
            remote.access, ca_file=remote.ca_file, bucket=BUCKET, role="auditor", site=remote.name
        )
        for n in range(20):
            here.create(f"tiles/{n:04}", b"%d" % n * 1000)
        here.remove("tiles/0007")
        here.create("big", b"x" * (9 << 20))

        options = render_options(site, remote, tmp_path)
        etc = remote.variables["seaweedfs_etc"]
        sync = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "infra.objectstore.filersync"),
                *("--metrics", f"http://127.0.0.1:{remote.ports['seaweed_metrics'] + 1}/metrics"),
                *("--", weed(), "-logtostderr=true", f"-config_dir={etc}"),
                *("filer.sync", f"-options={options}"),
            ],
            stdout=(tmp_path / "sync.log").open("wb"),
            stderr=subprocess.STDOUT,
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)},
        )
        try:
            wait_until(
                lambda: why_different(here, there),
                what="the copy",
                deadline=timedelta(seconds=60),
                clock=clock,
            )
        finally:
            sync.send_signal(signal.SIGTERM)
            sync.wait(timeout=30)


def why_different(a: converge.VersionedStore, b: converge.VersionedStore) -> str | None:
    found = converge.diff(a, b, same_versions=True)
    return None if found.keys == 21 and not found.total else str(found.as_statement())[:500]


def render_options(site: LoopbackSite, remote: LoopbackSite, folder: Path) -> Path:
    variables = {
        **remote.variables,
        "filersync_from": "127.0.0.1",
        "filersync_to": "127.0.0.1",
        "filersync_metrics_port": remote.ports["seaweed_metrics"] + 1,
        "bucket": BUCKET,
        "nth": 0,
    }
    render("filersync", variables, folder / "sync", ("sync.options",))
    written = folder / "sync" / "sync.options"
    # On loopback both ends have one address, so their filers have two ports.
    text = written.read_text().replace(
        f"a=127.0.0.1:{remote.ports['seaweed_filer']}", f"a=127.0.0.1:{site.ports['seaweed_filer']}"
    )
    written.write_text(text)
    return written
