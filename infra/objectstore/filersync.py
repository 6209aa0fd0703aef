"""Keeps `weed filer.sync` honest: `python -P -m infra.objectstore.filersync --metrics URL -- weed … filer.sync …`.

An event that failed is parked and replayed only when the sync is started again; an event whose chunk cannot be
read is retried for ever while the failed count stays 0. So the sync is our child, its own metrics are asked, and
it is started anew when it has failed events or makes no progress. Standard library, structlog and
prometheus-client only: it runs on a site.
"""

import argparse
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog
from prometheus_client.parser import text_string_to_metric_families

from zaibei.kernel import process
from zaibei.kernel.clock import Clock, SystemClock
from zaibei.kernel.errors import ZaibeiError
from zaibei.kernel.exchange import exchange

ASK_EVERY = timedelta(seconds=5)
STALLED_AFTER = timedelta(seconds=120)  # events in flight and none finished
SHORTEST_REST, LONGEST_REST = timedelta(seconds=5), timedelta(minutes=5)  # between restarts
_STOP = timedelta(seconds=20)
_ASK_WITHIN = timedelta(seconds=5)
_OK = 200
_PREFIX = "SeaweedFS_filerSync_"
_log = structlog.get_logger("filersync")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The sync's own figures at one moment, added up over its clients."""

    at_s: float  # monotonic
    failed: float
    processed: float
    in_flight: float
    lag_s: float


def read(text: str, at_s: float) -> Seen:
    """From the metrics page. What is not there yet counts as nothing: the sync has just begun."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return Seen(
        at_s=at_s,
        failed=sums.get(f"{_PREFIX}events_failed_total", 0.0),
        processed=sums.get(f"{_PREFIX}events_processed_total", 0.0),
        in_flight=sums.get(f"{_PREFIX}in_flight_jobs", 0.0),
        lag_s=sums.get(f"{_PREFIX}lag_seconds", 0.0),
    )


def why_restart(now: Seen, progressed_at_s: float) -> str | None:
    """`progressed_at_s`: when the sync last finished an event, or had none to do."""
    if now.failed > 0:
        return f"{now.failed:.0f} failed events: they are replayed only by a start"
    stalled_s = now.at_s - progressed_at_s
    if now.in_flight > 0 and stalled_s > STALLED_AFTER.total_seconds():
        return f"{now.in_flight:.0f} events in flight and none done for {stalled_s:.0f} s"
    return None


def watch(argv: list[str], metrics: str, *, clock: Clock) -> int:
    """Run until told to stop, or until the sync ends by itself; answers with its exit code."""
    rest = SHORTEST_REST
    while True:
        child = process.start(argv)
        _stop_with(child)
        began = clock.monotonic()
        reason = _watched(child, metrics, clock)
        if reason is None:
            # Ended by itself or by our stop: the init that supervises us decides what comes next.
            return child.wait()
        _log.warning("filersync.restart", why=reason)
        process.end(child, within=_STOP)
        # A fault that a restart does not cure must not become a storm of restarts.
        ran = timedelta(seconds=clock.monotonic() - began)
        rest = SHORTEST_REST if ran > LONGEST_REST else min(rest * 2, LONGEST_REST)
        clock.sleep(rest)


def _watched(child: "subprocess.Popen[bytes]", metrics: str, clock: Clock) -> str | None:
    """Why to restart; None when the child has ended."""
    progressed_at, processed = clock.monotonic(), -1.0
    while child.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            child.wait(ASK_EVERY.total_seconds())
        seen = _ask(metrics, clock)
        if seen is None:
            continue  # a silent metrics port says nothing about the sync; an ended child does
        if seen.processed != processed or seen.in_flight == 0:
            progressed_at, processed = seen.at_s, seen.processed
        if (reason := why_restart(seen, progressed_at)) is not None:
            return reason
    return None


def _ask(metrics: str, clock: Clock) -> Seen | None:
    try:
        page = exchange(metrics, tls=None, within=_ASK_WITHIN)
        return read(page.body.decode(), clock.monotonic()) if page.status == _OK else None
    except (ZaibeiError, ValueError):
        return None


def _stop_with(child: "subprocess.Popen[bytes]") -> None:
    def stop(number: int, frame: object) -> None:
        if child.poll() is not None:  # told to stop between two runs
            raise SystemExit(0)
        child.terminate()  # it saves its checkpoint then

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--metrics", required=True, help="the sync's metrics page")
    parser.add_argument("argv", nargs="+", help="after --: weed … filer.sync …")
    given = parser.parse_args()
    return watch(given.argv, given.metrics, clock=SystemClock())


if __name__ == "__main__":
    sys.exit(main())
