"""A page that stays up in the outage: real sockets on loopback that accept and say nothing, or a byte a second."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.sites import Secret, SiteAccess, StackAccess, StoreAccess, save
from monitors.ask import Asker
from monitors.beat import STALE, Beat
from monitors.bounds import Bounds
from monitors.exporter import serve
from monitors.metrics import Sample, Where, sample
from monitors.reading import Probe, Unknown
from monitors.survey import DEADLINE, survey
from zaibei.config import sample as sample_stack
from zaibei.kernel.clock import SimClock, SystemClock

SITES = ("site-a", "site-b", "site-c")
SCRAPE_S = 0.1
NOISE_S = 0.4  # two cores, shared with other tests


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@contextmanager
def never_answering(*, drip: bytes = b"") -> Iterator[int]:
    """A port that accepts and says nothing; with `drip`, a byte every 50 ms for ever."""
    links: list[socket.socket] = []
    ended = threading.Event()

    def one(link: socket.socket) -> None:
        with suppress(OSError):
            while drip and not ended.is_set():
                link.sendall(drip)
                ended.wait(0.05)

    def loop() -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            links.append(link)
            threading.Thread(target=one, args=(link,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        threading.Thread(target=loop, daemon=True).start()
        yield int(listener.getsockname()[1])
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
    for link in links:
        link.close()


@contextmanager
def dropping() -> Iterator[int]:
    """A port whose queue is full: a connection gets no answer at all, as behind a firewall that drops."""
    with ExitStack() as held:
        listener = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(("127.0.0.1", port))
        yield int(port)


def _access(folder: Path, pki: Any, ports: dict[str, int]) -> StackAccess:
    (folder / "secret").write_text("x")
    secret = Secret(file=folder / "secret")
    sites = tuple(
        SiteAccess(
            name=name,
            address="127.0.0.1",
            store=StoreAccess(
                endpoint=f"https://127.0.0.1:{port}", region="x", keys={"auditor": ("k", secret)}
            ),
            postgres_port=port,
            primary_port=port,
            replica_port=port,
            patroni_url=f"https://127.0.0.1:{port}",
            etcd_url=f"https://127.0.0.1:{port}",
            entry_url=f"https://127.0.0.1:{port}",
            exporter_url=f"https://127.0.0.1:{port}",
        )
        for name, port in ports.items()
    )
    return StackAccess(
        stack="trial",
        operator_address="127.0.0.1",
        ca_file=pki.ca,
        client_cert=pki.cert,
        client_key=pki.key,
        ssh_key=folder / "ssh",
        ssh_known_hosts=folder / "known",
        sites=sites,
        passwords={"zaibei_probe": secret},
    )


def _bounds() -> Bounds:
    return Bounds(
        sites=SITES,
        buckets=("geo-images",),
        vaults=("site-b",),
        scenarios=("site-power-loss",),
        lag_limit={},
        backup_limit={"site-b": timedelta(days=1)},
        drill_every={},
    )


def _scrape(url: str) -> tuple[float, dict[tuple[str, tuple[str, ...]], float]]:
    begun = time.monotonic()
    with urllib.request.urlopen(url, timeout=5) as got:
        page = got.read().decode()
    took = time.monotonic() - begun
    found = {
        (s.name, tuple(s.labels.values())): s.value
        for family in text_string_to_metric_families(page)
        for s in family.samples
    }
    return took, found


@pytest.mark.parametrize("silent", [1, 2, 3])
@pytest.mark.parametrize("how", ["accepts and never answers", "drops", "a byte at a time"])
def test_a_scrape_waits_for_no_site_and_the_others_are_still_told(
    tmp_path: Path, pki: Any, how: str, silent: int
) -> None:
    with ExitStack() as held:
        ports = {}
        for n, name in enumerate(SITES):
            if n >= silent:
                ports[name] = free_port()  # refused at once: an answer of its kind
            elif how == "drops":
                ports[name] = held.enter_context(dropping())
            else:
                drip = b"" if how.startswith("accepts") else b"\x16"
                ports[name] = held.enter_context(never_answering(drip=drip))
        access, asker, clock = (
            _access(tmp_path, pki, ports),
            Asker(clock=SystemClock()),
            SystemClock(),
        )
        rounds: list[float] = []

        def look() -> tuple[Sample, ...]:
            begun = time.monotonic()
            found = survey(access, _bounds(), state=tmp_path, clock=clock, asker=asker).samples
            rounds.append(time.monotonic() - begun)
            return found

        beat = held.enter_context(
            Beat(look, where=Where.OPERATOR, clock=clock, every=timedelta(seconds=1))
        )
        port, stop = serve(beat.samples, where=Where.OPERATOR, address="127.0.0.1", port=0)
        held.callback(stop)
        url = f"http://127.0.0.1:{port}/metrics"
        scrapes: list[float] = []
        threads = [
            threading.Thread(target=lambda: scrapes.extend(_scrape(url)[0] for _ in range(10)))
            for _ in range(4)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        _, page = _scrape(url)
    assert sorted(scrapes)[len(scrapes) // 2] < SCRAPE_S, "four scrapers at once, and none queues"
    assert max(scrapes) < SCRAPE_S + NOISE_S
    assert max(rounds) < DEADLINE.total_seconds() + NOISE_S
    for name in SITES:
        assert page["zaibei_probe_up", ("etcd", name)] == 0
    assert page["zaibei_probe_up", ("cert_ca", "operator")] == 1
    for name in SITES[silent:]:  # their own reason and their own time, not those of the silent site
        assert page["zaibei_probe_seconds", ("etcd", name)] < 1.5
    assert page["zaibei_round_age_seconds", ()] < DEADLINE.total_seconds() * 2 + NOISE_S


def test_a_probe_that_hangs_for_rounds_holds_one_thread(tmp_path: Path) -> None:
    hold, asked = threading.Event(), []

    def hangs(_: timedelta) -> int:
        asked.append(1)
        hold.wait(20)
        return 7

    asker = Asker(clock=SystemClock())
    probes = [
        Probe(name="hangs", site="a", ask=hangs),
        Probe(name="well", site="a", ask=lambda _: 1),
    ]
    for _ in range(5):
        stuck, well = asker.ask(probes, deadline=timedelta(milliseconds=50))
        assert isinstance(stuck.value, Unknown)
        assert well.value == 1
    assert len(asked) == 1
    hold.set()
    for _ in range(100):
        stuck, _ = asker.ask(probes, deadline=timedelta(milliseconds=50))
        if stuck.value == 7:
            break
    assert stuck.value == 7, "asked again once it is free"


class _Held:
    """A round that the test lets through."""

    def __init__(self) -> None:
        self.fails = False
        self.asked = threading.Semaphore(0)

    def __call__(self) -> list[Sample]:
        self.asked.release()
        if self.fails:
            raise ValueError("a bug")
        return [
            sample("zaibei_probe_up", 1, "postgres", "site-a"),
            sample("zaibei_writer", 1, "site-a"),
        ]


def test_a_round_that_is_old_is_not_shown_as_now() -> None:
    clock, look = SimClock(), _Held()
    with Beat(look, where=Where.OPERATOR, clock=clock, every=timedelta(seconds=1)) as beat:
        assert sample("zaibei_writer", 1, "site-a") in list(beat.samples())
        look.fails = True
        for _ in range(2):  # one may have begun before
            assert look.asked.acquire(timeout=10)
        look.asked.acquire(timeout=10)
        clock.elapsed_s += STALE.total_seconds() + 1
        told = list(beat.samples())
    assert sample("zaibei_probe_up", 0, "postgres", "site-a") in told
    assert sample("zaibei_round_age_seconds", 31) in told
    assert sample("zaibei_probe_answer_age_seconds", 31, "postgres", "site-a") in told
    assert not [s for s in told if s.metric == "zaibei_writer"]


@pytest.mark.attack
def test_a_client_that_never_ends_its_handshake_keeps_no_other_out(pki: Any) -> None:
    port, stop = serve(
        lambda: [sample("zaibei_local_round_age_seconds", 1, "site-a")],
        where=Where.SITE,
        address="127.0.0.1",
        port=0,
        certificate=(pki.cert, pki.key),
    )
    tls = ssl.create_default_context(cafile=str(pki.ca))
    try:
        with ExitStack() as held:
            for _ in range(8):
                held.enter_context(socket.create_connection(("127.0.0.1", port)))
            begun = time.monotonic()
            url = f"https://127.0.0.1:{port}/metrics"
            with urllib.request.urlopen(url, context=tls, timeout=5) as got:
                assert b"zaibei_local_round_age_seconds" in got.read()
            assert time.monotonic() - begun < SCRAPE_S + NOISE_S
    finally:
        stop()


@pytest.fixture
def provisioned(tmp_path: Path, pki: Any) -> Iterator[dict[str, str]]:
    """A stack whose sites accept and never answer, as the command line finds it."""
    with ExitStack() as held:
        ports = {name: held.enter_context(never_answering()) for name in SITES}
        save(_access(tmp_path, pki, ports), tmp_path / "lab" / "access.json")
        (tmp_path / "stack.yaml").write_text(sample_stack())
        yield dict(os.environ) | {"ZAIBEI_STATE": str(tmp_path)}


def _zaibei(*argv: str) -> list[str]:
    return [sys.executable, "-P", "-m", "zaibei.cli.main", "monitor", *argv]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_is_the_normal_end_of_serve(
    provisioned: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    argv = _zaibei("serve", "--port", "0", "--stack", str(tmp_path / "stack.yaml"))
    child = subprocess.Popen(argv, env=provisioned, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    first = child.stderr.readline()
    took, page = _scrape(first.split(",")[0])
    child.send_signal(number)
    _, rest = child.communicate(timeout=20)
    assert child.returncode == 0
    assert "until Ctrl-C" in first
    assert rest.strip() == "stopped: no metrics are served any more"
    assert took < SCRAPE_S + NOISE_S
    assert page["zaibei_probe_up", ("postgres", "site-c")] == 0


def test_a_check_of_a_stack_that_is_silent_ends_soon_and_with_3(
    provisioned: dict[str, str], tmp_path: Path
) -> None:
    argv = _zaibei(
        "check", "--only", "EtcdUnhealthy", "--json", "--stack", str(tmp_path / "stack.yaml")
    )
    begun = time.monotonic()
    done = subprocess.run(
        argv, check=False, env=provisioned, capture_output=True, text=True, timeout=60
    )
    assert time.monotonic() - begun < 20, "it took 13.8 s of waiting alone"
    assert done.returncode == 3, done.stderr
    told = json.loads(done.stdout)
    assert [d["at"] for d in told["unmeasured"]] == list(SITES)
    assert "site-a, site-b, site-c" in done.stderr
