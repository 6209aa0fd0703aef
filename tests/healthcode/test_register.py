"""Every answer of 采样登记 is held against the table: 201 and 200 mean there, 503 means never there."""

import asyncio
import random
import subprocess

import psycopg
import pytest

from tests.healthcode.conftest import session

PG_RECEIVEWAL = "/usr/lib/postgresql/15/bin/pg_receivewal"
pytestmark = pytest.mark.integration


async def test_a_sample_is_registered_once_however_often_it_is_sent(service) -> None:
    first = await service.register("once")
    again = await service.register("once")
    other = await service.register("once", payload="y")
    moved = await service.register("once", tube="t2")

    assert first == (201, {"key": "once", "epoch": 1, "copies": 1})
    assert again == (200, {"key": "once", "epoch": 1, "copies": 1})
    assert other[0] == moved[0] == 409
    rows = service.sql(
        "SELECT person_id, tube, station, payload_sha256, epoch FROM sample_registration"
        " WHERE idempotency_key = 'once'"
    )
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of "x"
    assert rows == [("p000000001", "t1", "s1", digest, 1)]


async def test_the_same_sample_sent_at_the_same_time_is_one_row(service) -> None:
    answers = await asyncio.gather(*(service.register("twins") for _ in range(8)))
    assert sorted(status for status, _ in answers) == [200] * 7 + [201]


async def test_a_cancelled_wait_for_the_second_copy_is_not_a_success(service) -> None:
    await service.lose_partner()
    asked = asyncio.create_task(service.register("cancelled"))
    service.sql(f"SELECT pg_cancel_backend({await service.waiting()})")
    status, body = await asked

    assert (status, body["applied"]) == (504, None)
    assert service.there("cancelled"), "it is on one copy: that is why nobody may say yes or no"


async def test_a_replay_of_a_row_on_one_copy_waits_for_the_second_as_well(service) -> None:
    """The lie to prevent: the row is visible, the key is known, and the other site has never seen it."""
    await service.lose_partner()
    asked = asyncio.create_task(service.register("half"))
    service.sql(f"SELECT pg_cancel_backend({await service.waiting()})")
    assert (await asked)[0] == 504

    replay = asyncio.create_task(service.register("half"))
    service.sql(f"SELECT pg_cancel_backend({await service.waiting()})")
    status, body = await replay
    assert (status, body["applied"]) == (504, None)

    service.setting("synchronous_standby_names", "")
    assert await service.register("half") == (200, {"key": "half", "epoch": 1, "copies": 1})


async def test_a_second_copy_that_never_comes_ends_as_nobody_knows(service) -> None:
    """No statement_timeout covers the wait for the other copy; our own deadline does."""
    await service.lose_partner()
    status, body = await service.register("never")
    assert (status, body["applied"]) == (504, None)
    assert service.there("never")


async def test_a_partner_given_up_during_the_wait_is_one_copy_and_not_two(service) -> None:
    """The server then lets the commit go without a warning."""
    await service.lose_partner()
    asked = asyncio.create_task(service.register("given-up"))
    await service.waiting()
    service.setting("synchronous_standby_names", "")
    assert await asked == (201, {"key": "given-up", "epoch": 1, "copies": 1})


async def test_two_copies_are_claimed_when_there_are_two_and_the_setting_has_settled(
    service, tmp_path
) -> None:
    """The positive control: without it, always saying one would pass every test here."""
    keep = tmp_path / "wal"
    keep.mkdir()
    command = [
        PG_RECEIVEWAL,
        "--synchronous",
        "--no-loop",
        "-D",
        keep,
        "-d",
        service.database.dsn("", "postgres").replace("dbname= ", "") + " application_name=second",
    ]
    partner = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        for _ in range(200):
            if service.sql("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"):
                break
            await asyncio.sleep(0.02)
        service.setting("synchronous_standby_names", "second")
        near = await service.register("near-the-reload")
        assert near[1]["copies"] == 1, "a session may know the setting before commits wait"
        for n in range(100):
            status, body = await service.register(f"two-{n}")
            assert status == 201
            if body["copies"] == 2:
                break
            await asyncio.sleep(0.05)
        assert body["copies"] == 2
    finally:
        service.setting("synchronous_standby_names", "")
        partner.terminate()
        partner.wait(timeout=10)


async def test_a_backend_that_dies_in_the_commit_is_nobody_knows(service) -> None:
    await service.lose_partner()
    asked = asyncio.create_task(service.register("killed"))
    service.sql(f"SELECT pg_terminate_backend({await service.waiting()})")
    status, body = await asked
    assert (status, body["applied"]) == (504, None)
    assert service.there("killed")


async def test_a_read_only_server_is_certainly_not_applied_and_is_left_when_it_ends(
    service,
) -> None:
    service.setting("default_transaction_read_only", "on")
    for n in range(100):  # sessions read the setting a moment after they are told to
        if (await service.register(f"before-{n}"))[0] == 503:
            break
    for n in range(6):  # more than the pool holds: fresh connections are refused as well
        status, body = await service.register(f"read-only-{n}")
        assert (status, body["applied"]) == (503, False)
    service.setting("default_transaction_read_only", "off")
    assert (await service.recovered("read-only-over"))[0] == 201
    assert not any(service.there(f"read-only-{n}") for n in range(6))


async def test_a_lock_that_does_not_open_is_certainly_not_applied(service) -> None:
    dsn = service.database.dsn("health_code", "postgres")
    with psycopg.connect(dsn) as holder:
        holder.execute("LOCK TABLE sample_registration IN ACCESS EXCLUSIVE MODE")
        status, body = await service.register("locked")
    assert (status, body["applied"]) == (503, False)
    assert not service.there("locked")


async def test_no_free_connection_is_certainly_not_applied(service) -> None:
    dsn = service.database.dsn("health_code", "postgres")
    with psycopg.connect(dsn) as holder:
        holder.execute("LOCK TABLE sample_registration IN ACCESS EXCLUSIVE MODE")
        answers = await asyncio.gather(*(service.register(f"full-{n}") for n in range(12)))
    assert {(s, b["applied"]) for s, b in answers} == {(503, False)}
    assert any("no writer" in b["why"] for _, b in answers), "the pool of 4 was not exhausted"
    assert not any(service.there(f"full-{n}") for n in range(12))


async def test_no_database_is_certainly_not_applied_and_its_return_is_noticed(service) -> None:
    service.database.stop("immediate")
    try:
        answers = [await service.register(f"down-{n}") for n in range(6)]
    finally:
        service.database.start()
    assert (await service.recovered("back"))[0] == 201
    for n, (status, body) in enumerate(answers):
        there = service.there(f"down-{n}")
        assert (status, body["applied"]) in {(503, False), (504, None)}
        assert not (there and status == 503)
    assert answers[-1][0] == 503, "dead connections must not keep answering for the whole outage"


async def test_no_answer_is_a_lie_while_backends_and_the_server_are_killed(service) -> None:
    """Negative control inside: a run in which nothing failed would prove nothing."""
    rng = random.Random(7)
    answers: dict[str, int] = {}
    ended = asyncio.Event()

    async def citizen(name: int) -> None:
        n = 0
        while not ended.is_set():
            key = f"chaos-{name}-{n}"
            answers[key], _ = await service.register(key)
            n += 1

    async def killer() -> None:
        for _ in range(12):
            await asyncio.sleep(rng.uniform(0.02, 0.12))
            await asyncio.to_thread(
                service.sql,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'zaibei_app' AND random() < 0.7",
            )
        await asyncio.to_thread(service.database.stop, "immediate")
        await asyncio.to_thread(service.database.start)
        await asyncio.sleep(0.5)
        ended.set()

    await asyncio.gather(killer(), *(citizen(n) for n in range(6)))
    await service.recovered("chaos-over")

    rows = {k for (k,) in service.sql("SELECT idempotency_key FROM sample_registration")}
    said_yes = {k for k, status in answers.items() if status == 201}
    said_no = {k for k, status in answers.items() if status == 503}
    assert set(answers.values()) <= {201, 503, 504}
    assert said_yes <= rows, f"acknowledged and gone: {sorted(said_yes - rows)[:5]}"
    assert not said_no & rows, f"denied and there: {sorted(said_no & rows)[:5]}"
    assert said_yes
    assert len(said_yes) < len(answers), "nothing was disturbed"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"person_id":"p","tube":"t","station":"s"}', "payload is missing"),
        (b'{"person_id":"p","tube":7,"station":"s","payload":""}', "tube is missing"),
        (b'{"person_id":"p\\u0000","tube":"t","station":"s","payload":""}', "zero character"),
        (b'"' + b"x" * 70_000 + b'"', "too long"),
    ],
)
async def test_what_is_no_sample_is_told_so(service, body: bytes, why: str) -> None:
    headers = {"Idempotency-Key": "bad", "Authorization": session("s", role="collector")}
    async with service.http.post(
        f"{service.url}/sample/register", data=body, headers=headers
    ) as response:
        told = await response.json()
    assert response.status in {400, 413}
    assert told["applied"] is False
    assert why in told["why"]


async def test_a_sample_without_a_key_is_refused(service) -> None:
    status, told = await service.post("/sample/register", b"{}")
    assert (status, told["applied"]) == (400, False)
