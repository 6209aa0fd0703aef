"""What is there after recovery, read whole: rows from the writer alone, objects by their bytes.

Never from a replica: on healthy clusters a replica may show what the primary does not (Jepsen on RDS for
PostgreSQL 17.4), and a ledger compared with two mixed views proves nothing.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg

from failover.checker import Object, Row
from infra.objectstore.contract import ObjectStore
from infra.sites import StackAccess

TABLE = "public.sample_registration"
_BATCH = 5000
_READERS = 4
_QUERY = f"""SELECT idempotency_key, payload_sha256, epoch FROM {TABLE}
 WHERE idempotency_key >= %(low)s AND idempotency_key < %(high)s"""  # noqa: S608 - a constant


def rows(dsn: str, password: str | None, *, prefix: str) -> Iterator[Row]:
    """Every registration of the drill, streamed through a cursor on the server."""
    low, high = prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)
    with psycopg.connect(dsn, password=password or "") as db, db.cursor(name="readback") as cursor:
        cursor.itersize = _BATCH
        cursor.execute(_QUERY, {"low": low, "high": high})
        for key, sha, epoch in cursor:
            yield str(key), str(sha), int(epoch) if epoch is not None else None


def writer_rows(access: StackAccess, *, prefix: str) -> Iterator[Row]:
    dsn = access.primary_dsn(user="zaibei_probe", database="health_code")
    return rows(
        f"{dsn} target_session_attrs=read-write", access.password("zaibei_probe"), prefix=prefix
    )


def objects(store: ObjectStore, *, prefix: str) -> Iterator[Object]:
    """Key and SHA-256 of what a GET gave: a HEAD would repeat what the store believes."""

    def digest(key: str) -> Object:
        return key, hashlib.sha256(store.read(key)).hexdigest()

    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(digest, (s.key for s in store.list(prefix)))
