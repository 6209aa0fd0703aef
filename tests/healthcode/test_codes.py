import asyncio
import base64
import random
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from infra.data.people import person_id
from loadtest.healthcode.gate import Gate
from loadtest.healthcode.settings import read, read_file
from loadtest.healthcode.tokens import MOST_BYTES, Code, Signer, expiry, subject_of, verify
from zaibei.kernel.errors import Usage

NOW = datetime(2026, 5, 1, 8, tzinfo=UTC)
LIFE = timedelta(hours=24)
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
KEYS = {SIGNER.kid: SIGNER.public}


def code(**other: object) -> Code:
    known: dict[str, object] = {
        "subject": subject_of("p000000001"),
        "colour": "green",
        "version": 3,
        "issued": NOW,
        "expires": NOW + LIFE,
    }
    return Code(**(known | other))  # type: ignore[arg-type]


@given(st.sampled_from(["green", "yellow", "red"]), st.integers(1, 2**31 - 1))
def test_a_code_comes_back_as_it_was_signed_and_fits_a_small_square(
    colour: str, version: int
) -> None:
    signed = code(colour=colour, version=version)
    token = SIGNER.sign(signed)
    assert verify(token, keys=KEYS, revoked={}, now=NOW) == signed
    assert len(token) <= MOST_BYTES


@given(st.data())
def test_a_code_with_any_changed_character_is_refused(data: st.DataObject) -> None:
    token = SIGNER.sign(code())
    at = data.draw(st.integers(0, len(token) - 1))
    new = data.draw(
        st.characters(min_codepoint=33, max_codepoint=126).filter(lambda c: c != token[at])
    )
    found = verify(token[:at] + new + token[at + 1 :], keys=KEYS, revoked={}, now=NOW)
    # The last character of base64 has bits that mean nothing: the same code may be written otherwise.
    assert isinstance(found, str) or (at == len(token) - 1 and found == code())


@given(st.text(max_size=400))
def test_what_is_no_code_is_told_so_and_does_not_crash(text: str) -> None:
    assert isinstance(verify(text, keys=KEYS, revoked={}, now=NOW), str)


def test_a_code_that_chooses_no_algorithm_is_refused() -> None:
    _, body, _ = SIGNER.sign(code()).split(".")
    head = base64.urlsafe_b64encode(orjson.dumps({"alg": "none", "kid": SIGNER.kid})).rstrip(b"=")
    assert verify(f"{head.decode()}.{body}.", keys=KEYS, revoked={}, now=NOW) == "malformed"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"expires": NOW}, "expired"),
        ({"issued": NOW + timedelta(hours=1)}, "from the future"),
        ({"version": 2}, "revoked"),
    ],
)
def test_a_code_that_was_good_once_is_refused_with_the_reason(
    other: dict[str, object], why: str
) -> None:
    revoked = {subject_of("p000000001"): 3}
    assert verify(SIGNER.sign(code(**other)), keys=KEYS, revoked=revoked, now=NOW) == why


def test_a_code_of_a_stranger_is_refused() -> None:
    stranger = Signer(Ed25519PrivateKey.generate())
    assert verify(stranger.sign(code()), keys=KEYS, revoked={}, now=NOW) == "unknown key"


@given(st.integers(0, 2**32))
def test_codes_of_one_moment_do_not_end_at_one_moment(seed: int) -> None:
    rng = random.Random(seed)
    ends = [expiry(NOW, LIFE, rng) for _ in range(20)]
    assert all(NOW + LIFE * 0.8 <= e <= NOW + LIFE for e in ends)
    assert len(set(ends)) > 1


async def test_the_gate_turns_away_what_is_too_much_and_nothing_of_the_health_checks() -> None:
    opened = asyncio.Event()

    async def slow(scope, receive, send) -> None:
        await opened.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(path: str) -> int:
        said: list[int] = []

        async def send(message) -> None:
            if message["type"] == "http.response.start":
                said.append(message["status"])

        await gate({"type": "http", "path": path}, None, send)
        return said[0]

    gate = Gate(slow, most=3, rng=random.Random(1))
    inside = [asyncio.create_task(ask("/code/me")) for _ in range(3)]
    await asyncio.sleep(0)
    checks = asyncio.create_task(ask("/healthz/ready"))
    assert [await ask("/sample/register") for _ in range(5)] == [503] * 5
    opened.set()
    assert await asyncio.gather(*inside, checks) == [200] * 4
    assert (gate.inside, gate.turned_away) == (0, 5)
    assert await ask("/code/me") == 200, "a place is given back"


def test_settings_tell_every_fault_at_once() -> None:
    with pytest.raises(Usage) as told:
        read({"ZAIBEI_HC_POOL_SIZ": "3", "ZAIBEI_HC_COMMAND": "soon", "ZAIBEI_HC_SITE": "a"})
    for fault in ("POOL_SIZ: unknown", "COMMAND: cannot read", "DB_HOSTS: missing"):
        assert fault in told.value.message
    assert "SITE" not in told.value.message


def test_a_deadline_that_ends_before_the_servers_is_refused() -> None:
    told = {
        "ZAIBEI_HC_SITE": "a",
        "ZAIBEI_HC_DB_HOSTS": "127.0.0.1:5000,127.0.0.2:5000",
        "ZAIBEI_HC_DB_PASSWORD_FILE": "/x",
        "ZAIBEI_HC_SIGNING_KEY_FILE": "/y",
        "ZAIBEI_HC_SESSION_KEY_FILE": "/z",
    }
    assert read(told).hosts() == (["127.0.0.1", "127.0.0.2"], [5000, 5000])
    with pytest.raises(Usage, match="must be longer"):
        read(told | {"ZAIBEI_HC_STATEMENT": "10s"})


def test_a_line_that_is_no_setting_is_named(tmp_path) -> None:
    file = tmp_path / "e"
    file.write_text("# comment\nA=1=2\n\noops\n")
    with pytest.raises(Usage, match=r"e:4: not NAME=value"):
        read_file(file)


@pytest.mark.integration
async def test_a_code_is_shown_signed_and_verifies(service) -> None:
    status, shown = await service.get(f"/code/me?person={person_id(5)}")
    assert status == 200
    [(colour, version)] = service.sql(
        f"SELECT colour, version FROM code_state WHERE person_id = '{person_id(5)}'"
    )
    assert (shown["colour"], shown["version"]) == (colour, version)
    _, verified = await service.post("/code/verify", orjson.dumps({"token": shown["token"]}))
    assert verified["valid"] is True
    assert (verified["subject"], verified["colour"]) == (subject_of(person_id(5)), colour)

    _, again = await service.get(f"/code/me?person={person_id(5)}")
    assert again["token"] == shown["token"], "signed once a version"
    tag = f'"{version}.{shown["expires_s"]}"'
    status, nothing = await service.get(f"/code/me?person={person_id(5)}", **{"If-None-Match": tag})
    assert (status, nothing) == (304, None)
    assert (await service.get("/code/me?person=nobody"))[0] == 404
    assert (await service.get("/code/me"))[0] == 400


@pytest.mark.integration
async def test_a_new_colour_is_shown_at_once_and_the_old_code_can_be_revoked(service) -> None:
    person = person_id(6)
    _, old = await service.get(f"/code/me?person={person}")
    service.sql(
        f"UPDATE code_state SET colour = 'red', version = version + 1 WHERE person_id = '{person}'"
    )
    service.sql(
        "INSERT INTO revocation (subject, below)"
        f" VALUES ('{subject_of(person)}', {old['version'] + 1})"
    )
    _, new = await service.get(f"/code/me?person={person}")
    assert (new["colour"], new["version"]) == ("red", old["version"] + 1)
    for _ in range(100):
        _, told = await service.post("/code/verify", orjson.dumps({"token": old["token"]}))
        if told["valid"] is False:
            break
        await asyncio.sleep(0.05)
    assert told["why"] == "revoked"
    _, told = await service.post("/code/verify", orjson.dumps({"token": new["token"]}))
    assert told["valid"] is True


@pytest.mark.integration
async def test_without_a_database_codes_verify_and_shown_ones_are_shown_with_their_age(
    service,
) -> None:
    _, shown = await service.get(f"/code/me?person={person_id(7)}")
    service.database.stop("fast")
    try:
        _, verified = await service.post("/code/verify", orjson.dumps({"token": shown["token"]}))
        status, stale = await service.get(f"/code/me?person={person_id(7)}")
        never_shown, _ = await service.get(f"/code/me?person={person_id(8)}")
        ready, told = await service.get("/healthz/ready")
        live, _ = await service.get("/healthz/live")
        state, _ = await service.get("/status")
    finally:
        service.database.start()
    assert verified["valid"] is True
    assert (status, stale["token"]) == (200, shown["token"])
    assert stale["as_of_s"] <= shown["as_of_s"], "the time it is of, not the time it was asked"
    assert never_shown == 503
    assert (ready, told["ready"], told["epoch"]) == (503, False, None)
    assert (live, state) == (200, 200)


@pytest.mark.integration
async def test_readiness_names_the_epoch_and_keys_of_the_site_are_published(service) -> None:
    assert await service.get("/healthz/ready") == (200, {"ready": True, "epoch": 1, "copies": 1})
    _, keys = await service.get("/keys")
    published = {
        k: bytes(p).hex() for k, p in service.sql("SELECT kid, public_key FROM signing_key")
    }
    assert keys["ed25519"].items() <= published.items()
