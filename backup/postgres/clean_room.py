"""Turns a snapshot into a running PostgreSQL that is isolated from everything else.

No TCP, a socket in a private directory, an unprivileged user, none of the backup's own settings: a
restored `archive_command` or `primary_conninfo` would reach out of the room and into production.
WAL is laid beside it as files, so recovery needs no program of ours.
"""

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import psycopg

from backup.errors import NotEmpty
from backup.format import wal_segment
from backup.format.snapshot import Snapshot
from backup.mask.apply import Masking, mask_room
from backup.postgres import moment
from backup.postgres.checks import Check, checksums, no_checksums, verified
from backup.postgres.checks import amcheck as amcheck_
from backup.postgres.recovery import PORT, USER, Room, _account, _phase, running
from backup.postgres.recovery_target import Action, Target
from backup.postgres.room_config import open_doors, settle
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.restore.files import restore_files
from backup.sources.postgres import files_alone
from backup.wal import archive as wal_archive
from backup.wal.fetch import fetch_wal
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Missing, Usage
from zaibei.kernel.progress import Progress

RECOVERY_WITHIN: Final = timedelta(hours=4)
__all__ = ["Action", "Check", "Room", "Target", "restored"]
_SOCKET_PATH_MAX = 90


@contextmanager
def restored(
    repo: Repository,
    snapshot: Snapshot,
    *,
    workdir: Path,
    clock: Clock,
    progress: Progress,
    target: Target | None = None,
    user: str = USER,
    amcheck: bool = False,
    pages: bool = False,
    masking: Masking | None = None,
    keep: Path | None = None,
    within: timedelta = RECOVERY_WITHIN,
) -> Iterator[Room]:
    """Restore, recover, start, hand over; stop and wipe when left, unless it is to `keep`. `pages`: first every page's checksum,
    which takes a clean stop and a second start. `amcheck`: pg_amcheck. `masking`: personal data is masked
    before anybody but us gets in, or the room stays closed (Refused, Damage). Raises WalGap or Damage when
    the log does not reach the target, ToolFailed (with the server's log), Unreachable when recovery is not
    through in time."""
    if keep is not None and masking is not None:
        raise Usage(
            "a masked room is wiped: what is written in it is not flushed",
            hint="--keep alone keeps the database in plain",
        )
    with _kept(keep) if keep is not None else _wiped(workdir) as made:
        room = restore_database(
            repo,
            snapshot,
            target or Target(),
            made,
            clock=clock,
            progress=progress,
            user=user,
            closed=masking is not None,
        )
        lacking = no_checksums(room.data, account=_account(user)) if pages else None
        if lacking is not None:
            room.checks.append(lacking)
        elif pages:
            with running(room, clock=clock, progress=progress, user=user, within=within):
                pass
            progress.step("checking every page's checksum")
            room.checks.append(checksums(room.data, account=_account(user)))
        with running(room, clock=clock, progress=progress, user=user, within=within):
            if amcheck:
                progress.step("checking every table and index")
                room.checks.append(_looked_through(room, user))
            if masking is not None:
                _mask(room, masking, clock, progress)
            yield room


@contextmanager
def _wiped(workdir: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="zb-", dir=workdir) as made:
        yield Path(made)


@contextmanager
def _kept(at: Path) -> Iterator[Path]:
    """A directory that stays, with the database as it was recovered; empty again after an error. Raises NotEmpty."""
    made = at.resolve()
    try:
        made.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as other:
        raise Usage(f"{at} is not a directory") from other
    if any(made.iterdir()):
        raise NotEmpty(f"{at} is not empty", hint="restore into a new directory")
    made.chmod(0o700)  # before anything is in it
    try:
        yield made
    except BaseException:
        for path in made.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        raise
    shutil.rmtree(made / "archive")  # all of it that counts is in the database


def restore_database(
    repo: Repository,
    snapshot: Snapshot,
    target: Target,
    into: Path,
    *,
    clock: Clock,
    progress: Progress,
    user: str = USER,
    closed: bool = False,
) -> Room:
    """Files in `into/data`, WAL in `into/archive`, checked against the manifest, ready to start."""
    if snapshot.content.kind != "postgres":
        raise Usage(f"snapshot {snapshot.sequence} holds {snapshot.content.kind}, not postgres")
    if len(str(into)) > _SOCKET_PATH_MAX:
        raise Usage(f"{into}: too long a path for a socket", hint="restore under a shorter one")
    moment.demand(repo, snapshot, target, now=clock.now())
    begun = clock.monotonic()
    room = Room(directory=into, snapshot=snapshot, target=target)
    archive = into / "archive"
    archive.mkdir()
    with (
        _phase(room, "files", clock),
        Reader(repo, damaged=lambda key, bad: progress.note(f"{key}: {bad.message}")) as reader,
    ):
        restore_files(
            reader, snapshot, room.data, progress=progress, view=files_alone, special=False
        )
        room.data.chmod(0o700)
        _give(into, user)
    with _phase(room, "manifest", clock):
        progress.step("checking every file against the manifest")
        room.checks.append(
            verified(
                room.data,
                brings_wal=snapshot.content.facts["wal"] == "fetch",
                files=int(snapshot.content.facts["files"]),
                account=_account(user),
            )
        )
    with _phase(room, "wal", clock):
        progress.step("fetching WAL")
        facts = snapshot.content.facts
        start = wal_segment.lsn(str(facts["start_lsn"])) // wal_segment.SEGMENT_BYTES
        brought = [
            p.name for p in (room.data / "pg_wal").iterdir() if wal_segment.is_segment(p.name)
        ]
        first_timeline = int(facts["start_timeline"])
        fetched = fetch_wal(
            wal_archive.Archive(repo, int(facts["system_identifier"])),
            archive,
            from_segment=start,
            from_timeline=first_timeline,
            towards=target.timeline,
            beside=[wal_segment.parse_segment(name) for name in brought],
            whole=target.how == "latest",
            upto=wal_segment.lsn(target.value) // wal_segment.SEGMENT_BYTES
            if target.how == "lsn"
            else None,
            done=lambda n, of: progress.done(n, of, unit="segments"),
        )
        if not fetched.names and not brought:
            raise Usage(
                f"{repo.name}: no WAL for snapshot {snapshot.sequence}",
                hint="it was taken without WAL and the archive is empty: choose another vault",
            )
        room.hole = fetched.way.hole
        if fetched.way.timeline > first_timeline or target.timeline is not None:
            room.towards = str(fetched.way.timeline)
        detail = f"{len(fetched.names)} from the archive, "
        detail += f"as far as it goes: {room.hole}" if room.hole else "no gap"
        room.checks.append(Check(name="wal", passed=True, detail=detail))
    settle(
        into,
        archive,
        port=PORT,
        account=_account(user),
        recovery={"recovery_target_timeline": room.towards, **target.settings()},
        closed=closed,
    )
    _give(into, user)
    room.took = timedelta(seconds=clock.monotonic() - begun)
    return room


def _mask(room: Room, masking: Masking, clock: Clock, progress: Progress) -> None:
    """Leaving by an error leaves the room closed, and then it is wiped."""
    if room.target.action is Action.PAUSE:
        raise Usage("a paused room is read-only, so nothing in it can be masked")
    with _phase(room, "masking", clock):
        # What replay read is there in plain, and so is what it wrote until a checkpoint lets it go.
        shutil.rmtree(room.directory / "archive")
        for path in room.directory.glob("from-backup.*"):
            path.unlink()
        room.masked = mask_room(room.dsn, masking, directory=room.directory, progress=progress)
    room.checks.append(Check(name="masking", passed=True, detail=str(room.masked)))
    open_doors(room.directory)
    with psycopg.connect(room.dsn(), autocommit=True) as connection:
        connection.execute("SELECT pg_reload_conf()")


def _looked_through(room: Room, user: str) -> Check:
    if room.target.action is Action.PAUSE:
        return Check(name="pg_amcheck", passed=None, detail="the room is read-only")
    return amcheck_(room.directory, port=PORT, role=USER, account=_account(user))


def _give(path: Path, user: str) -> None:
    """All of it to the room's user. PostgreSQL refuses to run as root, and that is right."""
    if os.geteuid() != 0:
        return
    try:
        account = pwd.getpwnam(user)
    except KeyError as unknown:
        raise Missing(f"no system user {user}", hint="apt install postgresql-15") from unknown
    os.chown(path, account.pw_uid, account.pw_gid)
    for base, directories, files in os.walk(path):
        for name in (*directories, *files):
            os.chown(Path(base) / name, account.pw_uid, account.pw_gid, follow_symlinks=False)
