"""Which endpoints are admitted, and that the ones which pretend are not."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.lab.loopback_store import LoopbackSite
from infra.objectstore.admission import (
    Admission,
    Check,
    Report,
    StoreRole,
    demand,
    judge,
    probe,
)
from infra.sites import Secret, StoreAccess
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Refused

CHECKS = st.builds(
    lambda needed, outcome: Check(
        name="c", needed=needed, ran=outcome is not None, passed=bool(outcome), detail=""
    ),
    st.booleans(),
    st.sampled_from([True, False, None]),
)


@given(st.lists(CHECKS))
def test_only_a_whole_set_of_passed_needed_checks_admits(checks: list[Check]) -> None:
    needed = [c for c in checks if c.needed]
    admitted = judge(checks) is Admission.ADMITTED

    assert admitted == (bool(needed) and all(c.ran and c.passed for c in needed))
    if any(c.needed and c.ran and not c.passed for c in checks):
        assert judge(checks) is Admission.REFUSED


def failed(report: Report) -> set[str]:
    return {c.name for c in report.checks if c.ran and not c.passed}


@pytest.mark.integration
@pytest.mark.parametrize("role", list(StoreRole))
def test_a_hardened_seaweedfs_is_admitted_and_its_listing_is_warned_about(
    site: LoopbackSite, rng: random.Random, role: StoreRole
) -> None:
    report = probe(
        site.access, ca_file=site.ca_file, role=role, clock=SystemClock(), rng=rng, rounds=1
    )

    assert report.verdict is Admission.ADMITTED, report.reasons
    assert [w.split(":")[0] for w in report.warnings] == ["listing"]
    demand(report)
    statement = report.as_statement()
    assert statement["verdict"] == "admitted"
    for _, secret in site.access.keys.values():
        assert secret.reveal() not in str(statement)


@pytest.mark.integration
def test_rclone_is_refused_as_a_vault_because_a_lock_call_overwrites_the_object(
    serve: Callable[[list[str]], StoreAccess], rng: random.Random, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    access = serve(
        [
            "rclone",
            "serve",
            "s3",
            "--addr",
            "127.0.0.1:PORT",
            "--auth-key",
            "some-key-id,a-secret-of-some-length",
            str(tmp_path / "root"),
        ]
    )
    report = probe(access, ca_file=None, role=StoreRole.VAULT, clock=SystemClock(), rng=rng)

    assert report.verdict is Admission.REFUSED
    assert {"conditional-create", "lock-delete", "side-calls", "versioning"} <= failed(report)
    assert any(r.startswith("conditional-create:") for r in report.reasons)
    assert any("replaced the object's bytes" in r for r in report.reasons)
    with pytest.raises(Refused):
        demand(report)


@pytest.mark.integration
def test_moto_is_refused_as_a_vault_because_anybody_may_write_and_a_lock_can_be_shortened(
    serve: Callable[[list[str]], StoreAccess], rng: random.Random
) -> None:
    access = serve(["moto_server", "-H", "127.0.0.1", "-p", "PORT"])
    report = probe(access, ca_file=None, role=StoreRole.VAULT, clock=SystemClock(), rng=rng)

    assert report.verdict is Admission.REFUSED
    assert {"bad-signature", "anonymous", "lock-shorten"} <= failed(report)


def test_an_endpoint_that_does_not_answer_is_unknown_never_admitted(
    tmp_path: Path, rng: random.Random
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    access = StoreAccess(
        endpoint="https://127.0.0.1:9", region="r", keys={"admin": ("k", Secret(file=secret))}
    )
    report = probe(access, ca_file=None, role=StoreRole.VAULT, clock=SystemClock(), rng=rng)

    assert report.verdict is Admission.UNKNOWN
    assert not any(c.ran for c in report.checks)
    assert "could not be tried" in report.reasons[0]
    with pytest.raises(Refused):
        demand(report)
