"""采样登记, P0: one row, and an answer that is never more than is known.

Three things can be true of a write: it is on every copy it should be on, it is certainly not there, or
nobody knows. The third is an answer too (`Unknown`), and most of this module is about not taking it for
one of the others.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

import asyncpg

from loadtest.healthcode.writer import FAILURES, Writer
from zaibei.kernel.errors import Unreachable

EPOCH = "('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int"
COPIES = "CASE WHEN current_setting('synchronous_standby_names') = '' THEN 1 ELSE 2 END"

# WHERE: with NULLs it inserts nothing. A new connection runs it so, and with that has parsed it: what
# fails later fails in the execution, never half-way to it.
_INSERT = f"""
INSERT INTO sample_registration
    (idempotency_key, person_id, tube, station, payload_sha256, epoch, registered_at)
SELECT $1::text, $2::text, $3::text, $4::text, $5::text, {EPOCH}, clock_timestamp()
WHERE $1::text IS NOT NULL
ON CONFLICT (idempotency_key) DO NOTHING
RETURNING epoch, {COPIES} AS copies
"""
# The row of an earlier try may be visible here and not yet on the other copy: its wait may have been
# cancelled. So a replay commits something of its own, later in the log, and waits for that.
_REPLAY = f"""
SELECT person_id, tube, station, payload_sha256, {EPOCH} AS epoch, {COPIES} AS copies,
       pg_logical_emit_message(true, 'zaibei.replay', '') AS later
FROM sample_registration WHERE idempotency_key = $1::text
"""  # noqa: S608
# After the commit. A setting that was read again a moment ago proves nothing, see `_proved`.
_STILL = f"""
SELECT {COPIES} = 2 AND clock_timestamp() - pg_conf_load_time() > $1::interval AS settled
WHERE $1::interval IS NOT NULL
"""
WARM = ((_INSERT, 5), (_REPLAY, 1), (_STILL, 1))

_NOT_THE_WRITER = (
    "25006",  # read-only: a standby, or a writer that was told to stop
    "55000",  # pg_walfile_name during recovery
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    key: str
    person: str
    tube: str
    station: str
    payload: str

    @property
    def row(self) -> tuple[str, str, str, str]:
        digest = sha256(self.payload.encode()).hexdigest()
        return self.person, self.tube, self.station, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    key: str
    epoch: int
    copies: int  # that were proved to hold it
    replay: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """The key was used for something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotApplied:
    """Certainly not there, and it will not appear later."""

    why: str
    gone: bool = False  # the connection leads to no writer any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """There or not, on one copy or on both: only a later read can tell."""

    why: str
    gone: bool = False


Answer = Applied | Conflict | NotApplied | Unknown


def judge(error: Exception) -> NotApplied | Unknown:
    """What an error of an INSERT that was sent says about its row.

    Only the server's own ERROR proves an abort. FATAL does not: a backend that is told to end between
    commit and reply says FATAL about a row that is there. Nor does a lost connection, nor a time-out.
    """
    # severity_en is set only on what came from the server, and is not translated.
    if isinstance(error, asyncpg.PostgresError) and (
        getattr(error, "severity_en", None) == "ERROR"
    ):
        state = error.sqlstate
        return NotApplied(why=f"{state} {error}", gone=state in _NOT_THE_WRITER)
    return Unknown(why=f"{type(error).__name__} {error}".rstrip(), gone=True)


async def register(writer: Writer, sample: Sample, *, settled: timedelta) -> Answer:
    """`settled`: how long the configuration must have stood for two copies to be claimed."""
    try:
        link = await writer.acquire()
    except Unreachable as error:
        return NotApplied(why=error.message)
    warned: list[str] = []

    def hear(_: object, message: Any) -> None:
        # "canceling wait for synchronous replication" comes as a WARNING before a success, in the
        # language of the server. No other warning is expected here, so any is taken for that one.
        # It is heard in time: asyncpg schedules this call before it wakes the one who waits.
        if message.severity_en == "WARNING":
            warned.append(str(message.message))

    age = link.age
    link.add_log_listener(hear)
    try:
        answer = await _try(link, sample, warned, settled)
    finally:
        # A connection that broke has been detached and forgets its listeners by itself.
        with suppress(asyncpg.InterfaceError):
            link.remove_log_listener(hear)
        writer.give_back(link)
    if isinstance(answer, NotApplied | Unknown) and answer.gone:
        await writer.suspect(age, answer.why)
    return answer


async def _try(link: Any, sample: Sample, warned: list[str], settled: timedelta) -> Answer:
    if link.is_closed():
        return NotApplied(why="the connection was closed before anything was sent", gone=True)
    try:
        rows = await link.fetch(_INSERT, sample.key, *sample.row)
    except Exception as error:  # noqa: BLE001  it was sent: an error nobody thought of is no proof
        return judge(error)
    if warned:
        return Unknown(why=warned[0])
    if rows:
        epoch, copies = rows[0]
        copies = await _proved(link, copies, settled)
        return Applied(key=sample.key, epoch=epoch, copies=copies, replay=False)

    try:
        earlier = await link.fetch(_REPLAY, sample.key)
    except FAILURES as error:
        # Also for the server's ERROR: the earlier row was there a moment ago, on how many copies
        # is what could not be found out.
        return Unknown(why=f"the key is taken, and then: {error}", gone=True)
    if warned:
        return Unknown(why=warned[0])
    if not earlier:
        return Unknown(why="the key was taken and a moment later it was not")
    row = earlier[0]
    if tuple(row[:4]) != sample.row:
        return Conflict()
    copies = await _proved(link, row["copies"], settled)
    return Applied(key=sample.key, epoch=row["epoch"], copies=copies, replay=True)


async def _proved(link: Any, copies: int, settled: timedelta) -> int:
    """How many copies hold a commit that has just been answered.

    synchronous_standby_names alone does not tell. When the partner is given up during the wait, it
    becomes empty and the server lets the waiting commits go without a word. And when it is set again,
    sessions may read it before the checkpointer does, and until then nobody waits. Both only happen
    around a reload of the configuration, so near one, or when nobody can say, one copy is claimed.
    """
    if copies == 1:
        return 1
    try:
        rows = await link.fetch(_STILL, settled)
    except FAILURES:
        return 1
    return 2 if rows[0]["settled"] else 1
