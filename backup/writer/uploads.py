"""Uploads packs to one vault while the next ones are being made.

Memory is bounded by bytes, not by count: `send` waits while IN_FLIGHT_BYTES are on their way. The
first failure is raised by the next `send` and by `settle`, so a run cannot end well with a pack
that never arrived.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from backup.format.pack import Pack

THREADS: Final = 4
IN_FLIGHT_BYTES: Final = 16 << 20


class Uploads:
    """Thread-safe. `deliver` is called in a thread of this, once a pack."""

    def __init__(self, deliver: Callable[[Pack], None], *, threads: int = THREADS) -> None:
        self._deliver = deliver
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="upload")
        self._changed = threading.Condition()
        self._bytes = 0
        self._failed: BaseException | None = None

    def send(self, pack: Pack) -> None:
        """Raises what an earlier delivery raised."""
        size = len(pack.data)
        with self._changed:
            # A pack larger than the bound goes alone.
            self._changed.wait_for(
                lambda: self._failed or not self._bytes or self._bytes + size <= IN_FLIGHT_BYTES
            )
            if self._failed is not None:
                raise self._failed
            self._bytes += size
        self._pool.submit(self._run, pack)

    def settle(self) -> None:
        """Everything that was sent has arrived."""
        with self._changed:
            self._changed.wait_for(lambda: self._failed or not self._bytes)
            if self._failed is not None:
                raise self._failed

    def close(self) -> None:
        """What waits is dropped; what travels is waited for."""
        self._pool.shutdown(cancel_futures=True)

    def _run(self, pack: Pack) -> None:
        try:
            if self._failed is None:
                self._deliver(pack)
        except BaseException as bad:  # noqa: BLE001 — it is handed to whoever sends next
            with self._changed:
                self._failed = self._failed or bad
        finally:
            with self._changed:
                self._bytes -= len(pack.data)
                self._changed.notify_all()
