"""What zaibei asks of an object store, and the small print.

- Any method may raise `Unreachable`. A `create` that raised may or may not have happened: the caller
  creates again and takes `AlreadyThere` with the same bytes for success.
- Keys are never overwritten through this contract: `create` is the only way in, and it has one winner.
- Removing what is not there is not an error: retries must be safe.
- Reads check what was written: a store that returns other bytes than it was given raises `Damage`.
- Any method may raise `Refused`: this identity is not allowed to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from zaibei.kernel.errors import Damage, ZaibeiError


class AlreadyThere(ZaibeiError):
    """`create` found a current version under the key."""


class NotThere(ZaibeiError):
    """`read` or `stat` found nothing under the key (or only a delete marker)."""


class Locked(ZaibeiError):
    """The store refused to remove or shorten what is under retention. That is its job."""


class UnsoundListing(Damage):
    """The store's listing is known to leave keys out here; what it gave must not be called complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    key: str
    size_bytes: int
    version: str | None
    modified: datetime
    retain_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a key, or one delete marker (size 0, no etag)."""

    key: str
    version: str | None
    latest: bool
    marker: bool
    size_bytes: int
    etag: str
    modified: datetime


class ObjectStore(Protocol):
    """One bucket (and prefix) as one identity. Thread-safe."""

    @property
    def name(self) -> str:
        """For people: `site-b/zaibei-vault`."""

    def now(self) -> datetime:
        """The store's own clock: what retention ends by. To the second."""

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> str | None:
        """Write a new key; return its version id. Raises AlreadyThere, never overwrites.

        With `retain_until` the object is under COMPLIANCE retention from its first moment.
        """

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes: ...

    def stat(self, key: str) -> Stat: ...

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """Current versions in key order (UTF-8 bytes), lazily, a page at a time."""

    def remove(self, key: str, *, version: str | None = None) -> None:
        """With `version` that version for good; without it a delete marker where versions are kept.

        Raises Locked.
        """

    def retain(self, key: str, *, until: datetime, version: str | None = None) -> None:
        """Extend COMPLIANCE retention. Raises Locked when `until` would shorten it."""


@runtime_checkable
class VersionedStore(ObjectStore, Protocol):
    """A store that shows its past: what the convergence auditor and `as of time T` need."""

    def versions(self, prefix: str = "") -> Iterator[Version]:
        """All versions and delete markers, by key (UTF-8 bytes), the newest of a key first."""

    def read_version(
        self, key: str, *, version: str, start: int = 0, length: int | None = None
    ) -> bytes:
        """One version, whole or a range as `read` takes it, also behind a delete marker."""


@runtime_checkable
class LitteredStore(ObjectStore, Protocol):
    """A store in which a writer who is killed leaves what is no object: nothing lists it, and it takes room."""

    def unfinished(self, before: datetime, *, remove: bool) -> int:
        """How many of these are older than `before`; with `remove` they are gone."""


@runtime_checkable
class LockableStore(ObjectStore, Protocol):
    """A store in which a bucket may have been made without locks."""

    def why_no_lock(self) -> str | None:
        """Why nothing can be locked there; None: it can, or this identity may not ask."""


@runtime_checkable
class HeaderedStore(VersionedStore, Protocol):
    """A store whose objects carry headers: `content-type`, `cache-control`, `x-amz-meta-…`, lower case.

    Only what whoever wrote the object chose; lengths, times and checksums are told elsewhere."""

    def headers(self, key: str, *, version: str | None = None) -> dict[str, str]: ...

    def create_with(self, key: str, data: bytes, headers: Mapping[str, str]) -> str | None:
        """`create`, with what `headers` gave. Raises Usage for a header that is none of these."""
