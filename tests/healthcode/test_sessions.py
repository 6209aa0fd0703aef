"""Who asks: nobody sees or registers under another person's name."""

import random
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.data.people import person_id
from loadtest.healthcode.sessions import CITIZEN, COLLECTOR, LIFE, Issuer, Sessions
from tests.healthcode.conftest import Service, session
from zaibei.kernel.clock import SimClock

NOW = datetime(2026, 11, 30, 8, tzinfo=UTC)
ME, OTHER = person_id(3), person_id(4)


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def test_a_session_ends_and_is_of_one_person_or_one_duty(key: Ed25519PrivateKey) -> None:
    clock = SimClock(NOW)
    sessions = Sessions(key.public_key(), clock)
    mine = "Bearer " + Issuer(key).issue("me", role=CITIZEN, now=NOW)
    station = "Bearer " + Issuer(key).issue("s1", role=COLLECTOR, now=NOW)

    me, collector = sessions.who(mine), sessions.who(station)

    assert me is not None and me.may_show("me") and me.may_register("me")
    assert not me.may_show("you") and not me.may_register("you")
    assert collector is not None and collector.may_register("you")
    assert not collector.may_show("you") and not collector.may_show("s1")
    clock.sleep(LIFE + timedelta(seconds=1))
    assert sessions.who(mine) is None, "also one that was checked before"


@pytest.mark.attack
def test_a_session_of_another_signer_or_with_one_bit_changed_is_nobodys(
    key: Ed25519PrivateKey,
) -> None:
    sessions = Sessions(key.public_key(), SimClock(NOW))
    good = Issuer(key).issue("me", role=CITIZEN, now=NOW)
    assert sessions.who(f"Bearer {good}") is not None
    forged = Issuer(Ed25519PrivateKey.generate()).issue("me", role=CITIZEN, now=NOW)
    rng = random.Random(1)
    for text in (
        None,
        "",
        good,
        f"Basic {good}",
        f"Bearer {forged}",
        "Bearer .",
        f"Bearer {good}.",
        f"Bearer {good.split('.')[0]}",
        "Bearer " + "a" * 5000,
    ):
        assert sessions.who(text) is None, text
    for _ in range(200):
        at = rng.randrange(len(good) - 1)  # the last letter has bits that mean nothing
        changed = good[:at] + chr(ord(good[at]) ^ 1) + good[at + 1 :]
        assert sessions.who(f"Bearer {changed}") is None, changed


@pytest.mark.integration
@pytest.mark.attack
async def test_nobody_sees_or_registers_under_another_persons_name(service: Service) -> None:
    async def show(person: str, **who: str) -> int:
        return (await service.get(f"/code/me?person={person}", **who))[0]

    async def sample(person: str, **who: str) -> tuple[int, object]:
        body = {"person_id": person, "tube": "t", "station": "s", "payload": "x"}
        who["Idempotency-Key"] = f"session-{person}"
        return await service.post("/sample/register", orjson.dumps(body), **who)

    mine, station = session(ME), session("s", role=COLLECTOR)
    stranger = session(ME, key=Ed25519PrivateKey.generate())

    assert await show(ME, Authorization=mine) == 200
    assert await show(OTHER, Authorization=mine) == 403
    assert await show("nobody", Authorization=mine) == 403, "nor whether a person exists"
    assert await show(OTHER, Authorization=station) == 403
    for nobody in ("", stranger, "Bearer x"):
        assert await show(ME, Authorization=nobody) == 401
        assert (await sample(ME, Authorization=nobody))[0] == 401
    refused = await sample(OTHER, Authorization=mine)
    assert refused[0] == 403
    assert refused[1] == {"applied": False, "why": "this session is another person's"}
    assert not service.there(f"session-{OTHER}")
    assert (await sample(ME, Authorization=mine))[0] in (200, 201)
    assert (await sample(OTHER, Authorization=station))[0] in (200, 201)
