"""Prepares a restored data directory for the clean room: none of the backup's own settings, all of
the room's.
"""

import os
import pwd
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from infra.postgres.server import BIN
from zaibei.kernel import process

# Recovery refuses to run with less than the primary had; pg_control says what that was.
_AT_LEAST = {
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
}


def settle(
    directory: Path,
    archive: Path,
    *,
    port: int,
    account: str | None,
    recovery: Mapping[str, str],
    closed: bool = False,
) -> None:
    """Take away what the backup brings along and write what the room needs. `closed`: nobody but the one
    who restores gets in, as the superuser, and what the backup's own logs say is gone."""
    data = directory / "data"
    for name in ("postgresql.auto.conf", "standby.signal", "recovery.signal", "postmaster.pid"):
        path = data / name
        if path.exists():
            # Kept outside: ALTER SYSTEM settings override every file, also ours.
            shutil.move(path, directory / f"from-backup.{name}")
    (data / "postgresql.auto.conf").write_text("")
    (data / "recovery.signal").write_text("")
    where = shlex.quote(str(archive)).replace("%", "%%")
    settings = {
        "data_directory": str(data),
        "hba_file": str(directory / "room_hba.conf"),
        "ident_file": str(directory / "room_ident.conf"),
        "listen_addresses": "",
        "port": str(port),
        "unix_socket_directories": str(directory),
        "unix_socket_permissions": "0700",
        "ssl": "off",
        "archive_mode": "off",
        "hot_standby": "on",
        "wal_level": "replica",
        "autovacuum": "off",
        # A segment that is used again keeps what stood in it; here what is no longer needed has to be gone.
        "wal_recycle": "off",
        "restore_command": f"test -f {where}/%f && cp {where}/%f %p",
        "log_line_prefix": "%m ",
        **_at_least(data, account),
        # A masked room is a copy that is wiped. One that is timed as a restore flushes like a restore.
        **({"fsync": "off"} if closed else {}),
        **recovery,
    }
    (directory / "room.conf").write_text(
        "".join(f"{k} = '{v.replace(chr(39), chr(39) * 2)}'\n" for k, v in settings.items())
    )
    if closed:
        for name in ("log", "pg_log", "pg_stat"):
            for path in (data / name).glob("*"):
                if path.is_file():
                    path.unlink()
        ours = {pwd.getpwuid(os.geteuid()).pw_name, *([account] if account else [])}
        (directory / "room_hba.conf").write_text("local all postgres peer map=room\n")
        (directory / "room_ident.conf").write_text("".join(f"room {o} postgres\n" for o in ours))
    else:
        (directory / "room_ident.conf").write_text("")
        open_doors(directory)


def open_doors(directory: Path) -> None:
    """To every role, over the socket. The directory is closed to everybody else, so there is nobody to ask
    for a password. A running server reads it when it is told to."""
    (directory / "room_hba.conf").write_text("local all all trust\n")


def _at_least(data: Path, account: str | None) -> dict[str, str]:
    said = process.run(
        [BIN / "pg_controldata", data],
        cwd=data.parent,
        user=account,
    )
    found = {}
    for setting, line in _AT_LEAST.items():
        if match := re.search(rf"^{re.escape(line)}:\s+(\d+)$", said, re.MULTILINE):
            found[setting] = match[1]
    return found
