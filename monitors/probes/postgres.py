"""What a PostgreSQL member says of itself, and how far a standby is behind: a bound, not a guess."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import dict_row

from zaibei.kernel.errors import Unreachable

_MEMBER = """
select pg_is_in_recovery() as in_recovery,
       clock_timestamp() as now,
       case when pg_is_in_recovery()
            then coalesce((select received_tli from pg_stat_wal_receiver),
                          (select timeline_id from pg_control_checkpoint()))
            else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int
       end as timeline,
       (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
             else pg_current_wal_lsn() end - '0/0'::pg_lsn)::bigint as position_bytes,
       case when pg_is_in_recovery() then pg_last_xact_replay_timestamp() end as replayed_at,
       current_setting('synchronous_standby_names') as sync_names
"""
_FOLLOWERS = """
select application_name as name, host(client_addr) as address, state, sync_state,
       replay_lag, reply_time
from pg_stat_replication
order by pid
limit 64
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """One row of pg_stat_replication."""

    name: str
    address: str | None
    state: str
    sync_state: str
    replay_lag: timedelta | None
    reply_time: datetime | None  # of the follower's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    in_recovery: bool
    now: datetime  # the member's own clock
    timeline: int
    position_bytes: int  # written (writer) or replayed (standby), as an absolute WAL position
    replayed_at: datetime | None
    sync_names: str
    followers: tuple[Follower, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    behind_bytes: int | None
    age: timedelta | None  # upper bound


def ask(dsn: str, *, password: str | None, deadline: timedelta) -> Member:
    """Raises Unreachable."""
    statement_ms = max(1, int(deadline.total_seconds() * 1000))
    try:
        with psycopg.connect(
            dsn,
            password=password,
            autocommit=True,
            connect_timeout=max(2, int(deadline.total_seconds())),
            options=f"-c statement_timeout={statement_ms} -c default_transaction_read_only=on",
            application_name="zaibei-probe",
            row_factory=dict_row,
        ) as link:
            row = link.execute(_MEMBER).fetchone()
            assert row is not None, "a select without from has one row"
            rows = [] if row["in_recovery"] else link.execute(_FOLLOWERS).fetchall()
    except psycopg.Error as gone:
        raise Unreachable(f"postgres: {' '.join(str(gone).split())}") from gone
    return Member(**row, followers=tuple(Follower(**r) for r in rows))


def sync_degraded(writer: Member) -> str | None:
    """Why an acknowledged commit may be on one site only, or cannot be acknowledged at all."""
    assert not writer.in_recovery, "a standby acknowledges nothing"
    if not writer.sync_names.strip():
        return "synchronous_standby_names is empty: commits are on the writer alone"
    partners = [f for f in writer.followers if f.sync_state in ("sync", "quorum")]
    if not any(f.state == "streaming" for f in partners):
        return f"no synchronous standby streams (names: {writer.sync_names})"
    return None


def lag(standby: Member, writer: Member | None, *, site: str, address: str) -> Lag:
    """How far a standby is behind.

    The age is an upper bound, the smaller of two: the age of the last transaction replayed (too
    large while nobody writes), and the writer's own measure plus the age of the standby's last reply
    (too small for a link that was silently cut, were the age of the reply not added).
    It is zero only when the position was compared with the writer's: a standby that lost its
    stream has "replayed all it received", and would look perfect by itself.
    """
    bounds: list[timedelta] = []
    zero = timedelta(0)
    if standby.replayed_at is not None:
        bounds.append(max(zero, standby.now - standby.replayed_at))
    if writer is None:
        return Lag(behind_bytes=None, age=min(bounds, default=None))
    behind: int | None = max(0, writer.position_bytes - standby.position_bytes)
    if standby.timeline != writer.timeline:
        behind = None  # positions of two timelines do not compare: a fork may even look ahead
    elif behind == 0:
        return Lag(behind_bytes=0, age=zero)
    seen = next((f for f in writer.followers if f.name == site or f.address == address), None)
    if seen is not None and seen.state == "streaming" and seen.reply_time is not None:
        bounds.append((seen.replay_lag or zero) + max(zero, writer.now - seen.reply_time))
    return Lag(behind_bytes=behind, age=min(bounds, default=None))
