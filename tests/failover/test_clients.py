import hashlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.clients import Door, Limits, Rates, Traffic
from failover.clients.classify import Attempt, broken, classify, together
from failover.clients.endpoints import Doors
from failover.clients.row_write import Answer, TimeOuts, session, tls, write
from failover.ledger.format import Kind, Op, Outcome
from failover.ledger.reader import Reader
from failover.ledger.writer import Ledger
from failover.verdict import ledger_whole
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Invalid, Usage
from zaibei.kernel.wait import wait_until

CLOCK = SystemClock()
QUICK = TimeOuts(connect_s=0.3, attempt_s=0.4, op_s=0.9)
BODY = b'{"person_id":"P1","tube":"T1","station":"S1","payload":"p"}'


async def ask(pki: Any, *rigged: Any, pooled: bool = True, op_id: str = "d-x-1") -> Answer:
    doors = Doors([r.door for r in rigged], shun_s=10.0)
    async with session(tls(pki.ca), pooled=pooled) as http:
        return await write(http, doors, op_id=op_id, body=BODY, limits=QUICK, now=CLOCK.monotonic)


# -- what an answer means ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "outcome", "said"),
    [
        ("ok", Outcome.OK, "201"),
        ("replayed", Outcome.OK, "200"),
        ("not applied", Outcome.FAIL, "503 not applied"),
        ("no server", Outcome.INFO, "503 not JSON"),
        ("nobody knows", Outcome.INFO, "504"),
        ("somebody else's", Outcome.INFO, "malformed"),
        ("no epoch", Outcome.INFO, "malformed"),
        ("true epoch", Outcome.INFO, "malformed"),
        ("conflict", Outcome.INFO, "409"),
        ("redirect", Outcome.INFO, "302"),
        ("endless", Outcome.INFO, "more than"),
        ("not http", Outcome.INFO, ""),
        ("mid body", Outcome.INFO, "ClientPayloadError"),
        ("hang up", Outcome.INFO, "ServerDisconnected"),
        ("stall", Outcome.INFO, "Timeout"),
    ],
)
@pytest.mark.parametrize("pooled", [True, False])
async def test_each_answer_of_a_door_is_taken_for_what_it_proves(
    pki: Any, doors: Any, what: str, outcome: Outcome, said: str, pooled: bool
) -> None:
    rigged = doors.open(what, epoch=4)

    answer = await ask(pki, rigged, pooled=pooled)

    assert answer.outcome is outcome
    assert said in answer.detail
    assert rigged.seen == ["d-x-1"], "one door, one request: never again in silence"
    if outcome is Outcome.OK:
        assert (answer.epoch, answer.copies, answer.door) == (4, 2, "site-a")
    else:
        assert answer.epoch is None


async def test_a_refused_connection_is_a_certain_failure(pki: Any, doors: Any) -> None:
    answer = await ask(pki, doors.closed())
    assert answer.outcome is Outcome.FAIL
    assert answer.detail.startswith("never sent")


async def test_a_door_that_never_greets_is_a_certain_failure(pki: Any, doors: Any) -> None:
    # The connection is there, TLS is not: no byte of the write can have left.
    mute = doors.mute()
    answer = await ask(pki, mute)
    assert mute.connections == 1
    assert answer.outcome is Outcome.FAIL
    assert answer.detail.startswith("never sent")


async def test_a_door_of_another_ca_is_not_written_to(pki: Any, doors: Any, other_pki: Any) -> None:
    rigged = doors.open("ok")
    answer = await ask(other_pki, rigged)
    assert answer.outcome is Outcome.FAIL
    assert "ertificate" in answer.detail
    assert rigged.seen == []


@given(
    status=st.integers(min_value=100, max_value=599),
    body=st.one_of(
        st.binary(max_size=200),
        st.sampled_from(
            [
                b'{"key":"k","epoch":3,"copies":2}',
                b'{"key":"k","epoch":0,"copies":2}',
                b'{"key":"k","epoch":"3","copies":2}',
                b'{"applied":false}',
                b'{"applied":null}',
                b'{"applied":0}',
                b"[]",
                b"null",
            ]
        ),
    ),
)
def test_only_the_exact_words_are_believed(status: int, body: bytes) -> None:
    attempt = classify(op_id="k", status=status, body=body)
    if attempt.outcome is Outcome.OK:
        assert status in (200, 201)
        assert body == b'{"key":"k","epoch":3,"copies":2}'
    if attempt.outcome is Outcome.FAIL:
        assert status == 503
        assert body == b'{"applied":false}'


def test_two_tries_of_one_id_are_as_sure_as_the_less_sure_of_them() -> None:
    def tried(outcome: Outcome) -> Attempt:
        return Attempt(outcome=outcome, status=None, detail="")

    ok, fail, info = (tried(o) for o in (Outcome.OK, Outcome.FAIL, Outcome.INFO))
    assert together(info, ok) is Outcome.OK
    assert together(fail, ok) is Outcome.OK
    assert together(info, fail) is Outcome.INFO, "the first may have been applied"
    assert together(fail, info) is Outcome.INFO
    assert together(fail, fail) is Outcome.FAIL
    assert broken(TimeoutError(), may_have_left=True).outcome is Outcome.INFO
    assert broken(TimeoutError(), may_have_left=False).outcome is Outcome.FAIL


# -- which door --------------------------------------------------------------------------------


async def test_the_same_id_is_tried_once_at_the_other_door_and_that_is_said(
    pki: Any, doors: Any
) -> None:
    a, b = doors.open("nobody knows"), doors.open("ok", site="site-b", epoch=2)

    answer = await ask(pki, a, b)

    assert (a.seen, b.seen) == (["d-x-1"], ["d-x-1"])
    assert (answer.outcome, answer.door, answer.epoch) == (Outcome.OK, "site-b", 2)
    assert "second try, site-a first: 504" in answer.detail


async def test_a_doubt_at_the_first_door_outlives_a_refusal_at_the_second(
    pki: Any, doors: Any
) -> None:
    a, b = doors.open("stall"), doors.open("not applied", site="site-b")
    answer = await ask(pki, a, b)
    assert b.seen == ["d-x-1"]
    assert answer.outcome is Outcome.INFO
    assert a.applied, "and it was there"


async def test_a_conflict_is_not_carried_to_the_next_door(pki: Any, doors: Any) -> None:
    a, b = doors.open("conflict"), doors.open("ok", site="site-b")
    answer = await ask(pki, a, b)
    assert answer.outcome is Outcome.INFO
    assert b.seen == []


A, B = (Door(site=f"site-{x}", url=f"https://{x}") for x in "ab")


def test_a_client_stays_where_it_was_answered() -> None:
    doors = Doors([A, B], shun_s=10)
    doors.was_silent(A, now_s=0)
    assert doors.preferred == B
    doors.answered_well(B)
    assert doors.preferred == B


def test_many_failures_at_once_move_the_client_once() -> None:
    doors = Doors([A, B], shun_s=10)
    for _ in range(5):
        doors.answered_badly(A, now_s=0)
    assert doors.preferred == B


def test_a_silent_door_is_left_alone_while_the_other_is_not_ready() -> None:
    doors = Doors([A, B], shun_s=10)
    doors.was_silent(A, now_s=0)
    doors.answered_badly(B, now_s=1)
    assert doors.preferred == B
    assert doors.after(B, now_s=1) is None
    doors.answered_badly(B, now_s=11)
    assert doors.preferred == A, "not for ever"


def test_no_door_is_a_usage_error() -> None:
    with pytest.raises(Usage):
        Doors([], shun_s=1)


# -- traffic -----------------------------------------------------------------------------------

RATES = Rates(rows_per_s=80, pooled=2, fresh=2, objects_per_s=20, object_bytes=64)


class Drill:
    """Traffic against rigged doors, and the ledger it left."""

    def __init__(self, where: Path, pki: Any, doors: list[Any], **how: Any) -> None:
        self.path = where / "drill.jsonl"
        self.ledger = Ledger.create(self.path, drill="d", clock=CLOCK)
        self.traffic = Traffic(
            doors=[d.door for d in doors],
            ca_file=pki.ca,
            ledger=self.ledger,
            clock=CLOCK,
            seed=7,
            rates=how.pop("rates", RATES),
            limits=how.pop("limits", Limits(time_outs=QUICK, object_s=0.5)),
            **how,
        )
        self.traffic.start()

    def until(self, why_not: Callable[[], str | None]) -> None:
        wait_until(
            why_not,
            what="traffic",
            deadline=timedelta(seconds=20),
            clock=CLOCK,
            interval=timedelta(milliseconds=10),
        )

    def until_count(self, outcome: str, n: int) -> None:
        def why_not() -> str | None:
            now = self.traffic.snapshot()
            return None if getattr(now, outcome) >= n else str(now)

        self.until(why_not)

    def end(self) -> list[Op]:
        counts = self.traffic.stop()
        self.ledger.close()
        reader = Reader(self.path)
        ops = list(reader.ops())
        assert ledger_whole(reader.ending).passed, reader.ending
        by = Counter(op.outcome for op in ops)
        assert (counts.ok, counts.fail, counts.info) == (by["ok"], by["fail"], by["info"])
        assert counts.in_flight == 0
        return ops


def test_the_ledger_holds_each_write_of_each_client_on_its_schedule(
    tmp_path: Path, pki: Any, doors: Any
) -> None:
    a = doors.open("ok", epoch=5)
    stored: dict[str, bytes] = {}

    def put(key: str, data: bytes) -> int:
        stored[key] = data
        return 2

    drill = Drill(tmp_path, pki, [a], put=put)
    drill.until_count("ok", 60)
    ops = drill.end()

    rows = [op for op in ops if op.kind is Kind.ROW]
    assert {op.client for op in rows} == {"pool0", "pool1", "conn0", "conn1"}
    assert a.applied == {op.op_id: op.payload_sha256 for op in rows}
    assert all(op.epoch == 5 and op.copies == 2 and op.door == "site-a" for op in rows)
    objects = {op.op_id: op for op in ops if op.kind is Kind.OBJECT}
    assert objects
    assert set(objects) == set(stored)
    for key, data in stored.items():
        assert objects[key].payload_sha256 == hashlib.sha256(data).hexdigest()
    for client in ("pool0", "conn1"):
        due = [op.intended_s for op in rows if op.client == client]
        due.sort()
        period = RATES.row_period.total_seconds()
        assert due == pytest.approx([due[0] + i * period for i in range(len(due))])
    assert all(op.pooled == op.client.startswith("pool") for op in rows)
    fresh = sum(not op.pooled for op in rows)
    assert fresh <= a.connections < len(rows), "fresh ones connect each time, pooled ones do not"


def test_one_seed_sends_the_same_writes(tmp_path: Path, pki: Any, doors: Any) -> None:
    sent = []
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        drill = Drill(tmp_path / run, pki, [doors.open("ok")])
        drill.until_count("ok", 20)
        sent.append({op.op_id: op.payload_sha256 for op in drill.end()})
    both = sent[0].keys() & sent[1].keys()
    assert len(both) >= 15
    assert all(sent[0][i] == sent[1][i] for i in both)


def test_writes_go_on_being_due_while_nobody_answers(tmp_path: Path, pki: Any, doors: Any) -> None:
    calm = threading.Event()
    a = doors.open(lambda _: "ok" if calm.is_set() else "stall")
    drill = Drill(tmp_path, pki, [a])
    drill.until_count("info", 40)
    calm.set()
    drill.until_count("ok", 10)
    ops = drill.end()

    stalled = [op for op in ops if op.outcome is Outcome.INFO]
    assert len(stalled) >= 40
    due = sorted(op.intended_s for op in ops)
    gaps = [b - a for a, b in itertools.pairwise(due)]
    assert max(gaps) <= 2 * RATES.row_period.total_seconds(), "an outage does not stop the clock"
    assert {op.op_id for op in stalled} <= a.applied.keys(), "and INFO was right: they are there"


def test_clients_move_to_the_other_door_and_nothing_acknowledged_is_missing(
    tmp_path: Path, pki: Any, doors: Any
) -> None:
    gone = threading.Event()
    a = doors.open(lambda _: "hang up" if gone.is_set() else "ok", epoch=1)
    b = doors.open(lambda _: "ok" if gone.is_set() else "not applied", site="site-b", epoch=2)
    drill = Drill(tmp_path, pki, [a, b])
    drill.until_count("ok", 30)
    gone.set()
    drill.until(lambda: None if len(b.applied) > 40 else f"{len(b.applied)} at b")
    ops = drill.end()

    moved = [op for op in ops if op.door == "site-b" and op.outcome is Outcome.OK]
    assert all(op.epoch == 2 for op in moved)
    retried = [op for op in moved if "second try" in op.detail]
    assert 1 <= len(retried) < len(moved) / 2, "the next ones go to the other door at once"
    for op in ops:
        if op.outcome is Outcome.OK:
            assert op.op_id in (b.applied if op.epoch == 2 else a.applied)


def test_too_many_in_flight_is_recorded_and_nothing_is_dropped(
    tmp_path: Path, pki: Any, doors: Any
) -> None:
    a = doors.open("stall")
    limits = Limits(time_outs=QUICK, rows_in_flight=3)
    drill = Drill(tmp_path, pki, [a], limits=limits)
    drill.until_count("overflow", 20)
    ops = drill.end()

    over = [op for op in ops if op.detail.startswith("overflow")]
    assert len(over) >= 20
    assert all(op.outcome is Outcome.FAIL for op in over)
    assert not {op.op_id for op in over} & set(a.seen)
    per_client = Counter(op.client for op in ops)
    for client, n in per_client.items():
        assert {op.seq for op in ops if op.client == client} == set(range(n)), "no hole"


def test_an_object_store_that_raises_or_hangs_leaves_info(
    tmp_path: Path, pki: Any, doors: Any
) -> None:
    free = threading.Event()

    def put(key: str, data: bytes) -> int:
        if key.endswith("1"):
            raise ConnectionError("reset by peer")
        free.wait(30)
        return 2

    drill = Drill(tmp_path, pki, [doors.open("ok")], put=put)
    drill.until_count("info", 6)
    free.set()
    ops = [op for op in drill.end() if op.kind is Kind.OBJECT]

    said = {op.detail.partition(":")[0] for op in ops if op.outcome is Outcome.INFO}
    assert said == {"ConnectionError", "no answer in 0.5 s"}


def test_a_ledger_that_cannot_be_written_ends_the_measurement_loudly(
    tmp_path: Path, pki: Any, doors: Any
) -> None:
    import os  # noqa: PLC0415

    drill = Drill(tmp_path, pki, [doors.open("ok")])
    drill.until_count("ok", 5)
    os.dup2(os.open("/dev/full", os.O_WRONLY), drill.ledger._file)
    drill.until(lambda: None if drill.ledger._broken else "still writing")
    with pytest.raises(Invalid, match="the clients stopped"):
        drill.traffic.stop()


def test_a_plain_http_door_is_refused(tmp_path: Path, pki: Any) -> None:
    with (
        Ledger.create(tmp_path / "x", drill="d", clock=CLOCK) as ledger,
        pytest.raises(Usage, match="not https"),
    ):
        Traffic(
            doors=[Door(site="a", url="http://127.0.0.1:1")],
            ca_file=pki.ca,
            ledger=ledger,
            clock=CLOCK,
            seed=1,
        )


def test_rates_too_coarse_for_the_objective_say_what_would_do() -> None:
    assert Rates(rows_per_s=20).why_too_coarse(timedelta(seconds=1)) is None
    reason = Rates(rows_per_s=2).why_too_coarse(timedelta(seconds=5))
    assert reason is not None
    assert "write at least 4 a second" in reason
