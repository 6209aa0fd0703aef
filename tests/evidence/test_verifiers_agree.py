"""Both verifiers read a truly signed statement in one way, or both refuse it.

The key holder may sign anything. What must not be: bytes that say FAIL to one reader and PASS to another, or that
one verifier passes and the other does not.
"""

import os
import random
from pathlib import Path

import pytest

from tests.evidence.conftest import DRILL, Forger, by_python, by_shell
from zaibei.evidence import Kind

pytestmark = pytest.mark.attack

FULL = (
    "ZAIBEI_MUTATIONS" in os.environ
)  # set by `make attack`: every payload through the script too
SAMPLE = 12

ACTION = b'"predicateType":"urn:zaibei:action/v1"'
HEAD = b'{"_type":"https://in-toto.io/Statement/v1","predicate":'
SHA = b"0" * 64


def said(
    predicate: bytes, kind: bytes = ACTION, subject: bytes = b"[]", *, head: bytes = HEAD
) -> bytes:
    return head + predicate + b"," + kind + b',"subject":' + subject + b"}"


def kind(name: bytes, predicate: bytes = b'{"drill_id":"d-1"}') -> bytes:
    return said(predicate, b'"predicateType":"' + name + b'"')


def held(value: bytes) -> bytes:
    return said(b'{"x":' + value + b"}")


def drill(predicate: bytes) -> bytes:
    return kind(b"urn:zaibei:intent/v1", predicate)


def artefact(item: bytes) -> bytes:
    return said(b"{}", subject=b"[" + item + b"]")


def subject(name: bytes, sha: bytes = SHA) -> bytes:
    return b'{"digest":{"sha256":"' + sha + b'"},"name":"' + name + b'"}'


GOOD = {
    "an empty predicate": said(b"{}"),
    "an intent": drill(b'{"drill_id":"d-1"}'),
    "a drill of 80 characters": drill(b'{"drill_id":"' + b"d" * 80 + b'"}'),
    "an escaped control": held(b'"\\u001f\\n\\t\\b\\f\\r\\"\\\\"'),
    "a DEL and a C1 control, as RFC 8785 has them": held('"\x7f\x9b"'.encode()),
    "an astral key before a private one": said('{"\U00010000":1,"\ue000":2}'.encode()),
    "Chinese": said('{"标题":"同城切换"}'.encode()),
    "a number of each kind": held(b"[0,-1,1.5,1e-7,0.000001,1e+21,9007199254740991,5e-324]"),
    "a power of two between uneven neighbours": held(b"7.120236347223045e-307"),
    "64 levels": held(b"[" * 62 + b"]" * 62),
    "an empty key": said(b'{"":{}}'),
    "an artefact": artefact(subject(b"in/ledger.jsonl")),
}
ODD = {
    "two verdicts": said(b'{"verdict":"FAIL","verdict":"PASS"}'),
    "two predicates": HEAD
    + b'{"verdict":"FAIL"},"predicate":{"verdict":"PASS"},'
    + ACTION
    + b',"subject":[]}',
    "two predicate types": said(b"{}", ACTION + b"," + ACTION),
    "two subjects": said(b"{}", subject=b'[],"subject":[]'),
    "two equal keys deep down": held(b'{"a":[{"b":1,"b":1}]}'),
    "two keys that are one after unescaping": said(b'{"a":1,"\\u0061":2}'),
    "an escaped letter in a key": drill(b'{"\\u0064rill_id":"d-1"}'),
    "an escaped letter in a value": held(b'"\\u0061"'),
    "an escaped slash": held(b'"\\/"'),
    "an escape in capitals": held(b'"\\u001F"'),
    "a long escape of a newline": held(b'"\\u000a"'),
    "an escaped DEL": held(b'"\\u007f"'),
    "half an escape": held(b'"\\u00'),
    "an escape of no kind": held(b'"\\x41"'),
    "a nested drill_id": drill(b'{"control":{"drill_id":"d-2"},"drill_id":"d-1"}'),
    "a drill_id only deep down": drill(b'{"control":{"drill_id":"d-2"}}'),
    "a drill_id of null": drill(b'{"drill_id":null}'),
    "a drill_id that is a number": drill(b'{"drill_id":7}'),
    "a drill_id that is a list": drill(b'{"drill_id":["d-1"]}'),
    "a drill_id beginning with a dash": drill(b'{"drill_id":"-d"}'),
    "a drill_id beginning with an underscore": drill(b'{"drill_id":"_d"}'),
    "an empty drill_id": drill(b'{"drill_id":""}'),
    "a drill_id of 81": drill(b'{"drill_id":"' + b"d" * 81 + b'"}'),
    "a drill_id of 200": drill(b'{"drill_id":"' + b"d" * 200 + b'"}'),
    "a drill_id with a blank": drill(b'{"drill_id":"d 1"}'),
    "a drill_id with a dot": drill(b'{"drill_id":"d.1"}'),
    "a drill_id in Chinese": drill('{"drill_id":"演练"}'.encode()),
    "a drill_id with a newline": drill(b'{"drill_id":"d\\n"}'),
    "an action with a bad drill_id": said(b'{"drill_id":"-"}'),
    "no drill": drill(b"{}"),
    "an abort of no drill": kind(b"urn:zaibei:aborted/v1", b"{}"),
    "a switch-back of no drill": kind(b"urn:zaibei:switch-back/v1", b"{}"),
    "no JSON": b"it went well",
    "nothing": b"",
    "a blank": b" ",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"PASS"',
    "a number": b"1",
    "an empty object": b"{}",
    "half of it": said(b"{}")[:-1],
    "a brace too many": said(b"{}") + b"}",
    "a comma too many": said(b'{"a":1,}'),
    "no comma": said(b'{"a":1"b":2}'),
    "a comma at the end of a list": held(b"[1,]"),
    "a single quote": said(b"{'a':1}"),
    "a key without quotes": said(b"{a:1}"),
    "a key that is a number": said(b"{1:1}"),
    "a comment": said(b"{/* PASS */}"),
    "two documents": said(b"{}") + said(b"{}"),
    "a BOM": b"\xef\xbb\xbf" + said(b"{}"),
    "a blank in front": b" " + said(b"{}"),
    "a blank behind": said(b"{}") + b" ",
    "a newline behind": said(b"{}") + b"\n",
    "a carriage return behind": said(b"{}") + b"\r",
    "a NUL behind": said(b"{}") + b"\0",
    "a blank inside": said(b'{"a": 1}'),
    "a tab inside": said(b'{"a":\t1}'),
    "a line of its own inside": said(b'{"a":\n1}'),
    "NaN": held(b"NaN"),
    "Infinity": held(b"Infinity"),
    "minus Infinity": held(b"-Infinity"),
    "1.0e0": held(b"1.0e0"),
    "1.0": held(b"1.0"),
    "1e5": held(b"1e5"),
    "1E+21": held(b"1E+21"),
    "1e21": held(b"1e21"),
    "1e+021": held(b"1e+021"),
    "1e400": held(b"1e400"),
    "1e-400": held(b"1e-400"),
    "minus zero": held(b"-0"),
    "zero point zero": held(b"0.0"),
    "a plus": held(b"+1"),
    "a leading zero": held(b"01"),
    "no digit before the point": held(b".5"),
    "no digit after the point": held(b"5."),
    "hexadecimal": held(b"0x10"),
    "2^53": held(b"9007199254740992"),
    "minus 2^53": held(b"-9007199254740992"),
    "a number of 30 digits": held(b"1" * 30),
    "a digit more than tells it apart": held(b"0.10000000000000001"),
    "a digit fewer than there are": held(b"0.30000000000000000"),
    "a float that is not the nearest": held(b"8.2090736025967525e-289"),
    "True": held(b"True"),
    "tru": held(b"tru"),
    "a raw tab in a text": held(b'"a\tb"'),
    "a raw escape in a text": held(b'"\x1b[2J"'),
    "a raw NUL in a text": held(b'"a\0b"'),
    "a raw newline in a text": held(b'"a\nb"'),
    "Latin-1": held(b'"\xe9"'),
    "a byte that begins nothing": held(b'"\xff"'),
    "a continuation alone": held(b'"\x80"'),
    "an overlong slash": held(b'"\xc0\xaf"'),
    "an overlong NUL": held(b'"\xc0\x80"'),
    "an overlong of three": held(b'"\xe0\x80\xaf"'),
    "a code point past the last": held(b'"\xf4\x90\x80\x80"'),
    "a lone surrogate in UTF-8": held(b'"\xed\xa0\x80"'),
    "a lone surrogate, escaped": held(b'"\\ud800"'),
    "a pair of surrogates, escaped": held(b'"\\ud83d\\ude00"'),
    "a character cut off": held(b'"\xe5\x90"'),
    "a text without an end": held(b'"PASS')[:-30],
    "keys out of order": said(b'{"b":1,"a":2}'),
    "top keys out of order": b'{"predicate":{},"_type":"https://in-toto.io/Statement/v1",'
    + ACTION
    + b',"subject":[]}',
    "keys in the order of code points and not of code units": said(
        '{"\ue000":2,"\U00010000":1}'.encode()
    ),
    "a key and a longer one out of order": said(b'{"ab":1,"a":2}'),
    "a field more": said(b"{}", subject=b'[],"z":1'),
    "no subject": HEAD + b"{}," + ACTION + b"}",
    "a subject that is an object": said(b"{}", subject=b"{}"),
    "a subject of null": said(b"{}", subject=b"null"),
    "another _type": said(b"{}", head=b'{"_type":"https://in-toto.io/Statement/v0.1","predicate":'),
    "a predicate that is a list": said(b"[]"),
    "a predicate that is a text": said(b'"PASS"'),
    "65 levels": held(b"[" * 63 + b"]" * 63),
    "20,000 levels": held(b"[" * 20_000 + b"]" * 20_000),
    "a misspelt kind": kind(b"urn:zaibei:dril/v1"),
    "a second version of a kind": kind(b"urn:zaibei:drill/v2"),
    "a kind that means an outcome": kind(b"urn:zaibei:outcome/v1"),
    "a kind in capitals": kind(b"urn:zaibei:Drill/v1"),
    "a kind beginning with a dash": kind(b"urn:zaibei:-x/v1"),
    "an empty kind": kind(b"urn:zaibei:/v1"),
    "no version": kind(b"urn:zaibei:drill"),
    "another namespace": kind(b"https://example.org/drill/v1"),
    "a kind nobody knows": kind(b"urn:zaibei:self-test/v1"),
    "a kind that is a number": said(b"{}", b'"predicateType":1'),
    "recorded next to nothing": said(b'{"recorded_at":"yesterday"}'),
    "recorded in another zone": said(b'{"recorded_at":"2026-01-01T08:00:00.000+08:00"}'),
    "recorded without milliseconds": said(b'{"recorded_at":"2026-01-01T08:00:00Z"}'),
    "recorded at null": said(b'{"recorded_at":null}'),
    "a key that ends in drill_id": said(b'{"x\\"drill_id":1}'),
    "recorded in month 13": said(b'{"recorded_at":"2026-13-01T08:00:00.000Z"}'),
    "recorded at a number": said(b'{"recorded_at":1767225600}'),
    "an artefact twice": artefact(subject(b"a") + b"," + subject(b"a")),
    "an artefact outside": artefact(subject(b"../a")),
    "an artefact with a root": artefact(subject(b"/etc/passwd")),
    "a hidden artefact": artefact(subject(b".a")),
    "an artefact of no name": artefact(subject(b"")),
    "an artefact with a blank": artefact(subject(b"a b")),
    "an artefact with two slashes": artefact(subject(b"a//b")),
    "a short sha256": artefact(subject(b"a", b"0" * 63)),
    "a sha256 in capitals": artefact(subject(b"a", b"A" * 64)),
    "an artefact with a sha512 too": artefact(
        b'{"digest":{"sha256":"' + SHA + b'","sha512":""},"name":"a"}'
    ),
    "an artefact with an annotation": artefact(
        b'{"annotations":{},"digest":{"sha256":"' + SHA + b'"},"name":"a"}'
    ),
    "an artefact without a digest": artefact(b'{"name":"a"}'),
    "an artefact that is a text": artefact(b'"a"'),
    "an artefact without a comma": artefact(subject(b"a") + subject(b"b")),
}


def through_the_script() -> list[str]:
    """All of them in `make attack`, some in `make test`: the script takes a third of a second for each."""
    names = [*GOOD, *ODD]
    return names if FULL else random.Random(20988).sample(names, SAMPLE)


def packed(forger: Forger, payload: bytes, folder: Path) -> Path:
    """The odd statement is in the log; the pack was made for the one before it."""
    intent = forger.entry(0, Kind.INTENT, {"drill_id": DRILL})
    return forger.pack([intent, forger.signed(1, payload)], [0], folder)


def test_there_are_a_hundred_odd_payloads() -> None:
    assert len(ODD) >= 100


@pytest.mark.parametrize("name", [*GOOD, *ODD])
def test_a_signed_statement_with_two_readings_is_refused_by_python(
    name: str, forger: Forger, tmp_path: Path
) -> None:
    reason = by_python(packed(forger, {**GOOD, **ODD}[name], tmp_path / "p"))
    assert (reason is None) == (name in GOOD), reason


@pytest.mark.parametrize("name", through_the_script())
def test_a_signed_statement_with_two_readings_is_refused_by_the_script(
    name: str, forger: Forger, tmp_path: Path
) -> None:
    reason = by_shell(packed(forger, {**GOOD, **ODD}[name], tmp_path / "p"))
    assert (reason is None) == (name in GOOD), reason
