"""A one-node Ceph with its S3 gateway on loopback, thrown away at the end; and what is run against it.

`python tests/ceph/cluster.py COMMAND…` starts it, runs COMMAND with the endpoint in the environment, stops
everything by its process, and ends with COMMAND's exit code. Needs ceph-mon, ceph-osd and radosgw (Debian).
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from zaibei.kernel.clock import Clock, SystemClock
from zaibei.kernel.process import run
from zaibei.kernel.wait import wait_until

READY = timedelta(seconds=120)
CONF = """\
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon}
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
auth supported = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
mon max pg per osd = 1000
run dir = {dir}/run
admin socket = {dir}/run/$name.asok
pid file = {dir}/run/$name.pid
log file = {dir}/log/$name.log
crash dir = {dir}/crash
[mon.a]
mon data = {dir}/mon
[osd]
osd data = {dir}/osd
osd class update on start = false
osd crush update on start = false
bluestore block size = 8589934592
osd memory target = 939524096
osd max object name len = 256
osd max object namespace len = 64
[client.rgw]
rgw data = {dir}/rgw
rgw frontends = beast endpoint=127.0.0.1:{rgw}
rgw thread pool size = 64
rgw enable usage log = false
rgw enable ops log = false
"""


@dataclass
class Cluster:
    folder: Path
    conf: Path
    endpoint: str
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, *argv: str) -> None:
        log = (self.folder / "log" / f"{argv[0]}.out").open("wb")
        with log:
            self.running.append(
                subprocess.Popen(
                    [*argv, "-f", "-c", str(self.conf)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    def ask(self, *argv: str) -> str:
        return run([argv[0], "-c", self.conf, *argv[1:]], deadline=READY)


@contextmanager
def cluster(clock: Clock) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="ceph-", dir="/var/tmp") as name:
        folder = Path(name)
        for part in ("run", "log", "crash", "mon", "osd", "rgw"):
            (folder / part).mkdir()
        mon, rgw = _free_port(), _free_port()
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        conf = folder / "ceph.conf"
        conf.write_text(CONF.format(fsid=fsid, mon=mon, rgw=rgw, dir=folder))
        one = Cluster(folder, conf, f"http://127.0.0.1:{rgw}")
        try:
            _monitor(one, fsid, mon)
            one.ask("ceph", "osd", "new", osd, "0")
            run(["ceph-osd", "-c", conf, "-i", "0", "--mkfs", "--osd-uuid", osd], deadline=READY)
            # By hand: an OSD that puts itself there may ask before it knows the cluster's id, and ends.
            one.ask("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=a")
            one.start("ceph-osd", "-i", "0")
            one.start("radosgw", "-n", "client.rgw")
            wait_until(
                lambda: _why_silent(one), what="Ceph's S3 gateway", deadline=READY, clock=clock
            )
            yield one
        finally:
            for process in reversed(one.running):
                process.kill()
                process.wait()


def _monitor(one: Cluster, fsid: str, port: int) -> None:
    monmap = one.folder / "monmap"
    address = f"[v1:127.0.0.1:{port}]"
    run(["monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, monmap])
    run(["ceph-mon", "-c", one.conf, "-i", "a", "--mkfs", "--monmap", monmap], deadline=READY)
    one.start("ceph-mon", "-i", "a")


def keys(one: Cluster) -> tuple[str, str]:
    """A user of the gateway. Ceph draws the secret: it is in no argv."""
    said = one.ask("radosgw-admin", "user", "create", "--uid=vault", "--display-name=vault")
    made = json.loads(said[said.index("{") :])["keys"][0]
    return made["access_key"], made["secret_key"]


def _why_silent(one: Cluster) -> str | None:
    for process in one.running:
        assert process.poll() is None, f"{process.args} ended: {_last_words(one.folder)}"
    try:
        urlopen(one.endpoint, timeout=2).close()
    except HTTPError:
        return None
    except (URLError, OSError) as silent:
        return str(silent)
    return None


def _last_words(folder: Path) -> str:
    logs = sorted((folder / "log").iterdir())
    return "\n".join(f"{p.name}: {p.read_text(errors='replace')[-1500:]}" for p in logs)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    clock = SystemClock()
    begun = clock.monotonic()
    with cluster(clock) as one:
        key, secret = keys(one)
        held = one.folder / "secret"
        held.touch(mode=0o600)
        held.write_text(secret + "\n")
        print(f"{one.ask('ceph', '--version').strip()}: up in {clock.monotonic() - begun:.0f} s")
        environment = {
            "ZAIBEI_FOREIGN_S3": one.endpoint,
            "ZAIBEI_FOREIGN_S3_KEY": key,
            "ZAIBEI_FOREIGN_S3_SECRET_FILE": str(held),
            # 16.2 ignores If-None-Match in a bucket with versions (it keeps it in one without): all 16
            # of 16 racers win. A later release may do better; then the tests say so by failing.
            "ZAIBEI_FOREIGN_FAILS": "conditional-create",
        }
        return subprocess.run(sys.argv[1:], env=os.environ | environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
