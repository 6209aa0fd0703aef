"""The clients as a process of their own: what measures must not share a lock, or a bad day, with what is
busy. A base backup in the same process was seen to make writes leave 0.6 s late.

    python -P -m failover.clients.alone PLAN.json

The plan is a file; words go in by lines of JSON on stdin, counts come out by lines of JSON on stdout. When
stdin ends, for whatever reason, the clients stop and close their ledger.
"""

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from failover.clients.endpoints import Door
from failover.clients.traffic import Counts, Put, Rates, Traffic
from failover.ledger.writer import Ledger
from infra import sites
from infra.objectstore.mirror import Mirror
from infra.objectstore.s3 import Patience, open_store
from zaibei.config.model import SiteLoss
from zaibei.kernel import log, process
from zaibei.kernel.clock import Clock, SystemClock
from zaibei.kernel.errors import Invalid, ZaibeiError
from zaibei.kernel.priority import measure_first
from zaibei.kernel.state import write_atomic
from zaibei.kernel.wait import wait_until

_TELL_EVERY_S = 0.25
_STARTED = timedelta(seconds=20)
_STOPPED = timedelta(seconds=30)
OBJECT_DEADLINE = timedelta(seconds=3)
# A citizen's write waits for nobody's third try: the mirror degrades, and says so.
_PATIENCE = Patience(connect=timedelta(seconds=1), read=timedelta(seconds=2), attempts=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPlan:
    """All that the process is told. No secret: stores are opened from the access record."""

    drill: str
    ledger: str
    doors: tuple[tuple[str, str], ...]  # site, url
    ca_file: str
    seed: int
    rows_per_s: float
    objects_per_s: float
    bucket: str | None
    bucket_sites: tuple[str, ...]
    on_site_loss: str
    session_key: str | None = (
        None  # file of the key by which the clients log in as a sampling station
    )


class Clients:
    """The other end, in the drill. Use as a context: leaving it stops the process."""

    def __init__(self, plan: ClientPlan, *, folder: Path, clock: Clock) -> None:
        self._plan, self._folder, self._clock = plan, folder, clock
        self._counts: Counts | None = None
        self._last: dict[str, Any] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Returns when the first write was acknowledged. Raises Unreachable when none is, Invalid when the
        process ends."""
        plan = self._folder / "clients.json"
        write_atomic(plan, json.dumps(asdict(self._plan)))
        with (self._folder / "clients.log").open("wb") as log:
            self._child = process.start(
                [sys.executable, "-P", "-m", "failover.clients.process", plan],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                ends_itself=True,  # it closes its ledger then
            )
        self._reader = threading.Thread(target=self._listen, name="clients", daemon=True)
        self._reader.start()
        wait_until(
            self._why_no_write,
            what="the first acknowledged write",
            deadline=_STARTED,
            clock=self._clock,
            hint=f"see {self._folder / 'clients.log'}",
        )

    def snapshot(self) -> Counts:
        """A quarter of a second old at the most. Raises Invalid when the clients have died."""
        self._alive()
        assert self._counts is not None, "started clients have counts"
        return self._counts

    def note(self, what: str, *, at_s: float, detail: str = "") -> None:
        self._say({"do": "note", "what": what, "at_s": at_s, "detail": detail})

    def stop(self) -> Counts:
        """No new write; those under way end; the ledger is closed. Raises Invalid when it was not."""
        child = self._child
        assert child is not None, "stopped before it was started"
        if not self._last.get("closed"):
            self._say({"do": "stop"})
            with suppress(subprocess.TimeoutExpired):
                child.wait(_STOPPED.total_seconds())
            assert self._reader is not None
            self._reader.join(timeout=5)
        if not self._last.get("closed"):
            raise Invalid(
                f"the clients did not close their ledger: {self._last.get('error', 'they ended')}",
                hint=f"see {self._folder / 'clients.log'}",
            )
        assert self._counts is not None
        return self._counts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *gone: object) -> None:
        child = self._child
        if child is None:
            return
        if child.stdin is not None and not child.stdin.closed:
            with suppress(BrokenPipeError):
                child.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            child.wait(_STOPPED.total_seconds())
        process.end(child)

    def _why_no_write(self) -> str | None:
        self._alive()
        if self._counts is None:
            return "the clients are starting"
        return (
            None if self._counts.ok else f"the last answer was {self._counts.last_detail or 'none'}"
        )

    def _alive(self) -> None:
        if (
            self._child is not None
            and self._child.poll() is not None
            and not self._last.get("closed")
        ):
            raise Invalid(
                f"the clients ended: {self._last.get('error', f'exit {self._child.returncode}')}",
                hint=f"see {self._folder / 'clients.log'}",
            )

    def _say(self, word: dict[str, Any]) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(word).encode() + b"\n")
            self._child.stdin.flush()
        except (BrokenPipeError, ValueError):
            self._alive()

    def _listen(self) -> None:
        assert self._child is not None
        assert self._child.stdout is not None
        for line in self._child.stdout:
            told = json.loads(line)
            if counts := told.pop("counts", None):
                self._counts = Counts(**counts)
            self._last |= told


def _main(plan_file: Path) -> int:
    log.configure()
    plan = json.loads(plan_file.read_text())
    clock = SystemClock()
    measure_first()
    try:
        with _putting(plan, clock) as put:
            rates = Rates(rows_per_s=plan["rows_per_s"], objects_per_s=plan["objects_per_s"])
            ledger = Ledger.create(
                Path(plan["ledger"]),
                drill=plan["drill"],
                clock=clock,
                facts={
                    k: plan[k]
                    for k in ("seed", "rows_per_s", "objects_per_s", "doors", "bucket_sites")
                },
            )
            traffic = Traffic(
                doors=[Door(site=s, url=u) for s, u in plan["doors"]],
                ca_file=Path(plan["ca_file"]),
                ledger=ledger,
                clock=clock,
                seed=plan["seed"],
                rates=rates,
                put=put,
                session=_session(plan, clock),
            )
            traffic.start()
            _serve(traffic, ledger)
            counts = traffic.stop()
            ledger.close()
        _tell({"counts": asdict(counts), "closed": True})
    except ZaibeiError as failed:
        _tell({"error": str(failed)})
        return 1
    return 0


def _session(plan: dict[str, Any], clock: Clock) -> str | None:
    """A duty of its own: it registers for every person of the drill and can look at nobody's code."""
    key = plan["session_key"]
    if key is None:
        return None
    from loadtest.healthcode.sessions import COLLECTOR, Issuer  # noqa: PLC0415

    return Issuer.from_file(Path(key)).issue(
        f"drill {plan['drill']}", role=COLLECTOR, now=clock.now()
    )


def _serve(traffic: Traffic, ledger: Ledger) -> None:
    """Until told to stop, or until nobody is there to tell."""
    held = b""
    while True:
        ready, _, _ = select.select([0], [], [], _TELL_EVERY_S)
        if ready:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                word = json.loads(line)
                if word["do"] == "stop":
                    return
                ledger.note(word["what"], at_s=word["at_s"], detail=word["detail"])
        _tell({"counts": asdict(traffic.snapshot())})


@contextmanager
def _putting(plan: dict[str, Any], clock: Clock) -> Iterator[Put | None]:
    if plan["bucket"] is None or not plan["objects_per_s"]:
        yield None
        return
    access = sites.load()
    stores = {
        s: open_store(
            access.site(s).store,
            ca_file=access.ca_file,
            bucket=plan["bucket"],
            role="business",
            site=s,
            patience=_PATIENCE,
        )
        for s in plan["bucket_sites"]
    }
    with Mirror(
        stores=stores,
        clock=clock,
        on_site_loss=SiteLoss(plan["on_site_loss"]),
        deadline=OBJECT_DEADLINE,
    ) as mirror:
        yield lambda key, data: mirror.create(key, data).copies


def _tell(what: dict[str, Any]) -> None:
    # A drill that died reads nothing: the pipe breaks, and stdin ends too.
    with suppress(BrokenPipeError):
        os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
