"""A store that is asked again while it does not answer. What is left of its errors is what a repository means."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

from backup import names
from infra.objectstore.contract import NotThere, ObjectStore, Stat
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Unreachable

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

    def find(self, key: str) -> bytes | None:
        try:
            return self.read(key)
        except Damage as gone:
            if isinstance(gone.__cause__, NotThere):
                return None
            raise

    def listed(self, prefix: str) -> list[Stat]:
        """What is ours, all at once: for prefixes whose count is bounded by runs, not by data."""
        return retry(self.clock, lambda: list(names.ours_in(self.store.list(prefix))))


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
