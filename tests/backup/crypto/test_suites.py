"""The two suites against the published vectors, and the two engines of `sm` against each other: a repository
written with libgcrypt opens where there is none."""

import hashlib
import os
import threading
from collections.abc import Callable

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from backup.crypto import libgcrypt as gcrypt
from backup.crypto.suite import BLAKE3, NAMES, Aead, Engine, OpenSsl, Sm, suite
from backup.errors import NewerFormat
from backup.repository.repository import Repository
from zaibei.kernel.errors import Damage

KEY = bytes.fromhex("0123456789abcdeffedcba9876543210")
NONCE = bytes.fromhex("00001234567800000000abcd")
AAD = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
PLAIN = b"".join(bytes([b]) * 8 for b in (0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 0xEE, 0xAA))
SEALED = bytes.fromhex(
    "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
    "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d"
    "83de3541e4c2b58177e065a9bf7b62ec"
)


@pytest.fixture(scope="module")
def libgcrypt() -> gcrypt.Gcrypt:
    loaded = gcrypt.load()
    assert loaded is not None, "libgcrypt20 is a package of the reference machine"
    return loaded


@pytest.fixture(params=["libgcrypt", "openssl"])
def engine(request: pytest.FixtureRequest, libgcrypt: gcrypt.Gcrypt) -> Engine:
    return libgcrypt if request.param == "libgcrypt" else OpenSsl()


def test_sm3_is_gb_t_32905(engine: Engine) -> None:
    for text, wanted in (
        (b"abc", "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"),
        (b"abcd" * 16, "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732"),
    ):
        assert engine.sm3(text).hex() == wanted


def test_sm4_is_gb_t_32907() -> None:
    block = Cipher(algorithms.SM4(KEY), modes.ECB()).encryptor()
    assert block.update(KEY).hex() == "681edf34d206965e86b3e94f536e4246"


def test_sm4_in_gcm_is_the_block_cipher_of_gb_t_32907(engine: Engine) -> None:
    """GCM's first counter block is nonce ‖ 2: what it encrypts zeros to is SM4 of that block."""
    block = Cipher(algorithms.SM4(KEY), modes.ECB()).encryptor()
    assert engine.sm4_gcm(KEY).seal(NONCE, bytes(16), b"")[:16] == block.update(
        NONCE + (2).to_bytes(4)
    )


def test_sm4_gcm_is_rfc_8998(engine: Engine) -> None:
    one = engine.sm4_gcm(KEY)
    assert one.seal(NONCE, PLAIN, AAD) == SEALED
    assert one.open(NONCE, SEALED, AAD) == PLAIN


@given(
    data=st.binary(max_size=3000),
    aad=st.binary(max_size=200),
    key=st.binary(min_size=16, max_size=16),
)
@settings(max_examples=150)
def test_both_engines_write_the_same_bytes(data: bytes, aad: bytes, key: bytes) -> None:
    native = gcrypt.load()
    assert native is not None
    other = OpenSsl()
    sealed = other.sm4_gcm(key).seal(NONCE, data, aad)
    assert native.sm4_gcm(key).seal(NONCE, data, aad) == sealed
    assert native.sm4_gcm(key).open(NONCE, sealed, aad) == data
    assert native.sm3(data) == other.sm3(data) == hashlib.new("sm3", data).digest()
    assert native.hmac_sm3(key, aad, data) == other.hmac_sm3(key, aad, data)
    one, two = Sm(native), Sm(other)
    assert one.mac(key * 2, b"blob/data", data) == two.mac(key * 2, b"blob/data", data)
    assert one.digest(data) == two.digest(data)


@given(
    data=st.binary(min_size=0, max_size=600), spot=st.integers(min_value=0), bit=st.integers(0, 7)
)
@settings(max_examples=100)
def test_a_flipped_bit_is_damage_in_every_aead(data: bytes, spot: int, bit: int) -> None:
    native = gcrypt.load()
    assert native is not None
    aeads: list[Aead] = [native.sm4_gcm(KEY), OpenSsl().sm4_gcm(KEY), suite("intl").aead(KEY * 2)]
    for one in aeads:
        sealed = bytearray(one.seal(NONCE, data, AAD))
        sealed[spot % len(sealed)] ^= 1 << bit
        with pytest.raises(Damage):
            one.open(NONCE, bytes(sealed), AAD)
        with pytest.raises(Damage):
            one.open(NONCE, bytes(sealed[: spot % len(sealed)]), AAD)


@given(data=st.binary(max_size=2000))
@settings(max_examples=50)
def test_sealing_into_a_buffer_gives_the_same_bytes(data: bytes) -> None:
    native = gcrypt.load()
    assert native is not None
    aeads: list[Aead] = [native.sm4_gcm(KEY), OpenSsl().sm4_gcm(KEY), suite("intl").aead(KEY * 2)]
    for one in aeads:
        room = bytearray(len(data) + 16 + 2)
        one.seal_into(NONCE, data, AAD, memoryview(room)[1:-1])
        assert room == b"\0" + one.seal(NONCE, data, AAD) + b"\0"


def test_one_key_serves_many_threads(engine: Engine) -> None:
    one = engine.sm4_gcm(KEY)
    texts = [os.urandom(20_000 + n) for n in range(4)]
    wrong: list[int] = []

    def work(at: int) -> None:
        for slot in range(50):
            nonce = (at * 1000 + slot).to_bytes(12)
            if one.open(nonce, one.seal(nonce, texts[at], AAD), AAD) != texts[at]:
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_library_that_computes_something_else_is_not_used(libgcrypt: gcrypt.Gcrypt) -> None:
    class Lying(gcrypt.Gcrypt):
        def sm3(self, data: bytes) -> bytes:
            return hashlib.sha256(data).digest()

    assert gcrypt.why_not_trusted(libgcrypt) is None
    assert gcrypt.why_not_trusted(Lying()) is not None


@pytest.mark.parametrize("name", sorted(NAMES))
def test_derived_keys_differ_by_purpose_salt_and_secret(name: str) -> None:
    one = suite(name)
    derived = {
        one.derive(secret, salt=salt, info=info, length=32)
        for secret in (b"a" * 32, b"b" * 32)
        for salt in (b"1", b"2")
        for info in (b"data", b"id")
    }
    assert len(derived) == 8


def test_an_unknown_suite_is_a_newer_format_and_names_the_known_ones() -> None:
    with pytest.raises(NewerFormat) as said:
        suite("post-quantum")
    assert "intl, sm" in str(said.value)


def test_new_intl_repositories_name_blobs_by_blake3_and_old_ones_stay(
    make: Callable[..., Repository],
) -> None:
    """BLAKE3's own keyed vector (its test_vectors.json, empty input) shows that it is BLAKE3."""
    key = b"whats the Elvish word for friend"
    assert blake3(b"", key=key).hexdigest() == (
        "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"
    )
    new, old = make(suite="intl").keys.suite, suite("intl")
    assert (new.ids, old.ids, make(suite="sm").keys.suite.ids) == (BLAKE3, "", "")
    assert (
        new.mac(key, b"blob/data", b"x")
        == blake3(b"blob/data".ljust(16, b"\0") + b"x", key=key).digest()
    )
    assert (
        len({one.mac(key, d, b"x") for one in (new, old) for d in (b"blob/data", b"blob/tree")})
        == 4
    )


def test_ids_of_a_later_zaibei_are_refused_by_name() -> None:
    with pytest.raises(NewerFormat, match="kangaroo"):
        suite("intl", "kangaroo")
