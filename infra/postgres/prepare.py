"""What a fresh cluster needs before anybody can use it: roles with the least they need, and the databases.
Safe to repeat. Passwords are sent as SCRAM verifiers: not even the server's log could hold them.
"""

import psycopg
from psycopg import sql

from infra.sites import StackAccess

DATABASES = ("population", "legal_entity", "geospatial", "economy", "health_code")
_LOGINS = ("zaibei_app", "zaibei_backup", "zaibei_exporter", "zaibei_probe", "zaibei_loader")


def prepare(access: StackAccess) -> list[str]:
    """Answers with what was made."""
    made = []
    with connect(access, "postgres") as db:
        have = {r[0] for r in db.execute("SELECT rolname FROM pg_roles")}
        for role in _LOGINS:
            verifier = db.pgconn.encrypt_password(
                access.password(role).encode(), role.encode(), b"scram-sha-256"
            ).decode()
            verb = "ALTER" if role in have else "CREATE"
            if role not in have:
                made.append(f"role {role}")
            db.execute(
                sql.SQL("{} ROLE {} LOGIN INHERIT NOSUPERUSER PASSWORD {}").format(
                    sql.SQL(verb), sql.Identifier(role), sql.Literal(verifier)
                )
            )
        db.execute("ALTER ROLE zaibei_backup REPLICATION")
        db.execute("GRANT pg_read_all_data TO zaibei_backup")
        db.execute("GRANT pg_monitor, pg_read_all_data TO zaibei_probe")
        # Its password lies on the sites: it sees figures, and no row of anybody.
        db.execute("GRANT pg_monitor TO zaibei_exporter")
        # The backup names a point in time and closes the segment that holds it.
        db.execute("GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO zaibei_backup")
        db.execute("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO zaibei_backup")
        here = {r[0] for r in db.execute("SELECT datname FROM pg_database")}
        for name in DATABASES:
            database = sql.Identifier(name)
            if name not in here:
                db.execute(
                    sql.SQL("CREATE DATABASE {} OWNER zaibei_loader TEMPLATE template0").format(
                        database
                    )
                )
                made.append(f"database {name}")
            db.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
            db.execute(
                sql.SQL(
                    "GRANT CONNECT ON DATABASE {} TO zaibei_app, zaibei_backup, zaibei_probe"
                ).format(database)
            )
    return made


def connect(
    access: StackAccess, database: str, *, user: str = "postgres"
) -> psycopg.Connection[tuple[object, ...]]:
    """To whoever is the writer; autocommit."""
    return psycopg.connect(
        access.primary_dsn(user=user, database=database),
        password=access.password(user),
        autocommit=True,
        target_session_attrs="read-write",
    )
