"""A key file is read in one way: the key whose fingerprint is compared is the key that checks signatures."""

import base64
import textwrap
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tests.evidence.conftest import Desk, Forger, Judge, by_python, by_shell, shell
from zaibei.evidence import dsse, keys, verify
from zaibei.kernel.errors import Damage, Usage

pytestmark = pytest.mark.attack

FILES = ("p256.pub", "ed25519.pub", "sm2.pub", "witness-site-b.pub")
BEGIN, END = b"-----BEGIN PUBLIC KEY-----\n", b"-----END PUBLIC KEY-----\n"


def body(pem: bytes) -> bytes:
    return b"".join(pem.split(b"\n")[1:-2])


def two_keys(own: bytes, victim: bytes) -> bytes:
    """openssl reads lines in pieces of 254 bytes and finds `own`; whoever skips dashed lines finds `victim`."""
    one = BEGIN.strip().ljust(254) + body(own).ljust(254) + END
    return one + body(victim) + b"\n"


def other(pem: bytes) -> bytes:
    """Another key of the same kind, where this library has one."""
    try:
        ours = ser.load_pem_public_key(pem)
    except Exception:
        return pem
    fresh: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey = (
        ec.generate_private_key(ec.SECP256R1())
        if isinstance(ours, ec.EllipticCurvePublicKey)
        else ed25519.Ed25519PrivateKey.generate()
    )
    return fresh.public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)


def wrapped(pem: bytes, width: int, end: bytes = b"\n") -> bytes:
    lines = textwrap.wrap(body(pem).decode(), width)
    return BEGIN + b"".join(line.encode() + end for line in lines) + END


SPELLINGS = {
    "two keys in one file": lambda pem: two_keys(other(pem), pem),
    "two keys the other way round": lambda pem: two_keys(pem, other(pem)),
    "two PEMs": lambda pem: pem + other(pem),
    "a second PEM in front": lambda pem: other(pem) + pem,
    "CRLF": lambda pem: pem.replace(b"\n", b"\r\n"),
    "a blank after the label": lambda pem: pem.replace(b"KEY-----\n", b"KEY----- \n"),
    "a blank before a line": lambda pem: pem.replace(b"\n", b"\n ", 1),
    "an empty line": lambda pem: pem.replace(b"\n", b"\n\n", 1),
    "a header line": lambda pem: pem.replace(b"\n", b"\nProc-Type: 4\n\n", 1),
    "a remark in front": lambda pem: b"the key of the log\n" + pem,
    "a remark behind": lambda pem: pem + b"the key of the log\n",
    "no newline at the end": lambda pem: pem[:-1],
    "a newline more": lambda pem: pem + b"\n",
    "lines of 32": lambda pem: wrapped(pem, 32),
    "lines of 4": lambda pem: wrapped(pem, 4),
    "one line": lambda pem: BEGIN.strip() + body(pem) + END,
    "no padding": lambda pem: BEGIN + body(pem).rstrip(b"=") + b"\n" + END,
    "another label": lambda pem: pem.replace(b"PUBLIC KEY", b"EC PUBLIC KEY"),
    "a NUL": lambda pem: pem.replace(b"\n", b"\0\n", 1),
    "bytes after the key": lambda pem: wrapped(
        BEGIN + base64.b64encode(keys.der(pem) + b"\0") + b"\n\n" + END, 64
    ),
    "only base64": body,
    "nothing": lambda _pem: b"",
}


def test_a_pack_forged_under_the_fingerprints_of_another_is_refused(
    a_pack: Path, forger: Forger, why_refused: Judge
) -> None:
    """The victim's fingerprints are all on paper and public; the attacker holds keys of its own only."""
    victim = {n: other((a_pack / "keys" / n).read_bytes()) for n in ("p256.pub", "ed25519.pub")}
    for name, pem in victim.items():
        path = a_pack / "keys" / name
        path.write_bytes(two_keys(path.read_bytes(), pem))
    forger.reseal(a_pack)
    assert "public key" in (why_refused(a_pack) or "")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", FILES)
def test_a_key_in_any_other_spelling_is_refused_by_python(
    name: str, spelling: str, a_pack: Path, forger: Forger
) -> None:
    path = a_pack / "keys" / name
    path.write_bytes(SPELLINGS[spelling](path.read_bytes()))
    forger.reseal(a_pack)
    assert "key" in (by_python(a_pack) or "accepted"), spelling


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("p256.pub", "two keys in one file"),
        ("p256.pub", "CRLF"),
        ("ed25519.pub", "two keys the other way round"),
        ("ed25519.pub", "a remark behind"),
        ("sm2.pub", "lines of 32"),
        ("sm2.pub", "a blank before a line"),
        ("witness-site-b.pub", "two keys in one file"),
        ("witness-site-b.pub", "no newline at the end"),
        ("p256.pub", "bytes after the key"),
        ("sm2.pub", "bytes after the key"),
    ],
)
def test_a_key_in_any_other_spelling_is_refused_by_the_script(
    name: str, spelling: str, a_pack: Path, forger: Forger
) -> None:
    path = a_pack / "keys" / name
    path.write_bytes(SPELLINGS[spelling](path.read_bytes()))
    forger.reseal(a_pack)
    assert "key" in (by_shell(a_pack) or "accepted"), spelling


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("p256.pub", "ed25519.pub"),
        ("ed25519.pub", "p256.pub"),
        ("sm2.pub", "p256.pub"),
        ("witness-site-b.pub", "sm2.pub"),
    ],
)
def test_a_key_of_another_kind_than_its_name_says_is_refused(
    name: str, wrong: str, a_pack: Path, forger: Forger, why_refused: Judge
) -> None:
    (a_pack / "keys" / name).write_bytes((a_pack / "keys" / wrong).read_bytes())
    forger.reseal(a_pack)
    assert why_refused(a_pack) is not None


def test_a_compressed_point_is_another_spelling_of_the_same_key(
    a_pack: Path, forger: Forger, why_refused: Judge
) -> None:
    path = a_pack / "keys" / "p256.pub"
    key = keys.load_p256(path.read_bytes())
    point = key.public_bytes(ser.Encoding.X962, ser.PublicFormat.CompressedPoint)
    der = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    path.write_bytes(
        BEGIN
        + base64.encodebytes(der).replace(b"\n", b"")[:64]
        + b"\n"
        + base64.b64encode(der)[64:]
        + b"\n"
        + END
    )
    forger.reseal(a_pack)
    assert "p256.pub" in (why_refused(a_pack) or "")


def test_the_fingerprint_is_that_of_the_key_that_is_used(honest_desk: Desk) -> None:
    """Whoever takes a keyid from a file and a key from the same file gets both of one key, or neither."""
    ours = honest_desk.evidence.keys.p256
    envelope = dsse.seal(
        b"{}",
        key=keys.p256_private(honest_desk.evidence.directory / "keys"),
        keyid=keys.fingerprint(ours),
    )
    for pem in (two_keys(ours, other(ours)), two_keys(other(ours), ours)):
        with pytest.raises(Damage):
            dsse.unseal(envelope, key=keys.load_p256(pem), keyid=keys.fingerprint(ours))
        with pytest.raises(Damage):
            keys.fingerprint(pem)


# --- every fingerprint that is given counts -----------------------------------------------------------


def both(pack: Path, given: list[str]) -> tuple[bool, int]:
    flags = [f for value in given for f in ("--fingerprint", value)]
    return verify(pack, trusted_fingerprints=given).ok, shell(pack, *flags).returncode


def ours(pack: Path) -> dict[str, str]:
    return dict(verify(pack).fingerprints)


def test_a_fingerprint_that_no_key_meets_is_refused(a_pack: Path) -> None:
    held = ours(a_pack)
    own = [held[n] for n in ("p256.pub", "ed25519.pub", "sm2.pub")]
    assert both(a_pack, own) == (True, 0)
    assert both(a_pack, [*own, held["witness-site-b.pub"]]) == (True, 0)
    assert both(a_pack, [*own, "0" * 64]) == (False, 8)


def test_a_lost_sm2_line_is_refused_where_its_fingerprint_was_given(
    a_pack: Path, forger: Forger
) -> None:
    """Without it a forger needs two keys and not three."""
    held = ours(a_pack)
    own = [held[n] for n in ("p256.pub", "ed25519.pub", "sm2.pub")]
    (a_pack / "keys/sm2.pub").unlink()
    lines = (a_pack / "log/checkpoint").read_text().splitlines(keepends=True)
    for path in (a_pack / "log/checkpoint", *(a_pack / "proofs").iterdir()):
        path.write_text(path.read_text().replace(lines[5], ""))
    listed = (a_pack / "keys/FINGERPRINTS.txt").read_text().splitlines(keepends=True)
    rest = "".join(line for line in listed if "sm2.pub" not in line)
    (a_pack / "keys/FINGERPRINTS.txt").write_text(rest)
    forger.reseal(a_pack)
    assert both(a_pack, own[:2]) == (True, 0)
    assert both(a_pack, own) == (False, 8)


@pytest.mark.parametrize(
    "odd",
    [
        "nonsense",
        "",
        "0" * 63,
        "0" * 65,
        "g" * 64,
        "0" * 32 + "\n" + "0" * 32,
        "*",
        "\uff10" * 64,
        "0" * 32 + " " + "0" * 32,
    ],
)
def test_what_cannot_be_a_fingerprint_is_a_mistake_of_the_request(a_pack: Path, odd: str) -> None:
    with pytest.raises(Usage, match="not a fingerprint"):
        verify(a_pack, trusted_fingerprints=[odd])
    done = shell(a_pack, "--fingerprint", odd)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "NOT VERIFIED"


def test_a_fingerprint_may_be_typed_with_colons_and_in_capitals(a_pack: Path) -> None:
    def typed(value: str) -> str:
        return ":".join(textwrap.wrap(value.upper(), 2))

    held = ours(a_pack)
    assert both(a_pack, [typed(held[n]) for n in ("p256.pub", "ed25519.pub", "sm2.pub")]) == (
        True,
        0,
    )
