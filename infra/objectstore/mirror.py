"""Business objects, written to every same-city store before they are acknowledged.

When a store is gone the policy of the stack decides: `degrade` goes on with one copy and says so in the
acknowledgement and the log; `block` acknowledges nothing until there are two again.
"""

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Self

from infra.objectstore.contract import AlreadyThere, NotThere, ObjectStore
from zaibei.config.model import SiteLoss
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Refused, Unreachable, ZaibeiError
from zaibei.kernel.log import logger

DEADLINE = timedelta(seconds=10)  # of one write at all stores
COOL_DOWN = timedelta(seconds=5)  # a store that failed is not asked again before
_THREADS_A_STORE = 16
_log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """What the client may be told. `copies` are stores that answered for these very bytes."""

    key: str
    copies: int
    missing: tuple[str, ...]  # sites without a proven copy
    versions: Mapping[str, str | None]  # site -> version id, where this write made it

    @property
    def degraded(self) -> bool:
        return bool(self.missing)


class Conflict(AlreadyThere):
    """A store holds other bytes under the key. `written` names stores that took ours."""


@dataclass(slots=True, kw_only=True)
class Mirror:
    """`with Mirror(...) as mirror`: its threads end with it. Thread-safe."""

    stores: Mapping[str, ObjectStore]
    clock: Clock
    on_site_loss: SiteLoss = SiteLoss.DEGRADE
    deadline: timedelta = DEADLINE
    cool_down: timedelta = COOL_DOWN
    _out_until: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pools: dict[str, ThreadPoolExecutor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.stores, "a mirror of nothing acknowledges nothing"
        # A pool a store: a store that hangs fills its own threads, never those of the other.
        self._pools = {
            site: ThreadPoolExecutor(_THREADS_A_STORE, thread_name_prefix=f"mirror-{site}")
            for site in self.stores
        }

    def create(self, key: str, data: bytes) -> Ack:
        """Write a new key everywhere. Safe to repeat with the same bytes.

        Raises AlreadyThere when another writer's bytes are there (Conflict when some stores have taken
        ours), Unreachable when no store, or with `block` not every store, has it; then nobody knows
        which stores do.
        """
        asked = [s for s in self.stores if not self._is_out(s)]
        if self.on_site_loss is SiteLoss.BLOCK and len(asked) < len(self.stores):
            # Before a byte is written: a blocked mirror that writes halves makes work for `heal`.
            raise self._blocked(key, written=0, missing=self._others(asked))
        running = {s: self._pools[s].submit(_put, self.stores[s], key, data) for s in asked}
        wait(running.values(), timeout=self.deadline.total_seconds())
        versions, missing, foreign = self._sort(key, running)
        if foreign:
            where = ", ".join(foreign)
            if not versions:
                raise AlreadyThere(f"{key} is already there with other bytes (at {where})")
            raise Conflict(
                f"{key}: {', '.join(versions)} took these bytes, {where} holds others",
                hint="nothing was overwritten; `zaibei store diff` shows the key until it is settled",
            )
        if not versions:
            raise Unreachable(f"{key}: no store answered ({', '.join(missing)})")
        if missing and self.on_site_loss is SiteLoss.BLOCK:
            raise self._blocked(key, written=len(versions), missing=missing)
        if missing:
            _log.debug("mirror.degraded", key=key, copies=len(versions), missing=missing)
        return Ack(key=key, copies=len(versions), missing=missing, versions=versions)

    def _sort(
        self, key: str, running: Mapping[str, "Future[_Put]"]
    ) -> tuple[dict[str, str | None], tuple[str, ...], list[str]]:
        versions: dict[str, str | None] = {}
        foreign: list[str] = []
        refused: list[ZaibeiError] = []
        for site, future in running.items():
            if not future.done():
                future.cancel()
                self._take_out(site, key, f"no answer in {self.deadline.total_seconds():g} s")
                continue
            try:
                put = future.result()
            except Unreachable as gone:
                self._take_out(site, key, gone.message)
            except Refused as no:
                refused.append(no)
            else:
                if put.foreign:
                    foreign.append(site)
                else:
                    versions[site] = put.version
        if refused:
            raise refused[0]  # wrong key or no bucket: a fault of ours, not a lost site
        return versions, self._others([*versions, *foreign]), foreign

    def _others(self, than: list[str]) -> tuple[str, ...]:
        return tuple(s for s in self.stores if s not in than)

    def _is_out(self, site: str) -> bool:
        with self._lock:
            return self._out_until.get(site, -1.0) > self.clock.monotonic()

    def _take_out(self, site: str, key: str, why: str) -> None:
        with self._lock:
            now = self.clock.monotonic()
            news = self._out_until.get(site, 0.0) <= now - self.cool_down.total_seconds()
            self._out_until[site] = now + self.cool_down.total_seconds()
        # Once an outage, not once a write: a flood of the same line hides the next one.
        (_log.warning if news else _log.debug)("mirror.member_out", site=site, key=key, why=why)

    def _blocked(self, key: str, *, written: int, missing: tuple[str, ...]) -> Unreachable:
        return Unreachable(
            f"{key}: not acknowledged: {written} of {len(self.stores)} stores have it, "
            f"without {', '.join(missing)}",
            hint="on_site_loss is `block`: writes wait until every same-city store answers",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Put:
    version: str | None = None
    foreign: bool = False  # other bytes are there


def _put(store: ObjectStore, key: str, data: bytes) -> _Put:
    try:
        return _Put(version=store.create(key, data))
    except AlreadyThere:
        try:
            return _Put(foreign=store.read(key) != data)
        except NotThere as removed:
            raise Unreachable(f"{store.name}: {key} came and went") from removed
