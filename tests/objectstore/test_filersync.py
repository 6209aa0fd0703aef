"""The copy to the remote site: with the role's own settings, and its watchdog's reasons."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from infra.lab.loopback_store import LoopbackSite, loopback, render, weed
from infra.objectstore import converge
from infra.objectstore.filersync import STALLED_AFTER, Seen, read, why_restart
from infra.objectstore.s3 import connect, open_store
from tests.objectstore.conftest import free_port
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.wait import wait_until

ROLES = Path(__file__).parents[2] / "infra" / "ansible" / "roles"
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
    with loopback(tmp_path, clock=clock, name="site-c", share=site, kind="objects") as remote:
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

        gate = free_port()
        with gated(site, gate, tmp_path):
            options = render_options(site, remote, gate, tmp_path)
            sync = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "infra.objectstore.filersync"),
                    *(
                        "--metrics",
                        f"http://127.0.0.1:{remote.ports['seaweed_metrics'] + 1}/metrics",
                    ),
                    *("--", weed(), "-logtostderr=true", f"-config_dir={options.parent}"),
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


@pytest.mark.integration
@pytest.mark.attack
def test_the_copys_key_reads_at_the_source_and_removes_nothing_there(
    site: LoopbackSite, tmp_path: Path
) -> None:
    admin = connect(site.access, ca_file=site.ca_file, role="admin")
    admin.create_bucket(Bucket="gated")
    admin.put_object(Bucket="gated", Key="k", Body=b"still here")
    port, filer = free_port(), site.ports["seaweed_filer"]
    with gated(site, port, tmp_path):
        own = shell_folder(site, tmp_path / "own", site.store_key)
        copy = shell_folder(
            site, tmp_path / "copy", site.folder / "secrets/pki/site-c/filersync.pem"
        )
        master = site.ports["seaweed_master"]
        through_gate, straight = f"127.0.0.1:{filer}.{port}", f"127.0.0.1:{filer}"
        for door in (through_gate, straight):
            shell(copy, f"127.0.0.1:{master}", door, "fs.rm -rf /buckets/gated/k")
            assert admin.get_object(Bucket="gated", Key="k")["Body"].read() == b"still here"
        # The same words do remove it for the store's own key: the attack is one.
        shell(own, f"127.0.0.1:{master}", straight, "fs.rm -rf /buckets/gated/k", within_s=60)
        assert admin.list_objects_v2(Bucket="gated").get("KeyCount") == 0


@contextmanager
def gated(site: LoopbackSite, port: int, folder: Path) -> Iterator[None]:
    """The source's gate for copies, with the role's own settings."""
    variables = {
        **site.variables,
        "ports": {**site.ports, "filer_gate": port},
        **YAML(typ="safe").load((ROLES / "filergate/defaults/main.yml").read_text()),
        "filergate_readers": ["filersync-site-c"],
    }
    render("filergate", variables, folder / "gate", ("filergate.cfg",))
    with (folder / "gate" / "log").open("wb") as log:
        gate = subprocess.Popen(
            ["/usr/sbin/haproxy", "-db", "-f", folder / "gate" / "filergate.cfg"],
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        gate.terminate()
        gate.wait(timeout=10)


def shell_folder(site: LoopbackSite, folder: Path, key: Path) -> Path:
    """Settings of a `weed shell` that holds this key and trusts the store."""
    folder.mkdir(parents=True)
    own = f'cert = "{key}"\nkey = "{key}"\n'
    (folder / "security.toml").write_text(
        f'[grpc]\nca = "{site.store_ca}"\n[grpc.client]\n{own}'
        f'[https.client]\nenabled = true\nca = "{site.store_ca}"\n{own}'
    )
    return folder


def shell(folder: Path, master: str, filer: str, words: str, *, within_s: float = 3) -> str:
    """What it printed within a moment: one that nobody answers waits for ever."""
    child = subprocess.Popen(
        [weed(), f"-config_dir={folder}", "shell", f"-master={master}", f"-filer={filer}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )
    try:
        said, _ = child.communicate(f"{words}\nexit\n".encode(), timeout=within_s)
    except subprocess.TimeoutExpired:
        child.kill()
        said, _ = child.communicate()
    return said.decode(errors="replace")


def why_different(a: converge.VersionedStore, b: converge.VersionedStore) -> str | None:
    found = converge.diff(a, b, same_versions=True)
    return None if found.keys == 21 and not found.total else str(found.as_statement())[:500]


def render_options(site: LoopbackSite, remote: LoopbackSite, gate: int, folder: Path) -> Path:
    """What the copy is given: its own key and the root, no store's tokens."""
    pki = folder / "copy-pki"
    pki.mkdir()
    for source in (site.store_ca, site.folder / "secrets/pki/site-c/filersync.pem"):
        (pki / source.name).touch(mode=0o600)
        (pki / source.name).write_bytes(source.read_bytes())
    variables = {
        "ports": {**remote.ports, "filer_gate": gate},
        "pki_dir": str(pki),
        "filersync_from": "127.0.0.1",
        "filersync_to": "127.0.0.1",
        "filersync_metrics_port": remote.ports["seaweed_metrics"] + 1,
        "bucket": BUCKET,
        "nth": 0,
    }
    render("filersync", variables, folder / "sync", ("sync.options", "security.toml"))
    written = folder / "sync" / "sync.options"
    # On loopback both ends have one address, so their filers have two ports.
    text = written.read_text().replace(
        f"a=127.0.0.1:{remote.ports['seaweed_filer']}.",
        f"a=127.0.0.1:{site.ports['seaweed_filer']}.",
    )
    written.write_text(text)
    return written
