"""Objects back from a bucket's snapshot: into a directory, or into another bucket. Of each key the version that
was current, at the backup or at a time before it; a key behind a delete marker is not there.

Not every key is a file name. A part of a key that cannot be one is written with `%`, and so is `%` itself:
`%` becomes `%25`, `.` and `..` become `%2E` and `%2E%2E`, an empty part becomes `%`. A key that is also
the folder of other keys (`a` beside `a/b`) gets one `%` at its end. So every name stands for one key.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

from backup.errors import NotEmpty
from backup.format.tree import Node, Type
from backup.repository.reader import Reader
from backup.repository.vault import retry
from backup.restore.replicas import Entry, Source, View, entries
from backup.restore.target_dir import STAGE
from infra.objectstore.contract import AlreadyThere, HeaderedStore, ObjectStore
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.printable import quoted
from zaibei.kernel.progress import Progress

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
SMALL_BYTES: Final = 16 << 20  # objects up to this are sent beside each other
SENDERS: Final = 4
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def chosen(listing: Iterable[Entry], *, at: datetime | None) -> Iterator[Entry]:
    """Of each key the version to restore: the current one, or the one that was current at `at`."""
    moment = None if at is None else int((at - _EPOCH).total_seconds()) * 1_000_000_000
    for _, group in groupby(listing, key=lambda one: one[1].path):
        for reader, node in group:  # the newest first
            about = node.object
            if about is None:
                raise Damage(f"a bucket lists {quoted(node.path)}, which is no object")
            if about.latest if moment is None else node.mtime_ns <= moment:
                if node.type is Type.OBJECT:
                    yield reader, node
                break


def as_files(at: datetime | None = None) -> View:
    """Objects as the files that a restore writes."""

    def view(listing: Callable[[], Iterator[Entry]]) -> Iterator[Entry]:
        folders = clashing(node.path for _, node in chosen(listing(), at=at))
        for reader, node in chosen(listing(), at=at):
            path = file_name(node.path, folder=node.path in folders)
            if node.path.endswith(b"/") and not node.size_bytes:
                path = file_name(node.path[:-1], folder=False)
                yield (
                    reader,
                    replace(node, path=path, type=Type.DIRECTORY, mode=DIRECTORY_MODE, object=None),
                )
            else:
                yield reader, replace(node, path=path, type=Type.FILE, mode=FILE_MODE, object=None)

    return view


def clashing(keys: Iterable[bytes]) -> set[bytes]:
    """The keys that are also a folder of others. `keys` come in their order: between `a` and `a/b` all begin
    with `a`, so only the keys that the one at hand begins with need to be remembered."""
    open_: list[bytes] = []
    found: set[bytes] = set()
    for key in keys:
        while open_ and not key.startswith(open_[-1]):
            open_.pop()
        found.update(k for k in open_ if key.startswith(k + b"/"))
        open_.append(key)
    return found


def file_name(key: bytes, *, folder: bool) -> bytes:
    return b"/".join(map(_part, key.split(b"/"))) + (b"%" if folder else b"")


def _part(part: bytes) -> bytes:
    if part in (b"", b".", b"..", STAGE):
        return part.replace(b".", b"%2E") or b"%"
    return part.replace(b"%", b"%25").replace(b"\0", b"%00")


@dataclass(slots=True, kw_only=True)
class Sent:
    """What became of it. `there`: keys that held the same bytes already, of an interrupted restore."""

    objects: int = 0
    size_bytes: int = 0
    there: int = 0
    taken: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not (self.taken or self.lost)


def send(
    sources: Sequence[Source],
    store: ObjectStore,
    *,
    clock: Clock,
    progress: Progress,
    at: datetime | None = None,
    wanted: Callable[[bytes], bool] = lambda _: True,
    resume: bool = False,
) -> Sent:
    """Into a bucket that is empty (or was being filled by the same, with `resume`). Never overwrites: a key
    that is there with other bytes is Refused. Raises NotEmpty."""
    if not resume and next(iter(store.list()), None) is not None:
        raise NotEmpty(
            f"{store.name} is not empty", hint="another bucket or prefix; or go on with --resume"
        )
    out = Sent()
    total = sources[0].snapshot.content.size_bytes
    progress.step(f"sending objects to {store.name}")
    waiting: list[Future[int]] = []

    def settle() -> None:
        for one in waiting:
            with suppress(_Gone):
                out.size_bytes += one.result()
                out.objects += 1
        waiting.clear()
        progress.done(out.size_bytes, total, unit="B")

    def one_(reader: Reader, node: Node) -> int:
        data = _whole(sources, reader, node, out)
        if not _create(store, node, data, clock):
            out.there += 1
        return len(data)

    with ThreadPoolExecutor(SENDERS, thread_name_prefix="send") as pool:
        for reader, node in chosen(entries(sources, note=out.taken.append), at=at):
            if not wanted(node.path):
                continue
            if node.size_bytes > SMALL_BYTES:
                settle()  # a large one alone: it is held whole
            waiting.append(pool.submit(one_, reader, node))
            if node.size_bytes > SMALL_BYTES or len(waiting) >= SENDERS:
                settle()
        settle()
    return out


class _Gone(Exception):
    """No vault has it whole; it is in the list."""


def _whole(sources: Sequence[Source], reader: Reader, node: Node, out: Sent) -> bytes:
    try:
        return _read(reader, node)
    except Damage as bad:
        why = bad.message
    for spare in sources[1:]:
        with suppress(Damage):
            for other, same in entries([spare], note=out.taken.append):
                if (same.path, same.object) == (node.path, node.object):
                    data = _read(other, same)
                    out.taken.append(
                        f"{quoted(node.path)}, whole, from {other.repository.name}: {why}"
                    )
                    return data
    out.lost.append(f"{quoted(node.path)}: {why}")
    raise _Gone


def _read(reader: Reader, node: Node) -> bytes:
    data = b"".join(reader.read(id_) for id_ in node.blobs)
    if len(data) != node.size_bytes:
        raise Damage(f"{quoted(node.path)}: {len(data)} bytes of {node.size_bytes}")
    return data


def _create(store: ObjectStore, node: Node, data: bytes, clock: Clock) -> bool:
    """False: it is there already, the same."""
    key = node.path.decode()
    headers = dict(node.object.meta) if node.object else {}

    def put() -> object:
        if headers and isinstance(store, HeaderedStore):
            return store.create_with(key, data, headers)
        return store.create(key, data)

    try:
        retry(clock, put)
    except AlreadyThere:
        if retry(clock, lambda: store.read(key)) != data:
            raise Refused(
                f"{store.name}: {key!a} is there with other bytes",
                hint="nothing is ever overwritten: restore into an empty bucket or prefix",
            ) from None
        return False
    return True
