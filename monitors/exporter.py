"""Shows samples to Prometheus: a collector that refuses what is not declared, and a server for it."""

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from monitors.metrics import BY_NAME, METRICS, Sample, Where
from zaibei.kernel.errors import Busy, Usage

_MAX_SERIES = 5000  # more is a label that escaped its bounds


class Collected(Collector):
    """Asks for a round of samples at each scrape; scrapes at the same time share one round."""

    def __init__(self, ask: Callable[[], Iterable[Sample]], *, where: Where) -> None:
        self._ask, self._where = ask, where
        self._one = threading.Lock()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Told without asking: registering must not probe the whole stack."""
        return [GaugeMetricFamily(m.name, m.help) for m in METRICS if m.where is self._where]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._one:
            samples = tuple(self._ask())
        yield from families(samples, where=self._where)


def families(samples: Iterable[Sample], *, where: Where) -> Iterator[GaugeMetricFamily]:
    made: dict[str, GaugeMetricFamily] = {}
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for one in samples:
        declared = BY_NAME[one.metric]
        assert declared.where is where, f"{one.metric} is shown by the {declared.where} exporter"
        key = (one.metric, one.labels)
        assert key not in seen, f"{key} twice: Prometheus would refuse the whole page"
        seen.add(key)
        assert len(seen) <= _MAX_SERIES, "a label escaped its bounds"
        family = made.setdefault(
            one.metric, GaugeMetricFamily(one.metric, declared.help, labels=declared.labels)
        )
        family.add_metric(one.labels, one.value)
    yield from made.values()


def page(ask: Callable[[], Iterable[Sample]], *, where: Where) -> str:
    """The text a scrape would get."""
    return generate_latest(_registry(ask, where)).decode()


def serve(
    ask: Callable[[], Iterable[Sample]],
    *,
    where: Where,
    address: str,
    port: int,
    certificate: tuple[Path, Path] | None = None,
) -> tuple[int, Callable[[], None]]:
    """Serve until `stop` is called: `(port, stop)`. Raises Busy when the port is taken."""
    cert, key = certificate or (None, None)
    try:
        server, thread = start_http_server(
            port,
            addr=address,
            registry=_registry(ask, where),
            certfile=None if cert is None else str(cert),
            keyfile=None if key is None else str(key),
        )
    except OSError as taken:
        if isinstance(taken, PermissionError):
            raise Usage(f"{address}:{port}: {taken.strerror}", hint="pass --port") from taken
        raise Busy(
            f"cannot listen on {address}:{port}: {taken.strerror}",
            hint=f"see who does: ss -ltnp 'sport = :{port}'; or pass --port",
        ) from taken

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)

    return server.server_port, stop


def _registry(ask: Callable[[], Iterable[Sample]], where: Where) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Collected(ask, where=where))
    return registry
