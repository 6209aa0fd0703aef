"""A store as it was at a time: reads through every later overwrite and delete marker, and writes nothing.

Locks keep versions, not names: whoever holds a writer's keys can put junk over any key, or hide it. The
version below is still there, and this view shows it. What was removed for good shows as not there.
"""

import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby

from infra.objectstore.contract import NotThere, ObjectStore, Stat, Version, VersionedStore
from zaibei.kernel.errors import Refused, Usage


def as_of(store: ObjectStore, at: datetime) -> "AsOf":
    """Raises Usage for a store that keeps no versions: it can only show what is there now."""
    if not isinstance(store, VersionedStore):
        raise Usage(
            f"{store.name} keeps no versions: it cannot show how it was",
            hint="as-of works on an S3 bucket with versioning",
        )
    return AsOf(store, at)


def shown(versions: Iterable[Version], at: datetime) -> Version | None:
    """Of one key's versions, the newest first: the one that was current at `at`; None for a delete
    marker or nothing. Pure."""
    found = next((v for v in versions if v.modified <= at), None)
    return None if found is None or found.marker else found


class AsOf:
    """Thread-safe. A folder of the past is listed once: it does not change any more."""

    def __init__(self, store: VersionedStore, at: datetime) -> None:
        assert at.utcoffset() is not None, "a time without its zone is another time elsewhere"
        self._store, self._at = store, at
        self._lock = threading.Lock()
        self._folders: dict[str, dict[str, Version]] = {}

    @property
    def name(self) -> str:
        return f"{self._store.name} as of {self._at:%Y-%m-%dT%H:%M:%SZ}"

    def now(self) -> datetime:
        return self._at

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        found = self._find(key)
        assert found.version is not None, "a store that keeps versions names them"
        return self._store.read_version(key, version=found.version, start=start, length=length)

    def stat(self, key: str) -> Stat:
        return _stat(self._find(key))

    def list(self, prefix: str = "") -> Iterator[Stat]:
        for _, group in groupby(self._store.versions(prefix), key=lambda v: v.key):
            if (found := shown(group, self._at)) is not None:
                yield _stat(found)

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> str | None:
        raise self._past()

    def remove(self, key: str, *, version: str | None = None) -> None:
        raise self._past()

    def retain(self, key: str, *, until: datetime, version: str | None = None) -> None:
        raise self._past()

    def _past(self) -> Refused:
        return Refused(f"{self.name}: the past is read-only", hint="leave out --as-of to write")

    def _find(self, key: str) -> Version:
        folder = key.partition("/")[0]
        with self._lock:  # one listing, also when eight threads ask at once
            if folder not in self._folders:
                held = groupby(self._store.versions(folder), key=lambda v: v.key)
                self._folders[folder] = {
                    k: found for k, group in held if (found := shown(group, self._at)) is not None
                }
            found = self._folders[folder].get(key)
        if found is None:
            raise NotThere(f"{self.name}: {key} was not there")
        return found


def _stat(found: Version) -> Stat:
    # No lock is told: a listing of versions does not show it.
    return Stat(
        key=found.key,
        size_bytes=found.size_bytes,
        version=found.version,
        modified=found.modified,
    )
