"""Backs up PostgreSQL: pg_basebackup's tar stream, cut and sealed without touching a disk.

Taken from a standby where there is one, so that the writer does not feel it. By default the WAL
that makes it consistent comes along (`-X fetch`): a snapshot then restores by itself, and the
archive adds what came after. pg_basebackup's exit code is read before the commit: a stream that
ended early is never a backup.
"""

import json
import os
import re
import socket
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from backup.format import wal_segment
from backup.format.facts import POSTGRES
from backup.format.snapshot import Content
from backup.format.tree import Node, Type
from backup.locations.conninfo import without_secrets
from backup.restore.replicas import Entry
from backup.sources.chunker import Source, for_database
from backup.sources.fanout import Fanout, Judge, Outcome
from backup.writer.writer import Writer
from infra.postgres.server import BIN
from zaibei.kernel import environment, process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Missing, ToolFailed
from zaibei.kernel.progress import Progress

DEADLINE: Final = timedelta(hours=24)
_KEPT_BYTES_MAX = 256 << 20
_KEPT = ("backup_label", "backup_manifest", "global/pg_control", "PG_VERSION")
_LAST_WORDS = 2000
_IDENTIFIER_BYTES = 8
_CLOSING_S = 30
_FILES_TOLD = 5
_BAD_PAGE = re.compile(r'checksum verification failed in file "([^"]+)", block (\d+)')


class Wal(StrEnum):
    FETCH = "fetch"  # the snapshot restores by itself
    NONE = "none"  # only together with the archive


@dataclass(slots=True)
class _Kept:
    """Reads through and remembers: the small files that say what the backup is."""

    source: Source
    said: bytearray = field(default_factory=bytearray)

    def read(self, size: int, /) -> bytes:
        data = self.source.read(size)
        if len(self.said) + len(data) > _KEPT_BYTES_MAX:
            raise Damage("the backup's manifest does not end")
        self.said += data
        return data


def backup_postgres(
    conninfo: str,
    password: str | None,
    writers: Sequence[Writer],
    *,
    clock: Clock,
    progress: Progress,
    label: str = "zaibei",
    with_wal: Wal = Wal.FETCH,
    deadline: timedelta = DEADLINE,
    judge: Judge | None = None,
) -> tuple[Outcome, ...]:
    """Raises ToolFailed with pg_basebackup's last words, and Usage for a `conninfo` that holds a password: it would
    stand in the process list for as long as the backup runs."""
    without_secrets(conninfo)
    started = clock.now()
    kept: dict[str, bytes] = {}
    progress.step("base backup")
    with Fanout(writers, progress, judge=judge) as out, tempfile.TemporaryFile() as said:
        with _basebackup(conninfo, password, label, with_wal, deadline, said) as tar:
            for member in tar:
                _add(out, tar, member, kept)
                # tarfile remembers every member; a database of a million files would fill memory.
                vars(tar)["members"] = []
        facts = _facts(kept, with_wal)
        progress.step("committing")
        return out.commit(
            Content(
                kind=POSTGRES,
                label=label,
                host=socket.gethostname(),
                started=started,
                finished=clock.now(),
                tree=(),
                entries=0,
                size_bytes=0,
                complete=True,
                facts=facts,
            )
        )


def _add(
    out: Fanout, tar: tarfile.TarFile, member: tarfile.TarInfo, kept: dict[str, bytes]
) -> None:
    def node(type_: Type, target: bytes = b"") -> Node:
        return Node(
            path=os.fsencode(member.name.removeprefix("./")),
            type=type_,
            mode=member.mode & 0o7777,
            mtime_ns=int(member.mtime) * 1_000_000_000,
            uid=member.uid,
            gid=member.gid,
            target=target,
        )

    if member.isdir():
        out.add(node(Type.DIRECTORY))
    elif member.issym():
        out.add(node(Type.LINK, os.fsencode(member.linkname)))
    elif (source := tar.extractfile(member)) is not None:
        cutter = for_database(member.name)
        if member.name in _KEPT:
            through = _Kept(source)
            out.add(node(Type.FILE), cutter.cut(through))
            kept[member.name] = bytes(through.said)
        else:
            out.add(node(Type.FILE), cutter.cut(source))
    else:
        raise Damage(f"base backup: {member.name!a} is neither file, directory nor link")


class _basebackup:  # noqa: N801 — reads as a verb at its place
    """The running program as a tar to iterate; leaving it checks how the program ended."""

    def __init__(
        self,
        conninfo: str,
        password: str | None,
        label: str,
        with_wal: Wal,
        deadline: timedelta,
        said: Any,
    ) -> None:
        argv = [
            str(BIN / "pg_basebackup"),
            *("-D", "-", "-Ft", "-X", with_wal.value, "--checkpoint=fast", "--no-password"),
            *("--manifest-checksums=SHA256", "-l", label, "-d", conninfo),
        ]
        self._said = said
        try:
            self._child = process.start(
                argv, stdout=subprocess.PIPE, stderr=said, env=environment.postgres(password)
            )
        except Missing as gone:
            raise Missing(gone.message, hint="apt install postgresql-15") from gone
        self._late = threading.Timer(deadline.total_seconds(), self._child.kill)

    def __enter__(self) -> tarfile.TarFile:
        self._late.start()
        try:
            return tarfile.open(fileobj=self._child.stdout, mode="r|", bufsize=1 << 20)
        except tarfile.TarError as bad:
            raise ToolFailed(self._how_it_ended()) from bad

    def __exit__(self, kind: type[BaseException] | None, why: object, trace: object) -> None:
        if kind is not None and not issubclass(kind, tarfile.TarError):
            self._child.kill()
        elif self._child.stdout is not None:
            # What is after the tar's end mark; a full pipe would keep the program from ending.
            while self._child.stdout.read(1 << 20):
                pass
        ended = self._how_it_ended()
        if self._child.stdout is not None:
            self._child.stdout.close()
        if self._child.returncode != 0 and (kind is None or issubclass(kind, tarfile.TarError)):
            raise why_it_failed(ended, self._all())

    def _how_it_ended(self) -> str:
        try:
            code = self._child.wait(_CLOSING_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            code = self._child.wait()
        self._late.cancel()
        return f"pg_basebackup: exit {code}: {self._all()[-_LAST_WORDS:]}"

    def _all(self) -> str:
        self._said.seek(0)
        return str(self._said.read().decode(errors="replace").strip())


def why_it_failed(ended: str, said: str) -> Damage | ToolFailed:
    """A page whose checksum is wrong is damage of the member that was read, and the file has a name."""
    files = list(dict.fromkeys(_BAD_PAGE.findall(said)))
    if not files:
        return ToolFailed(ended)
    shown = ", ".join(f"{name} (block {block})" for name, block in files[:_FILES_TOLD])
    rest = f" and {len(files) - _FILES_TOLD} more" if len(files) > _FILES_TOLD else ""
    return Damage(
        f"base backup: wrong page checksum in {shown}{rest}: nothing was committed",
        hint="that member's disk returns other bytes than were written: back up from another member,"
        " then rebuild this one",
    )


def _facts(kept: dict[str, bytes], with_wal: Wal) -> dict[str, Any]:
    """What the backup says about itself. Raises Damage when it is not a whole one."""
    if lacking := [name for name in _KEPT if name not in kept]:
        raise Damage(f"base backup without {', '.join(lacking)}")
    manifest = json.loads(kept["backup_manifest"])
    ranges = manifest["WAL-Ranges"]
    start, stop = ranges[0]["Start-LSN"], ranges[-1]["End-LSN"]
    timeline = int(ranges[-1]["Timeline"])
    label = kept["backup_label"].decode(errors="replace")
    return {
        "start_lsn": start,
        "stop_lsn": stop,
        "timeline": timeline,
        "start_timeline": int(ranges[0]["Timeline"]),
        # As text: 64 bits do not fit a JSON number.
        "system_identifier": str(_identifier(kept["global/pg_control"])),
        "postgres_version": kept["PG_VERSION"].decode().strip(),
        "from_standby": "BACKUP FROM: standby" in label,
        "wal": with_wal.value,
        "wal_needed": list(_needed(timeline, start, stop)),
        "files": len(manifest["Files"]),
    }


def files_alone(listing: Callable[[], Iterator[Entry]]) -> Iterator[Entry]:
    """The listing of a base backup that is to be started. Raises Damage for a link or a special file.

    pg_basebackup sends none but for tablespaces, which are refused. A forged one would lead root, who settles the
    data directory, or the server that runs on it, into another cluster's files.
    """
    for reader, node in listing():
        if node.type not in (Type.FILE, Type.DIRECTORY) or node.hard:
            kind = "hard link" if node.hard else node.type
            raise Damage(
                f"a base backup lists {os.fsdecode(node.path)!a}, which is a {kind}",
                hint="`zaibei backup restore` brings its files, to look at them; start nothing on them",
            )
        yield reader, node


def _identifier(control: bytes) -> int:
    return int.from_bytes(control[:_IDENTIFIER_BYTES], "little")


def _needed(timeline: int, start: str, stop: str) -> Iterator[str]:
    """First and last segment without which the backup does not become consistent."""
    for at in (wal_segment.lsn(start), max(wal_segment.lsn(start), wal_segment.lsn(stop) - 1)):
        yield wal_segment.segment_name(timeline, at // wal_segment.SEGMENT_BYTES)
