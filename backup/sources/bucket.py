"""Backs up an S3 bucket: every version of every key and every delete marker, with id, etag, time
and headers.

A version does not change, so one that the last backup listed is not fetched again. What is read is
the set of versions that the listing showed; `facts["versions"]` names that set by count and digest,
so that it can be compared with the bucket, or with another backup, without reading either.
"""

import hashlib
import json
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from backup.format.facts import BUCKET, CURRENT_BYTES
from backup.format.snapshot import Content
from backup.format.tree import Node, Object, Type
from backup.repository.vault import retry
from backup.sources.chunker import OTHER, Cutter
from backup.sources.fanout import Fanout, Judge, Outcome
from backup.sources.parent import Parents, parents
from backup.writer.writer import Writer
from infra.objectstore.contract import HeaderedStore, NotThere, ObjectStore, Version, VersionedStore
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Refused, Usage
from zaibei.kernel.progress import Progress

PROBLEMS_MAX: Final = 1000  # listed in the snapshot; the count is always exact
RANGE_BYTES: Final = 8 << 20  # of one GET
AHEAD: Final = 6  # objects whose first range is on its way while one is read
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Tally:
    """Names a set of versions: their count, and SHA-256 over a line of JSON for each, in listing order:
    `["key","version or null","etag","object" or "marker"]`."""

    def __init__(self) -> None:
        self.count = self.current = self.current_bytes = self.markers = 0
        self._digest = hashlib.sha256()

    def add(self, one: Version) -> None:
        self.count += 1
        self.markers += one.marker
        if one.latest and not one.marker:
            self.current += 1
            self.current_bytes += one.size_bytes
        line = [one.key, one.version, one.etag, "marker" if one.marker else "object"]
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        self._digest.update(text.encode() + b"\n")

    def told(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "current": self.current,
            "markers": self.markers,
            "digest": self._digest.hexdigest(),
        }


def version_set(versions: Iterable[Version]) -> dict[str, Any]:
    """What `facts["versions"]` says of these: `count`, `current`, `markers`, `digest`."""
    tally = Tally()
    for one in versions:
        tally.add(one)
    return tally.told()


def backup_bucket(
    store: ObjectStore,
    writers: Sequence[Writer],
    *,
    source: str,
    clock: Clock,
    progress: Progress,
    label: str = "",
    cutter: Cutter = OTHER,
    skip_unchanged: bool = True,
    judge: Judge | None = None,
) -> tuple[Outcome, ...]:
    """All versions that the listing shows. `source`: what names the bucket, also in the next run.

    Raises Usage for a store without versions, Unreachable when it stops answering, UnsoundListing when its
    listing leaves keys out: such a backup would be called complete and is not. Nothing is committed then."""
    if not hasattr(store, "versions"):
        raise Usage(f"{store.name} keeps no versions", hint="a directory is backed up with --files")
    versioned: VersionedStore = store  # type: ignore[assignment]  # just asked
    host, started = socket.gethostname(), clock.now()
    progress.step(f"reading {source}")
    with Fanout(writers, progress, judge=judge) as out:
        known = Parents([], progress.note)
        if skip_unchanged:
            known = parents(
                writers,
                kind=BUCKET,
                host=None,
                facts={"source": source},
                order=lambda key: key,
                note=progress.note,
            )
        run = _Run(versioned, out, known, cutter, clock)
        try:
            run.read_all()
        finally:
            run.close()
        progress.step("committing")
        return out.commit(
            Content(
                kind=BUCKET,
                label=label,
                host=host,
                started=started,
                finished=clock.now(),
                tree=(),
                entries=0,
                size_bytes=0,
                complete=run.problems == 0,
                problems=tuple(run.lines),
                facts={
                    "source": source,
                    "versions": run.tally.told(),
                    CURRENT_BYTES: run.tally.current_bytes,
                    "unchanged": run.skipped,
                    "problems": run.problems,
                },
            )
        )


@dataclass(frozen=True, slots=True)
class _First:
    """What of an object was fetched before its turn."""

    headers: dict[str, str]
    data: bytes


@dataclass(frozen=True, slots=True)
class _Item:
    version: Version
    listed: list[Node] | None  # by the parents: it is not fetched
    first: Future[_First] | None


class _Run:
    def __init__(
        self, store: VersionedStore, out: Fanout, known: Parents, cutter: Cutter, clock: Clock
    ) -> None:
        self._store, self._out, self._parents = store, out, known
        self._cutter, self._clock = cutter, clock
        self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="bucket")
        self.tally = Tally()
        self.lines: list[str] = []
        self.problems = self.skipped = 0

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._parents.close()

    def read_all(self) -> None:
        for item in self._ahead():
            if item.listed is not None and self._reuse(item):
                continue
            if item.version.marker:
                self._out.add(_node(item.version, {}))
                continue
            try:
                self._fetch(item)
            except (NotThere, Refused, Damage) as bad:
                # One object that cannot be had is a problem of the run; the others are still worth it.
                self._problem(item.version, bad.message)

    def _ahead(self) -> Iterator[_Item]:
        """Everything in the order of the listing; the next few are being fetched."""
        waiting: deque[_Item] = deque()
        for version, listed in self._listed():
            first = None
            if listed is None and not version.marker:
                first = self._pool.submit(self._first, version)
            waiting.append(_Item(version, listed, first))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting

    def _listed(self) -> Iterator[tuple[Version, list[Node] | None]]:
        """Each version, and how the parents listed it when all of them did."""
        key: str | None = None
        before: list[dict[tuple[Any, ...], Node]] = []
        for version in self._store.versions():
            self.tally.add(version)
            if version.key != key:
                key = version.key
                found = self._parents.at(key.encode())
                before = [{_identity(n): n for n in nodes} for nodes in found or []]
            same = [nodes.get(_identity(_node(version, {}))) for nodes in before]
            known = [n for n in same if n is not None]
            yield version, known if same and len(known) == len(same) else None

    def _reuse(self, item: _Item) -> bool:
        """The parents' entries, with what may have changed: whether it is the current version."""
        assert item.listed, "there is a vault"
        headers = dict(item.listed[0].object.meta) if item.listed[0].object else {}
        node = _node(item.version, headers)
        if not self._out.reuse(node, [n.blobs for n in item.listed]):
            return False
        self.skipped += 1
        return True

    def _fetch(self, item: _Item) -> None:
        first = item.first.result() if item.first else self._first(item.version)
        body = _Body(first.data, item.version, self._range)
        node = _node(item.version, first.headers)
        read = self._out.add(node, self._cutter.cut(body))
        if read.size_bytes != item.version.size_bytes:
            self._problem(item.version, f"{read.size_bytes} bytes, and the listing said otherwise")

    def _first(self, version: Version) -> _First:
        headers: dict[str, str] = {}
        if isinstance(self._store, HeaderedStore):
            store = self._store
            headers = retry(
                self._clock, lambda: store.headers(version.key, version=version.version)
            )
        return _First(headers, self._range(version, 0))

    def _range(self, version: Version, start: int) -> bytes:
        """A small object whole: then the store's own checksum is checked with it."""
        length = None if version.size_bytes <= RANGE_BYTES else RANGE_BYTES
        key, id_ = version.key, version.version
        if id_ is None:
            return retry(self._clock, lambda: self._store.read(key, start=start, length=length))
        return retry(
            self._clock,
            lambda: self._store.read_version(key, version=id_, start=start, length=length),
        )

    def _problem(self, version: Version, why: str) -> None:
        self.problems += 1
        if len(self.lines) < PROBLEMS_MAX:
            self.lines.append(f"{version.key!a} version {version.version}: {why}")


class _Body:
    """An object as a stream, a range at a time."""

    def __init__(
        self, data: bytes, version: Version, fetch: Callable[[Version, int], bytes]
    ) -> None:
        self._data, self._at = memoryview(data), len(data)
        self._version, self._fetch = version, fetch

    def read(self, size: int, /) -> bytes:
        if not self._data and self._at < self._version.size_bytes:
            more = self._fetch(self._version, self._at)
            self._data, self._at = memoryview(more), self._at + len(more)
        given, self._data = bytes(self._data[:size]), self._data[size:]
        return given


def _node(version: Version, headers: dict[str, str]) -> Node:
    return Node(
        path=version.key.encode(),
        type=Type.MARKER if version.marker else Type.OBJECT,
        mode=0,
        # Exact: a float of seconds would lose the microseconds that tell two versions apart.
        mtime_ns=(version.modified - _EPOCH) // timedelta(microseconds=1) * 1000,
        size_bytes=version.size_bytes,
        object=Object(
            version=version.version,
            etag=version.etag,
            latest=version.latest,
            meta=tuple(sorted(headers.items())),
        ),
    )


def _identity(node: Node) -> tuple[Any, ...]:
    about = node.object
    assert about is not None, "a bucket lists objects"
    return node.type, about.version, about.etag, node.mtime_ns, node.size_bytes
