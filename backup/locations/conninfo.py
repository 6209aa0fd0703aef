"""Rejects connection strings that contain secrets: they end up in argv, job files, snapshots and
logs.
"""

from typing import Final

from zaibei.kernel.errors import Usage

SECRETS: Final = frozenset(
    {
        "password",
        "sslpassword",
        "oauth_client_secret",
        "scram_client_key",
        "scram_server_key",
    }
)
HINT: Final = (
    "the password goes into a file of mode 0600 that PGPASSFILE names (or ~/.pgpass): host:port:database:user:password",
    "it was in this command's arguments, where others may have read it: change it",
)


def without_secrets(conninfo: str) -> str:
    """The same text, once it is known to be one and to hold no secret. Raises Usage, and repeats none of it: libpq's
    own words about what it could not read may hold the password."""
    from psycopg import ProgrammingError  # noqa: PLC0415 — a driver that a backup of files does without
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    if not conninfo.strip():
        raise Usage("the conninfo is empty", hint='--postgres "host=… user=zaibei_backup"')
    try:
        said = conninfo_to_dict(conninfo)
    except (ProgrammingError, ValueError):
        raise Usage(
            "not a conninfo",
            hint='"host=… port=5432 user=zaibei_backup", or postgresql://user@host/',
        ) from None
    if held := sorted(name for name in SECRETS if said.get(name)):
        raise Usage(f"the conninfo holds a secret: {', '.join(held)}", hint=HINT)
    return conninfo
