"""What somebody outside the sites sees while a drill runs: when nobody led, when who took over, how busy
the machine was. A thread; its observations are for the phases, never for RTO, which is the clients'.
"""

import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Self

import psycopg

from failover.measure import Observation, psi_cpu_some_avg10
from infra.postgres import patroni, prepare
from infra.sites import StackAccess
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Refused, Unreachable

_EVERY = timedelta(milliseconds=200)
_WITHIN = timedelta(milliseconds=800)
_PRESSURE = Path("/proc/pressure/cpu")


class Watch:
    """Asks one surviving site's Patroni, again and again, until left. Use as a context."""

    def __init__(self, access: StackAccess, *, site: str, was_leader: str, clock: Clock) -> None:
        self._access, self._site, self._was, self._clock = access, site, was_leader, clock
        self._seen: list[Observation] = []
        self._leader: str | None = was_leader
        self._writer: str | None = None
        self._cpu: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def observations(self) -> tuple[Observation, ...]:
        return tuple(self._seen)

    @property
    def writer(self) -> str | None:
        """Whom the surviving site called its primary last; None before it called anybody so."""
        return self._writer

    @property
    def cpu_some_pct_max(self) -> float | None:
        return max(self._cpu, default=None)

    def _run(self) -> None:
        while not self._stop.wait(_EVERY.total_seconds()):
            if _PRESSURE.exists():
                value = psi_cpu_some_avg10(_PRESSURE.read_text())
                if value is not None:
                    self._cpu.append(value)
            # Two questions, each with an answer of its own: under load one may be late and not the other.
            with suppress(Unreachable, Refused):
                self._seen_leader(patroni.ask(self._access, self._site, within=_WITHIN))
            with suppress(Unreachable, Refused):
                if (
                    patroni.is_writer(self._access, self._site, within=_WITHIN)
                    and self._writer != self._site
                ):
                    self._writer = self._site
                    self._note("promote")

    def _seen_leader(self, cluster: patroni.Cluster) -> None:
        leader = cluster.leader.name if cluster.leader else None
        if leader != self._leader:
            # Nobody leads: the lease of the lost site has run out, which is stock detection.
            self._note("detect" if leader is None else "elect")
            self._leader = leader

    def _note(self, what: str) -> None:
        self._seen.append(Observation(t_s=self._clock.monotonic(), what=what))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *gone: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)


def writer_now(access: StackAccess, *, remote: str) -> tuple[str, int | None]:
    """Who takes writes, and its timeline; ("", None) when nobody does."""
    try:
        with prepare.connect(access, "health_code", user="zaibei_probe") as db:
            row = db.execute(
                "SELECT host(inet_server_addr()),"
                " ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int"
            ).fetchone()
    except psycopg.Error:
        return "", None
    assert row is not None
    # HAProxy's door at the same machine may be what answered; the member's own address is Patroni's.
    epoch = row[1]
    assert isinstance(epoch, int)
    for site in access.sites:
        try:
            if patroni.is_writer(access, site.name) and site.name != remote:
                return site.name, epoch
        except Unreachable:
            continue
    return "", epoch
