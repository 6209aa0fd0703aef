"""The exporter that runs on a site, as an unprivileged user: what only the host itself can see.

`python -P -m monitors.site_exporter /etc/zaibei/exporter.json`. It asks the local ports, the local disks, the
local PostgreSQL member and SeaweedFS's own lag figure; it never speaks for another site.
"""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from monitors.ask import Asker
from monitors.beat import Beat
from monitors.exporter import serve
from monitors.metrics import Sample, Where, sample
from monitors.probes import host, postgres
from monitors.reading import Probe, Unknown
from zaibei.kernel import persontext
from zaibei.kernel.clock import Clock, SystemClock
from zaibei.kernel.errors import Missing, Usage, ZaibeiError

_DEADLINE = timedelta(seconds=2)  # of a round
_LOCAL = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteConfig:
    site: str
    address: str
    port: int
    certificate: Path
    key: Path
    client_ca: Path | None  # who may scrape is under this root; None: whoever reaches the port
    services: dict[str, int]  # name -> port on the site's address
    local_services: dict[str, int]  # name -> port that listens for this host alone
    mounts: dict[str, Path]  # label -> a path on the file system
    postgres_dsn: str | None  # without the password
    password_file: Path | None
    object_lag_urls: dict[str, str]  # bucket -> metrics page of its copy; empty where none runs


def config(path: Path) -> SiteConfig:
    try:
        raw = json.loads(path.read_text())
        return SiteConfig(
            site=raw["site"],
            address=raw["address"],
            port=int(raw["port"]),
            certificate=Path(raw["certificate"]),
            key=Path(raw["key"]),
            client_ca=Path(raw["client_ca"]) if raw.get("client_ca") else None,
            services={str(k): int(v) for k, v in raw["services"].items()},
            local_services={str(k): int(v) for k, v in raw.get("local_services", {}).items()},
            mounts={str(k): Path(v) for k, v in raw["mounts"].items()},
            postgres_dsn=raw.get("postgres_dsn"),
            password_file=Path(raw["password_file"]) if raw.get("password_file") else None,
            object_lag_urls={str(k): str(v) for k, v in raw.get("object_lag_urls", {}).items()},
        )
    except OSError as gone:
        raise Missing(f"{path}: {gone.strerror}", hint="the role `exporter` writes it") from gone
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise Usage(f"{path}: not an exporter configuration: {wrong!r}") from wrong


def samples(site: SiteConfig, asker: Asker, clock: Clock) -> Iterator[Sample]:
    answers = asker.ask(_questions(site), deadline=_DEADLINE)
    lags: list[timedelta] = []
    for answer in answers:
        silent = isinstance(answer.value, Unknown)
        yield sample("zaibei_local_probe_up", not silent, site.site, answer.probe)
        if isinstance(answer.value, timedelta):  # of the probes only the copies answer with a time
            lags.append(answer.value)
        elif not silent:
            yield from _meaning(site, answer.probe, answer.value, clock)
    if lags:  # of those that answered; the others' zaibei_local_probe_up is 0
        yield sample("zaibei_object_lag_seconds", max(lags).total_seconds(), site.site)


def _questions(site: SiteConfig) -> list[Probe[Any]]:
    asked: list[Probe[Any]] = [
        Probe(
            name=f"service_{name}",
            site=site.site,
            ask=partial(_listens, address, port),
        )
        for address, ports in ((site.address, site.services), (_LOCAL, site.local_services))
        for name, port in ports.items()
    ]
    asked += [
        Probe(name=f"disk_{label}", site=site.site, ask=partial(_disk, path))
        for label, path in site.mounts.items()
    ]
    if site.postgres_dsn is not None:
        asked.append(Probe(name="postgres", site=site.site, ask=partial(_member, site)))
    asked += [
        Probe(name=f"objectlag_{bucket}", site=site.site, ask=partial(_object_lag, url))
        for bucket, url in site.object_lag_urls.items()
    ]
    return asked


def _listens(address: str, port: int, deadline: timedelta) -> bool:
    return host.listens(address, port, deadline=deadline)


def _disk(path: Path, deadline: timedelta) -> tuple[int, float]:
    return host.disk_free(path)


def _object_lag(url: str, deadline: timedelta) -> timedelta:
    return host.object_lag(url, deadline=deadline)


def _member(site: SiteConfig, deadline: timedelta) -> postgres.Member:
    assert site.postgres_dsn is not None
    password = persontext.demand(site.password_file).strip() if site.password_file else None
    return postgres.ask(site.postgres_dsn, password=password, deadline=deadline)


def _meaning(site: SiteConfig, probe: str, value: Any, clock: Clock) -> Iterator[Sample]:
    kind, _, label = probe.partition("_")
    if kind == "service":
        yield sample("zaibei_service_up", value, site.site, label)
    elif kind == "disk":
        free, share = value
        yield sample("zaibei_disk_free_bytes", free, site.site, label)
        yield sample("zaibei_disk_free_ratio", share, site.site, label)
    else:
        assert probe == "postgres"
        yield sample("zaibei_local_in_recovery", value.in_recovery, site.site)
        if value.replayed_at is not None:
            age = max(0.0, (value.now - value.replayed_at).total_seconds())
            yield sample("zaibei_local_replay_age_seconds", age, site.site)


def main(argv: list[str]) -> int:
    clock = SystemClock()
    try:
        if len(argv) != 1:
            raise Usage("one argument: the configuration file")
        site = config(Path(argv[0]))
        asker, ended = Asker(clock=clock), threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        with Beat(
            lambda: samples(site, asker, clock), where=Where.SITE, site=site.site, clock=clock
        ) as beat:
            _, stop = serve(
                beat.samples,
                where=Where.SITE,
                address=site.address,
                port=site.port,
                certificate=(site.certificate, site.key),
                client_ca=site.client_ca,
            )
            ended.wait()
            stop()
    except ZaibeiError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
