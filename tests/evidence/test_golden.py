"""A pack of the first format, made once. It must verify for as long as somebody may ask about it.

Its private keys are gone. Never make it again: a new format gets a folder of its own.
"""

import subprocess
from pathlib import Path

import pytest

from zaibei.evidence import verify

V1 = Path(__file__).parents[1] / "golden" / "evidence" / "v1"
FINGERPRINTS = [
    "62b0c02c692de789ee4792e476b34c1f32414f936dcb6e171393b0f63c56a92d",
    "b6b46d588392132aad8537fa2adbd4d570887e0250efb61c4c6690c8e42106ad",
    "f06af728df8dde584442f2a9d4dc33e98f4a611b9564e9be00c6846cc7885094",
]


@pytest.mark.parametrize("form", ["pack", "pack.tar.gz"])
def test_a_pack_of_the_first_format_still_verifies(form: str) -> None:
    found = verify(V1 / form, trusted_fingerprints=FINGERPRINTS)
    assert found.problems == ()
    assert found.size == 5
    assert [e.statement.predicate.get("verdict") for e in found.entries] == [None, "PASS"]


def test_the_script_that_was_packed_then_still_runs() -> None:
    flags = [f for value in FINGERPRINTS for f in ("--fingerprint", value)]
    done = subprocess.run(
        ["sh", V1 / "pack" / "verify.sh", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("VERIFIED\n")
