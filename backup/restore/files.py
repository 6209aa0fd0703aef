"""Restores files from a snapshot. Wrong bytes are never in place.

A file gets its name only when each of its blobs was opened and its id recomputed. What one vault
has lost is taken from another that holds the same run; what no vault has is left out and named, and
the rest is restored. What was written was not read back from the disk, so the result is `restored`,
not `verified`.
"""

# Names are bytes here, and pathlib refuses bytes.
# ruff: noqa: PTH120

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from backup.format.snapshot import Snapshot
from backup.format.tree import OBJECTS, Node, Type
from backup.repository.reader import Reader
from backup.restore.below import twice
from backup.restore.deferred import Deferred
from backup.restore.file_writer import OPENERS, FileWriter, whole
from backup.restore.replicas import Entry, Source, View, entries, mark_of
from backup.restore.target_dir import UNFIT, TargetDirectory, Unfit
from zaibei.kernel.errors import Damage, NoSpace, Usage, ZaibeiError
from zaibei.kernel.printable import quoted
from zaibei.kernel.progress import Progress
from zaibei.kernel.units import say_bytes

LOST_MAX: Final = 100_000  # more than that is not a damaged snapshot but a lost one
CHECKS_AHEAD: Final = 64  # of a resumed restore: files that are compared at once
Wanted = Callable[[bytes], bool]


def everything(_: bytes) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What became of it. `sound`: everything that was asked for, from where it was asked for."""

    files: int
    directories: int
    links: int
    special: int
    size_bytes: int
    kept: int = 0  # files that were there already, whole
    unset: tuple[str, ...] = ()  # what this account or filesystem would not have
    unset_count: int = 0
    privileged: tuple[
        str, ...
    ] = ()  # what can give rights on this machine; set, or left out if asked
    privileged_count: int = 0
    taken: tuple[str, ...] = ()  # what came from another vault, because the first one is damaged
    torn: tuple[str, ...] = ()  # restored, as a copy that was made while the file changed
    lost: tuple[str, ...] = ()  # what no vault gave

    @property
    def sound(self) -> bool:
        return not (self.unset_count or self.taken or self.lost)


def restore_files(
    reader: Reader,
    snapshot: Snapshot,
    target: Path,
    *,
    progress: Progress,
    wanted: Wanted = everything,
    view: View | None = None,
    special: bool = True,
) -> Restored:
    """From one vault into an empty directory, all or an error. Raises NotEmpty, NoSpace, Damage. After an error
    the target holds whole files and no others; they are not cleaned away, because after a disaster a part
    may be all there is."""
    done = restore(
        [Source.of(reader, snapshot)],
        target,
        progress=progress,
        wanted=wanted,
        view=view,
        special=special,
    )
    if done.lost:
        raise Damage(f"{len(done.lost)} files cannot be restored: {done.lost[0]}")
    return done


def restore(
    sources: Sequence[Source],
    target: Path,
    *,
    progress: Progress,
    wanted: Wanted = everything,
    view: View | None = None,
    resume: bool = False,
    special: bool = True,
) -> Restored:
    """`sources`: the first is read; the others hold the same run, for what is damaged in it. `wanted` is asked
    with the path as the listing has it, a directory's with a slash at its end. `special` false: no setuid or setgid
    bits, `security.` attributes or device nodes."""
    content = sources[0].snapshot.content
    ground = TargetDirectory(target, special=special)
    try:
        with _disk(target):
            ground.begin(mark_of(content), resume=resume)
    except BaseException:
        ground.close()
        raise
    run = _Run(sources, ground, wanted, view or _as_listed, progress)
    run.total = content.size_bytes if wanted is everything and view is None else None
    try:
        with _disk(target, reached=run.reached):
            done = run.run()
            if not done.lost:
                ground.finish()
            return done
    except BaseException:
        run.close()
        ground.give_up()
        raise
    finally:
        run.close()
        ground.close()


def _as_listed(listing: Callable[[], Iterator[Entry]]) -> Iterator[Entry]:
    return listing()


@dataclass(slots=True)
class _Run:
    sources: Sequence[Source]
    ground: TargetDirectory
    wanted: Wanted
    view: View
    progress: Progress
    layer: FileWriter = field(init=False)
    later: Deferred = field(init=False)
    lost: dict[bytes, tuple[Node, str]] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    firsts: dict[bytes, bytes] = field(
        default_factory=dict
    )  # of hard links whose own is not wanted
    kept: int = 0
    kept_bytes: int = 0
    total: int | None = None  # bytes, where all is wanted
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.layer = FileWriter(self.ground, lost=self._lose, done=self._done)
        self.later = Deferred(self.ground.own(b"later"))

    def run(self) -> Restored:
        first = self.sources[0]
        self.progress.step(
            f"restoring snapshot {first.snapshot.sequence} of {first.repository.name}"
        )
        for reader, node in self._needed(self.view(lambda: entries(self.sources, note=self._take))):
            self.layer.add(reader, node)
        self.layer.settle()
        for source in self.sources[1:]:
            self._heal(source)
        return self._last()

    def close(self) -> None:
        self.layer.close()
        self.later.close()

    def reached(self) -> str:
        total = self.sources[0].snapshot.content.size_bytes
        size = self.layer.size_bytes + self.kept_bytes
        files = self.layer.files + self.kept
        return f"{files} files are whole, {say_bytes(size)} of {say_bytes(total)}"

    def _needed(self, listing: Iterable[Entry]) -> Iterator[Entry]:
        """The files that must be written; after an interruption not those that are there and whole."""
        checks: deque[tuple[Future[bool], Reader, Node]] = deque()
        with ThreadPoolExecutor(OPENERS, thread_name_prefix="check") as pool:
            for reader, node in self._files(listing):
                if not self.ground.resumed:
                    yield reader, node
                    continue
                if any(other.path == node.path for _, _, other in checks):
                    raise twice(node.path)
                checks.append((pool.submit(whole, self.ground, reader, node), reader, node))
                if len(checks) > CHECKS_AHEAD:
                    yield from self._checked(*checks.popleft())
            for check in checks:
                yield from self._checked(*check)

    def _checked(self, same: Future[bool], reader: Reader, node: Node) -> Iterator[Entry]:
        if same.result():
            self.kept += 1
            self.kept_bytes += node.size_bytes
        else:
            yield reader, node

    def _files(self, listing: Iterable[Entry]) -> Iterator[Entry]:
        """The files with data of their own; all else is made now or waits."""
        for reader, node in listing:
            if node.type in OBJECTS:
                raise Usage("a bucket's snapshot is not a tree of files")
            self.ground.check(node.path)
            if node.hard:
                self.ground.check(node.hard)
            if node.type is Type.DIRECTORY:
                if self.wanted(node.path + b"/"):
                    self._directory(node, node.path)
                self.later.append(node)  # also one that is only made for what is below it
            elif self.wanted(node.path) and self._directory(node, os.path.dirname(node.path)):
                if node.torn and len(self.torn) < LOST_MAX:
                    self.torn.append(quoted(node.path))
                if (first := self._first_of(node)) is not None:
                    self.later.append(replace(node, hard=first))
                elif node.type is not Type.FILE:
                    self.later.append(replace(node, hard=b""))
                else:
                    yield reader, replace(node, hard=b"")

    def _directory(self, node: Node, path: bytes) -> bool:
        try:
            self.ground.directory(path)
        except OSError as unfit:
            if unfit.errno not in UNFIT:
                raise
            self._lose(node, f"this filesystem cannot hold it: {unfit.strerror}")
            return False
        return True

    def _first_of(self, node: Node) -> bytes | None:
        """The name that this one is to be linked to; None when it is to be written itself."""
        if not node.hard:
            return None
        if self.wanted(node.hard):
            return node.hard
        first = self.firsts.setdefault(node.hard, node.path)
        return first if first != node.path else None

    def _heal(self, source: Source) -> None:
        """What was lost so far, whole from another vault: its blobs have other ids, its names are the same."""
        missing = dict(self.lost)
        if not missing:
            return
        name = source.repository.name
        self.progress.step(f"taking {len(missing)} damaged files from {name}")
        self.lost.clear()
        tried: set[bytes] = set()
        try:
            for reader, node in self.view(lambda: entries([source], note=self._take)):
                was = missing.get(node.path)
                if was is not None and _same_entry(was[0], node):
                    tried.add(node.path)
                    self.layer.add(reader, replace(node, hard=b""))
            self.layer.settle()
        except ZaibeiError as bad:
            # The other vault has its own troubles: what it could not give stays lost, and is said.
            self.layer.settle()
            self.progress.note(f"{name}: {bad.message}")
        for path, was in missing.items():
            # A name that is there is a whole file: that, and not that nobody complained.
            there = path in tried and path not in self.lost
            if there and self.ground.there(path) is not None:
                self._take(f"{quoted(path)}, whole, from {name}: {was[1]}")
            else:
                self.lost[path] = was

    def _last(self) -> Restored:
        """Second names of files first, symbolic links last: no name that is linked to may lead through one."""
        self.progress.step("links, special files and directories")
        count = dict.fromkeys(Type, 0)
        self._second_names(count, of_files=True)
        for symbolic in (False, True):
            for node in self.later:
                if node.type in (Type.FILE, Type.DIRECTORY) or node.hard:
                    continue
                if (node.type is Type.LINK) == symbolic and self._made(self.ground.make, node):
                    count[node.type] += 1
        self._second_names(count, of_files=False)
        # Deepest first, and everything in it is made: a directory that has its mode may be another account's.
        for node in self.later.deepest_first():
            if node.type is Type.DIRECTORY and self.ground.dress_directory(node):
                count[Type.DIRECTORY] += 1
        return Restored(
            files=self.layer.files + self.kept + count[Type.FILE],
            directories=count[Type.DIRECTORY],
            links=count[Type.LINK],
            special=sum(count[t] for t in (Type.FIFO, Type.SOCKET, Type.CHAR, Type.BLOCK)),
            size_bytes=self.layer.size_bytes + self.kept_bytes,
            kept=self.kept,
            unset=tuple(self.ground.dresser.unset),
            unset_count=self.ground.dresser.unset_count,
            privileged=tuple(self.ground.dresser.privileged),
            privileged_count=self.ground.dresser.privileged_count,
            taken=tuple(self.taken),
            torn=tuple(self.torn),
            lost=tuple(f"{quoted(path)}: {why}" for path, (_, why) in self.lost.items()),
        )

    def _second_names(self, count: dict[Type, int], *, of_files: bool) -> None:
        for node in self.later:
            if not node.hard or (node.type is Type.FILE) != of_files:
                continue
            made = self._made(self.ground.link, node)
            if made:
                count[node.type] += 1
            elif made is None:
                continue
            elif node.hard in self.lost:
                self._lose(node, f"its first name {quoted(node.hard)} is lost")
            elif of_files:
                raise Damage(f"a listing links {quoted(node.path)} to what is not there")
            # Else its first name is one that this account may not make, and that is told.

    def _made(self, make: Callable[[Node], bool], node: Node) -> bool | None:
        """None: this filesystem does not take it, and it is lost alone."""
        try:
            return make(node)
        except Unfit as unfit:
            self._lose(node, f"this filesystem cannot hold it: {unfit}")
            return None

    def _lose(self, node: Node, why: str) -> None:
        with self._lock:
            self.lost[node.path] = (node, why)
            if len(self.lost) > LOST_MAX:
                raise Damage(f"more than {LOST_MAX} files cannot be restored; the last: {why}")

    def _take(self, what: str) -> None:
        self.taken.append(what)
        self.progress.note(f"TAKEN FROM ELSEWHERE: {what}")

    def _done(self, size: int) -> None:
        self.progress.done(size + self.kept_bytes, self.total, unit="B")


@dataclass(slots=True)
class Survey:
    """What a restore would bring back; nothing was read but the listing."""

    files: int = 0
    others: int = 0
    size_bytes: int = 0


def survey(
    sources: Sequence[Source],
    *,
    progress: Progress,
    wanted: Wanted = everything,
    view: View | None = None,
) -> Survey:
    found = Survey()
    progress.step("reading the listing")
    for _, node in (view or _as_listed)(lambda: entries(sources, note=progress.note)):
        if node.type is Type.FILE and wanted(node.path):
            found.files += 1
            found.size_bytes += node.size_bytes
        elif node.type is not Type.FILE:
            found.others += wanted(node.path + (b"/" if node.type is Type.DIRECTORY else b""))
    return found


def _same_entry(one: Node, other: Node) -> bool:
    return (one.type, one.size_bytes, one.mtime_ns) == (
        other.type,
        other.size_bytes,
        other.mtime_ns,
    )


@contextmanager
def _disk(target: Path, reached: Callable[[], str] | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as bad:
        if bad.errno not in (errno.ENOSPC, errno.EDQUOT):
            begun = "what is there now is whole files; go on with --resume when this is mended"
            hint = (
                begun
                if reached
                else "nothing was written: a target is a directory, or can be made one"
            )
            raise ZaibeiError(f"{target}: {bad.strerror or bad}", hint=hint) from bad
        so_far = f": {reached()}" if reached else ""
        raise NoSpace(
            f"{target}: the disk is full{so_far}",
            hint=(
                "make room and go on with --resume: what is whole is not fetched again",
                "or restore to a larger disk",
            ),
        ) from bad
