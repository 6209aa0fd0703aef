"""Reads and creates the objects of one vault, asking a store again while it does not answer.

`Vault` needs no secret. `OpenVault` adds the keys: everything below the façade `Repository` stands on it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

from backup.crypto.keyring import Keyring
from backup.format import layout
from backup.format.config import CONFIG, Config
from backup.format.pack import key_of
from infra.objectstore.contract import AlreadyThere, NotThere, ObjectStore, Stat
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Refused, Unreachable

_OBJECT_BYTES_MAX = 256 << 20
ATTEMPTS: Final = 4
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Vault:
    store: ObjectStore
    clock: Clock

    @property
    def name(self) -> str:
        return self.store.name

    def read(self, key: str) -> bytes:
        """One object. What is named by something signed and is not there is damage, not an option."""
        try:
            return retry(self.clock, lambda: self.store.read(key))
        except NotThere as gone:
            raise Damage(f"{self.name}: {key} is not there") from gone

    def read_or_none(self, key: str) -> bytes | None:
        try:
            return self.read(key)
        except Damage as gone:
            if isinstance(gone.__cause__, NotThere):
                return None
            raise

    def listed(self, prefix: str) -> list[Stat]:
        """What is ours, all at once: for prefixes whose count is bounded by runs, not by data."""
        return retry(self.clock, lambda: list(layout.ours_in(self.store.list(prefix))))

    def read_pack(self, name: str, size_bytes: int) -> bytes:
        if size_bytes > _OBJECT_BYTES_MAX:
            raise Damage(f"{self.name}: pack {name} claims {size_bytes} bytes")
        data = self.read(key_of(name))
        if len(data) != size_bytes:
            raise Damage(
                f"{self.name}: pack {name} has {len(data)} bytes and should have {size_bytes}"
            )
        return data

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> None:
        """Write-once, safe to repeat: the same bytes already there are success."""
        if not self.create_if_absent(key, data, retain_until=retain_until):
            raise Damage(
                f"{self.name}: {key} is there with other bytes",
                hint="another writer, or a damaged object of an earlier run",
            )

    def create_if_absent(
        self, key: str, data: bytes, *, retain_until: datetime | None = None
    ) -> bool:
        """`create`, where losing to another writer is an answer: False.

        The store is asked again whether it has what it acknowledged, while the bytes are still at hand:
        an index segment over a lost pack would make every later run rely on it.
        """
        if retain_until is None and key.startswith(layout.ALWAYS):
            retain_until = self._as_config()
        for _ in range(ATTEMPTS):
            try:
                retry(self.clock, lambda: self.store.create(key, data, retain_until=retain_until))
            except AlreadyThere:
                return self.read(key) == data
            if self._kept(key, len(data), retain_until):
                return True
        raise Damage(
            f"{self.name}: {key} was acknowledged {ATTEMPTS} times and is not there",
            hint="this store loses what it acknowledges: do not use it as a vault",
        )

    def _as_config(self) -> datetime | None:
        """What opens the repository and explains its chain is locked as long as its config: each locked run extends
        them together, and a statement that came after it must not be the one that can be taken away."""
        try:
            end = retry(self.clock, lambda: self.store.stat(CONFIG)).retain_until
        except NotThere:
            return None
        return end if end is not None and end > retry(self.clock, self.store.now) else None

    def _kept(self, key: str, size_bytes: int, retain_until: datetime | None) -> bool:
        try:
            found = retry(self.clock, lambda: self.store.stat(key))
        except NotThere:
            return False
        if found.size_bytes != size_bytes:
            raise Damage(f"{self.name}: {key} has {found.size_bytes} of {size_bytes} bytes")
        held = found.retain_until
        if retain_until is not None and (
            held is None or held < retain_until.replace(microsecond=0)
        ):
            raise Refused(
                f"{self.name}: {key} was taken with a lock and has none",
                hint=(
                    "this store does not keep its locks: zaibei store probe --role vault",
                    "or this identity may not see them: it needs s3:GetObjectRetention",
                ),
            )
        return True


@dataclass(frozen=True, slots=True)
class OpenVault(Vault):
    """A vault and what opens it. Whoever reads signed or sealed objects stands on this."""

    config: Config
    keys: Keyring


def retry(clock: Clock, call: Callable[[], T]) -> T:
    """A few tries while a store does not answer; the last Unreachable is the caller's."""
    try:
        return call()
    except Unreachable as first:
        import tenacity  # noqa: PLC0415 - nearly every run does without

        failed = [first]

        def again() -> T:
            if failed:
                raise failed.pop()
            return call()

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unreachable),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=3),
            sleep=lambda s: clock.sleep(timedelta(seconds=s)),
            reraise=True,
        )(again)
