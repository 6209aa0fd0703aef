"""SM2 against the example of GB/T 32918.5 and against the `openssl` program."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup.crypto import sm2
from zaibei.kernel.errors import Damage

PRIVATE = bytes.fromhex("3945208f7b2144b13f36e38ac6d39f95889393692860b51a42fb81ef4df7c5b8")
PUBLIC = bytes.fromhex(
    "09f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020"
    "ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13"
)
K = bytes.fromhex("59276e27d506861a16680f3ad9c02dccef3cc1fa3cdbe4ce6d54b80deac1bc21")
SEALED = bytes.fromhex(
    "04ebfc718e8d1798620432268e77feb6415e2ede0e073c0f4f640ecd2e149a73"
    "e858f9d81e5430a57b36daab8f950a3c64e6ee6a63094d99283aff767e124df0"
    "59983c18f809e262923c53aec295d30383b54e39d609d160afcb1908d0bd8766"
    "21886ca989ca9c7d58087307ca93092d651efa"
)
scalars = st.integers(1, sm2.N - 1).map(lambda n: n.to_bytes(32))


def test_encryption_is_the_example_of_gb_t_32918_5() -> None:
    assert sm2.public(PRIVATE) == PUBLIC
    assert sm2.encrypt(PUBLIC, b"encryption standard", k=K) == SEALED
    assert sm2.decrypt(PRIVATE, SEALED) == b"encryption standard"


@given(a=scalars, b=scalars)
@settings(max_examples=10, deadline=None)
def test_both_sides_reach_the_same_point(a: bytes, b: bytes) -> None:
    both = sm2.shared(a, sm2.public(b))
    assert both == sm2.shared(b, sm2.public(a))
    mine = sm2.public(a)
    assert sm2.lifted(mine[:32], mine[-1] & 1) == mine


@given(data=st.binary(min_size=1, max_size=100), spot=st.integers(0), bit=st.integers(0, 7))
@settings(max_examples=10, deadline=None)
def test_a_changed_bit_is_damage(data: bytes, spot: int, bit: int) -> None:
    sealed = bytearray(sm2.encrypt(PUBLIC, data))
    assert sm2.decrypt(PRIVATE, bytes(sealed)) == data
    sealed[spot % len(sealed)] ^= 1 << bit
    with pytest.raises(Damage):
        sm2.decrypt(PRIVATE, bytes(sealed))


@pytest.mark.parametrize(
    "point",
    [bytes(64), PUBLIC[:63], PUBLIC[:-1] + b"\x14", sm2.P.to_bytes(32) + PUBLIC[32:]],
)
def test_a_point_off_the_curve_is_refused(point: bytes) -> None:
    """A wrong curve has small groups: answering for its points gives the key away."""
    with pytest.raises(Damage):
        sm2.shared(PRIVATE, point)


@pytest.mark.parametrize("private", [bytes(32), sm2.N.to_bytes(32), b"\1" * 31])
def test_a_private_key_out_of_range_is_refused(private: bytes) -> None:
    with pytest.raises(Damage):
        sm2.public(private)


def openssl(*argv: str, data: bytes = b"") -> bytes:
    return subprocess.run(
        ["openssl", *argv], input=data, capture_output=True, check=True, timeout=30
    ).stdout


def test_openssl_decrypts_what_we_encrypt_and_the_other_way_round(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(openssl("genpkey", "-algorithm", "SM2"))
    der = openssl("pkey", "-in", str(key), "-outform", "DER")
    private = der[der.rindex(b"\x02\x01\x01\x04\x20") + 5 :][:32]
    uncompressed = openssl("pkey", "-in", str(key), "-pubout", "-outform", "DER")
    public = uncompressed[-64:]
    assert sm2.public(private) == public

    text = b"zaibei " * 20
    ours = _der(sm2.encrypt(public, text))
    assert openssl("pkeyutl", "-decrypt", "-inkey", str(key), data=ours) == text
    theirs = openssl("pkeyutl", "-encrypt", "-inkey", str(key), data=text)
    assert sm2.decrypt(private, _bare(theirs)) == text


def _der(sealed: bytes) -> bytes:
    """GM/T 0009: SEQUENCE { x INTEGER, y INTEGER, C3 OCTET STRING, C2 OCTET STRING }."""

    def element(tag: int, body: bytes) -> bytes:
        length = bytes([len(body)]) if len(body) < 128 else b"\x81" + bytes([len(body)])
        return bytes([tag]) + length + body

    def number(raw: bytes) -> bytes:
        bare = raw.lstrip(b"\0")
        return element(2, b"\0" * (bare[0] >> 7) + bare)

    return element(
        0x30,
        number(sealed[:32])
        + number(sealed[32:64])
        + element(4, sealed[64:96])
        + element(4, sealed[96:]),
    )


def _bare(der: bytes) -> bytes:
    out, at = [], 2 if der[1] < 128 else 3
    for _ in range(4):
        length, at = der[at + 1], at + 2
        if length == 0x81:
            length, at = der[at], at + 1
        out.append(der[at : at + length])
        at += length
    x, y, c3, c2 = out
    return x[-32:].rjust(32, b"\0") + y[-32:].rjust(32, b"\0") + c3 + c2
