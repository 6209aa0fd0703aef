"""The contract in memory: the reference that every other implementation is compared with.

It keeps versions, delete markers and COMPLIANCE retention, and fails when it is told to: `faults` maps
the number of a call (counted from 1, all methods together) to what happens there. A fault that means nothing
for the method that meets it is not a fault, so that any schedule can be drawn by lot.
"""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from infra.objectstore.contract import AlreadyThere, Locked, NotThere, Stat, Version
from infra.objectstore.headers import known
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Refused, Unreachable


class Fault(StrEnum):
    BEFORE = "before"  # nothing happened, and the caller does not know
    AFTER = "after"  # it happened, and the caller does not know
    TORN = "torn"  # create: half of the bytes are there, and the caller does not know
    LOST = "lost"  # create, remove, retain: acknowledged, and nothing happened
    STALE = "stale"  # list, versions: as it was STALE_WRITES writes ago
    DENIED = "denied"  # this identity may not, this time
    LOCKED = "locked"  # remove, retain: a lock is in the way
    LATE = "late"  # remove: no answer, and it happens LATE_CALLS calls later
    TWICE = "twice"  # remove: it happens now and once more LATE_CALLS calls later


STALE_WRITES = 3
LATE_CALLS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    version: str
    data: bytes | None  # None: a delete marker
    modified: datetime
    retain_until: datetime | None = None
    headers: tuple[tuple[str, str], ...] = ()


Versions = list[_Held]  # the class below has a method of that name


@dataclass(slots=True, kw_only=True)
class MemoryStore:
    clock: Clock
    name: str = "memory"
    skew: timedelta = timedelta(0)  # by how much the store's own clock is ahead of `clock`
    faults: Mapping[int, Fault] = field(default_factory=dict)
    calls: int = 0
    log: list[tuple[str, str]] = field(default_factory=list)  # (method, key) of each call
    _keys: dict[str, list[_Held]] = field(default_factory=dict)  # versions, the newest first
    _made: int = 0
    _late: list[tuple[int, str, str | None]] = field(
        default_factory=list
    )  # due at call, key, version
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def now(self) -> datetime:
        with self._call("now", "") as fault:
            fault.after()
            return self._now()

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> str | None:
        with self._call("create", key) as fault, self._lock:
            if self._current(key) is not None:
                raise AlreadyThere(f"{self.name}: {key} is already there")
            if fault.is_(Fault.LOST):
                return "lost"
            torn = len(data) // 2 if fault.is_(Fault.TORN) else len(data)
            held = self._push(key, bytes(data[:torn]), retain_until)
            fault.after()
            return held.version

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        with self._call("read", key) as fault, self._lock:
            data = self._need(key).data
            assert data is not None, "a current version has bytes"
            fault.after()
            return data[start:] if length is None else data[start : start + length]

    def stat(self, key: str) -> Stat:
        with self._call("stat", key) as fault, self._lock:
            found = _stat(key, self._need(key))
            fault.after()
            return found

    def list(self, prefix: str = "") -> Iterator[Stat]:
        with self._call("list", prefix) as fault, self._lock:
            found = [
                _stat(key, held[0])
                for key, held in self._seen(prefix, fault)
                if held[0].data is not None
            ]
            fault.after()
        return iter(found)

    def versions(self, prefix: str = "") -> Iterator[Version]:
        with self._call("versions", prefix) as fault, self._lock:
            found = [
                _version(key, h, latest=n == 0)
                for key, held in self._seen(prefix, fault)
                for n, h in enumerate(held)
            ]
            fault.after()
        return iter(found)

    def read_version(
        self, key: str, *, version: str, start: int = 0, length: int | None = None
    ) -> bytes:
        with self._call("read_version", key) as fault, self._lock:
            held = self._find(key, version)
            if held is None or held.data is None:
                raise NotThere(f"{self.name}: {key} has no version {version}")
            fault.after()
            return held.data[start:] if length is None else held.data[start : start + length]

    def headers(self, key: str, *, version: str | None = None) -> dict[str, str]:
        with self._call("headers", key) as fault, self._lock:
            held = self._need(key) if version is None else self._find(key, version)
            if held is None or held.data is None:
                raise NotThere(f"{self.name}: {key} has no version {version}")
            fault.after()
            return dict(held.headers)

    def create_with(self, key: str, data: bytes, headers: Mapping[str, str]) -> str | None:
        known(headers)
        with self._call("create", key) as fault, self._lock:
            if self._current(key) is not None:
                raise AlreadyThere(f"{self.name}: {key} is already there")
            held = self._push(key, bytes(data), None, headers)
            fault.after()
            return held.version

    def remove(self, key: str, *, version: str | None = None) -> None:
        with self._call("remove", key) as fault, self._lock:
            if fault.is_(Fault.LATE, Fault.TWICE):
                self._late.append((self.calls + LATE_CALLS, key, version))
            if not fault.is_(Fault.LATE, Fault.LOST):
                self._take(key, version)
            fault.after()

    def retain(self, key: str, *, until: datetime, version: str | None = None) -> None:
        with self._call("retain", key) as fault, self._lock:
            held = self._need(key) if version is None else self._find(key, version)
            if held is None:
                raise NotThere(f"{self.name}: {key} has no version {version}")
            if held.retain_until is not None and until < held.retain_until:
                raise Locked(f"{self.name}: {key} is locked until {held.retain_until}")
            if not fault.is_(Fault.LOST):
                at = self._keys[key].index(held)
                self._keys[key][at] = replace(held, retain_until=until)
            fault.after()

    def corrupt(self, key: str, data: bytes) -> None:
        """For tests: the medium changes bytes behind the store's back."""
        with self._lock:
            self._keys[key][0] = replace(self._need(key), data=data)

    def overwrite(self, key: str, data: bytes) -> None:
        """For tests: a stranger's PUT without a condition, which S3 allows; a new version on top."""
        with self._lock:
            self._push(key, data, None)

    def _now(self) -> datetime:
        return self.clock.now() + self.skew

    def _take(self, key: str, version: str | None) -> None:
        if version is None:
            if self._current(key) is not None:
                self._push(key, None, None)
        elif (held := self._find(key, version)) is not None:
            if held.retain_until is not None and held.retain_until > self._now():
                raise Locked(f"{self.name}: {key} is locked until {held.retain_until}")
            self._keys[key].remove(held)
            if not self._keys[key]:
                del self._keys[key]

    def _seen(self, prefix: str, fault: "_Call") -> Iterator[tuple[str, Versions]]:
        """Keys and versions, as a listing shows them: all, or without the latest writes."""
        newest = f"{self._made - STALE_WRITES if fault.is_(Fault.STALE) else self._made:08d}"
        for key, held in sorted(self._keys.items(), key=lambda kv: kv[0].encode()):
            shown = [h for h in held if h.version <= newest]
            if key.startswith(prefix) and shown:
                yield key, shown

    def _push(
        self,
        key: str,
        data: bytes | None,
        retain_until: datetime | None,
        headers: Mapping[str, str] | None = None,
    ) -> _Held:
        self._made += 1
        held = _Held(
            version=f"{self._made:08d}",
            data=data,
            modified=self._now(),
            retain_until=retain_until,
            headers=tuple(sorted((headers or {}).items())),
        )
        self._keys.setdefault(key, []).insert(0, held)
        return held

    def _current(self, key: str) -> _Held | None:
        held = self._keys.get(key)
        return held[0] if held and held[0].data is not None else None

    def _need(self, key: str) -> _Held:
        if (held := self._current(key)) is None:
            raise NotThere(f"{self.name}: {key} is not there")
        return held

    def _find(self, key: str, version: str) -> _Held | None:
        return next((h for h in self._keys.get(key, []) if h.version == version), None)

    def _call(self, method: str, key: str) -> "_Call":
        with self._lock:
            self.calls += 1
            self.log.append((method, key))
            due = [late for late in self._late if late[0] <= self.calls]
            for late in due:
                self._late.remove(late)
                with suppress(Locked):
                    self._take(late[1], late[2])
            return _Call(method, f"{self.name}: {method} {key}", self.faults.get(self.calls))


class _Call:
    def __init__(self, method: str, what: str, fault: Fault | None) -> None:
        self._method, self._what, self._fault = method, what, fault

    def is_(self, *faults: Fault) -> bool:
        return self._fault in faults

    def __enter__(self) -> Self:
        if self._fault is Fault.BEFORE:
            raise Unreachable(f"{self._what}: did not answer")
        if self._fault is Fault.DENIED:
            raise Refused(f"{self._what}: denied")
        if self._fault is Fault.LOCKED and self._method in ("remove", "retain"):
            raise Locked(f"{self._what}: is locked")
        return self

    def after(self) -> None:
        unanswered = self._fault is Fault.AFTER
        unanswered |= self._fault is Fault.TORN and self._method == "create"
        unanswered |= self._fault is Fault.LATE and self._method == "remove"
        if unanswered:
            raise Unreachable(f"{self._what}: did not answer")

    def __exit__(self, *gone: object) -> None: ...


def _stat(key: str, held: _Held) -> Stat:
    assert held.data is not None
    return Stat(
        key=key,
        size_bytes=len(held.data),
        version=held.version,
        modified=held.modified,
        retain_until=held.retain_until,
    )


def _version(key: str, held: _Held, *, latest: bool) -> Version:
    return Version(
        key=key,
        version=held.version,
        latest=latest,
        marker=held.data is None,
        size_bytes=len(held.data or b""),
        etag="" if held.data is None else _etag(held.data),
        modified=held.modified,
    )


def _etag(data: bytes) -> str:
    # S3's own etag of a single PUT, so that a memory store and a real one can be compared.
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
