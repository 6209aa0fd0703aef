"""Writes blobs into files pack by pack: each pack of a stretch of the listing is fetched and opened
once.

Fetching, opening and writing run side by side, outside the interpreter's lock; memory is bounded by
the packs in flight and by the pieces of two stretches.
"""

import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from backup.crypto.seal import Kind, Seal
from backup.format.pack import Entry, open_blob
from backup.format.tree import Extent, Node, segments
from backup.repository.reader import Reader
from backup.restore.below import twice
from backup.restore.target_dir import UNFIT, TargetDirectory
from zaibei.kernel import direct
from zaibei.kernel.errors import Damage
from zaibei.kernel.syscalls import begin_writing

STRETCH: Final = 8192  # pieces that are planned together
FETCHERS: Final = 4
PACKS_IN_FLIGHT: Final = 6
# With one more than there are processors they spent their time in the queue of a directory and of the interpreter.
OPENERS: Final = max(2, min(8, os.cpu_count() or 1))
_WRITE_SOON: Final = (
    256 << 10
)  # smaller ones are left to the kernel: a call for each costs more than it gives
_EMPTY: Final = ""  # the pack of files without data


@dataclass(slots=True, eq=False)
class File:
    """A file on its way. `left`: pieces that are not written yet."""

    node: Node
    left: int
    temporary: bytes
    where: list[Extent] | None  # of its data, when it has holes
    lost: str | None = None


@dataclass(slots=True)
class _Pack:
    reader: Reader
    size_bytes: int
    wants: dict[bytes, tuple[Entry, list[tuple[File, int]]]] = field(default_factory=dict)
    bare: list[File] = field(default_factory=list)


@dataclass(slots=True)
class Stretch:
    """Which pieces of which files come from which pack. Filled by one thread, laid once."""

    packs: dict[str, _Pack] = field(default_factory=dict)
    pieces: int = 0


class FileWriter:
    """Lays stretches. `lost` is told of each file that cannot be had whole; every other error ends it all."""

    def __init__(
        self,
        ground: TargetDirectory,
        *,
        lost: Callable[[Node, str], None],
        done: Callable[[int], None],
    ) -> None:
        self._ground, self._lost, self._done = ground, lost, done
        self._fetch = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        self._open = ThreadPoolExecutor(OPENERS, thread_name_prefix="open")
        self._drive = ThreadPoolExecutor(1, thread_name_prefix="lay")
        self._driven: Future[None] | None = None
        # Of the stretch that is laid and of the end of the one before: nobody waits between two.
        self._running: deque[Future[None]] = deque()
        self._lock = threading.Lock()
        self._stretch = Stretch()
        self._over = False
        self.files = 0
        self.size_bytes = 0

    def add(self, reader: Reader, node: Node) -> None:
        """A file that is to be written. Its directory is there."""
        stretch = self._stretch
        found: list[tuple[Entry, str, int]] = []
        for id_ in node.blobs:
            places = reader.catalogue.locations(id_)
            if not places:
                self._lost(node, f"blob {id_.hex()[:16]} is in no index segment")
                return
            # Where a blob is in two packs, the one that is fetched anyway.
            at = next((p for p in places if p.pack in stretch.packs), places[0])
            found.append((at.entry, at.pack, at.pack_bytes))
        held = sum(e.raw_bytes for e, _, _ in found)
        if held != node.data_bytes:
            self._lost(node, f"its blobs hold {held} bytes and should hold {node.data_bytes}")
            return
        where = segments(node) if node.holes else None
        file = File(node, len(found), self._ground.temporary(), where)
        offset = 0
        for entry, pack, size in found:
            one = stretch.packs.get(pack)
            if one is None:
                one = stretch.packs[pack] = _Pack(reader, size)
            one.wants.setdefault(entry.id, (entry, []))[1].append((file, offset))
            offset += entry.raw_bytes
        if not found:
            stretch.packs.setdefault(_EMPTY, _Pack(reader, 0)).bare.append(file)
        stretch.pieces += len(found) + 1
        if stretch.pieces >= STRETCH:
            self._next()

    def settle(self) -> None:
        """Everything that was added is laid, or told as lost."""
        self._next()
        self._wait()
        while self._running:
            self._running.popleft().result()
            self._done(self.size_bytes)

    def close(self) -> None:
        """Also in the middle: what is being written is finished, nothing more is begun."""
        self._over = True
        for pool in (self._drive, self._fetch, self._open):
            pool.shutdown(cancel_futures=True)

    def _next(self) -> None:
        """Plan the next stretch while this one is laid."""
        self._wait()
        self._driven = self._drive.submit(self._lay, self._stretch)
        self._stretch = Stretch()

    def _wait(self) -> None:
        driven, self._driven = self._driven, None
        if driven is not None:
            driven.result()

    def _lay(self, stretch: Stretch) -> None:
        running = self._running
        for name, pack in stretch.packs.items():
            if self._over:
                return
            data: Future[bytes] | None = None
            if name != _EMPTY:
                data = self._fetch.submit(pack.reader.repository.read_pack, name, pack.size_bytes)
            running.append(self._open.submit(self._pack, name, pack, data))
            while len(running) >= PACKS_IN_FLIGHT:
                running.popleft().result()
                self._done(self.size_bytes)

    def _pack(self, name: str, pack: _Pack, fetched: Future[bytes] | None) -> None:
        for file in pack.bare:
            self._whole(file, b"")
        if fetched is None:
            return
        for uses, plain, why in self._blobs(name, pack, fetched):
            for file, offset in uses:
                if why is not None:
                    file.lost = why
                self._piece(file, offset, plain)

    def _blobs(
        self, name: str, pack: _Pack, fetched: Future[bytes]
    ) -> Iterator[tuple[list[tuple[File, int]], bytes, str | None]]:
        """Each blob that is wanted of a pack and who wants it; or why it cannot be had."""
        reader = pack.reader
        keys = reader.repository.keys
        seal: Seal | None = None
        with suppress(Damage):
            data = fetched.result()
            seal = Seal.of(keys, Kind.PACK, "", data)
        for entry, uses in pack.wants.values():
            if seal is not None:
                with suppress(Damage):
                    sealed = data[entry.offset : entry.offset + entry.stored_bytes]
                    yield uses, open_blob(seal, entry, sealed, keys), None
                    continue
            try:
                yield uses, reader.read(entry.id), None  # wherever else it is in this vault
            except Damage as bad:
                yield uses, b"", bad.message

    def _piece(self, file: File, offset: int, plain: bytes) -> None:
        if len(file.node.blobs) == 1 and file.where is None:
            self._whole(file, plain)
            return
        if file.lost is None:
            try:
                fd = self._ground.growing(file.temporary)
                try:
                    _write(fd, plain, offset, file.where)
                finally:
                    os.close(fd)
            except OSError as unfit:
                self._unfit(file, unfit)
        with self._lock:
            file.left -= 1
            last = file.left == 0
        if last:
            self._finish(file)

    def _whole(self, file: File, plain: bytes) -> None:
        """A file of one piece, or of none: opened once."""
        file.left = 0
        if file.lost is not None:
            self._finish(file)
            return
        fd = self._ground.growing(file.temporary)
        try:
            if plain:
                _write(fd, plain, 0, None)
            elif file.node.size_bytes:
                os.ftruncate(fd, file.node.size_bytes)  # all of it is one hole
            self._ground.dresser.dress(fd, file.node)
        except OSError as unfit:
            self._unfit(file, unfit)
        finally:
            os.close(fd)
        self._finish(file, dressed=True)

    def _finish(self, file: File, *, dressed: bool = False) -> None:
        if file.lost is None:
            try:
                if not dressed:
                    fd = self._ground.growing(file.temporary)
                    try:
                        os.ftruncate(fd, file.node.size_bytes)
                        self._ground.dresser.dress(fd, file.node)
                    finally:
                        os.close(fd)
                self._ground.publish(file.temporary, file.node.path)
            except OSError as unfit:
                self._unfit(file, unfit)
        if file.lost is not None:
            self._ground.drop(file.temporary)
            self._lost(file.node, file.lost)
            return
        with self._lock:
            self.files += 1
            self.size_bytes += file.node.size_bytes

    def _unfit(self, file: File, why: OSError) -> None:
        """What this filesystem cannot hold is one file's loss; a full or broken disk is everybody's."""
        if why.errno not in UNFIT:
            raise why
        file.lost = f"this filesystem cannot hold it: {why.strerror}"


def whole(ground: TargetDirectory, reader: Reader, node: Node) -> bool:
    """Whether the file that is there is the one that was backed up: by the ids of its contents, for times
    and sizes say nothing about a file that a dying machine wrote. A file that is not is removed."""
    try:
        fd = ground.reopened(node.path)
    except FileNotFoundError:
        return False
    except OSError as other:
        if other.errno in UNFIT:
            return False
        ground.remove(node.path)
        return False
    try:
        now = os.fstat(fd)
        if stat.S_ISDIR(now.st_mode):
            raise twice(node.path)
        same = ground.mine(now, node) and now.st_size == node.size_bytes
        if same and now.st_nlink > 1:
            return _apart(ground, reader, node, fd)
        same = same and _same(fd, reader, node)
        if same:
            ground.dresser.dress(fd, node)
    finally:
        os.close(fd)
    if not same:
        ground.remove(node.path)
    return same


def _apart(ground: TargetDirectory, reader: Reader, node: Node, fd: int) -> bool:
    """A file with several names is copied and the copy compared: another account that could write there may have linked
    a file from outside, which must keep its owner. The other names are made again at the end."""
    temporary = ground.temporary()
    copy = ground.growing(temporary)
    try:
        for begin, length in segments(node):
            at, end = begin, begin + length
            while at < end and (done := os.copy_file_range(fd, copy, end - at, at, at)):
                at += done
        os.ftruncate(copy, node.size_bytes)
        same = _same(copy, reader, node)
        if same:
            ground.dresser.dress(copy, node)
    finally:
        os.close(copy)
    ground.remove(node.path)
    if same:
        ground.publish(temporary, node.path)
    else:
        ground.drop(temporary)
    return same


def _same(fd: int, reader: Reader, node: Node) -> bool:
    where = segments(node)
    offset = 0
    for id_ in node.blobs:
        places = reader.catalogue.locations(id_)
        if not places:
            return False
        entry = places[0].entry
        data = b"".join(
            os.pread(fd, length, at) for at, length in _span(where, offset, entry.raw_bytes)
        )
        if reader.repository.keys.blob_id(entry.kind.domain, data) != id_:
            return False
        offset += entry.raw_bytes
    return offset == node.data_bytes and _blank(fd, node)


def _blank(fd: int, node: Node) -> bool:
    """Nothing was written into the holes."""
    for offset, length in node.holes:
        at = offset
        while at < offset + length:
            read = os.pread(fd, min(1 << 20, offset + length - at), at)
            if not read or read.count(0) != len(read):
                return False
            at += len(read)
    return True


def _write(fd: int, data: bytes, offset: int, where: list[Extent] | None) -> None:
    rest = memoryview(data)
    for at, length in [(offset, len(data))] if where is None else _span(where, offset, len(data)):
        part, rest = rest[:length], rest[length:]
        past = direct.pwrite(fd, part, at)
        if length - past >= _WRITE_SOON:
            begin_writing(fd, at, length)


def _span(where: list[Extent], offset: int, length: int) -> Iterator[Extent]:
    """Where so much of the data from there on lies in the file: a blob may reach over a hole."""
    before = 0
    for at, size in where:
        begin, end = max(offset, before), min(offset + length, before + size)
        if begin < end:
            yield at + begin - before, end - begin
        before += size
