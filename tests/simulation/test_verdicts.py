"""The checker and the judge against worlds in which the truth is known.

A failing case prints its seed and what happened; `plan_of(seed, …)` makes the same world again.
"""

import pytest

from failover.ledger.format import Outcome
from failover.simulated import Simulated, harmed, passed
from failover.verdict import Ruling
from infra.sim.member import Sabotage

Sabotaged = dict[Sabotage, list[Simulated]]

# What each sabotage must have done somewhere in the set, or its tests have tested nothing.
HARM = {
    Sabotage.ASYNCHRONOUS: "lost",
    Sabotage.NO_FENCE: "overlap",
    Sabotage.PROMOTE_LAGGING: "lost",
    Sabotage.ACK_EARLY: "lost",
    Sabotage.NAME_EARLY: "lost",
    Sabotage.FORGET: "lost",
    Sabotage.DENY: "resurrected",
    Sabotage.CORRUPT: "corrupted",
    Sabotage.PHANTOM: "phantoms",
}


@pytest.fixture(scope="session")
def everything(
    honest: list[Simulated],
    relapsed: list[Simulated],
    sabotaged: Sabotaged,
    vacuous: list[Simulated],
) -> list[Simulated]:
    return [*honest, *relapsed, *(w for of_one in sabotaged.values() for w in of_one), *vacuous]


def test_the_checker_finds_exactly_what_was_done(everything: list[Simulated]) -> None:
    for world in everything:
        if world.truth is None:
            continue
        found = world.findings
        assert (
            found.acknowledged,
            found.rows.fail,
            found.lost,
            found.resurrected,
            found.corrupted,
            found.phantoms,
            found.overlap,
            found.duplicates,
        ) == (
            len(world.truth.acknowledged),
            len(world.truth.denied),
            len(world.truth.lost),
            len(world.truth.resurrected),
            len(world.truth.corrupted),
            len(world.truth.phantoms),
            len(world.truth.overlap),
            0,
        ), world.told()


def test_the_writes_it_names_are_the_right_ones(everything: list[Simulated]) -> None:
    for world in everything:
        if world.truth is None:
            continue
        for finding in ("lost", "resurrected", "corrupted", "phantoms", "overlap"):
            named = set(world.findings.examples.get(finding, ()))
            assert named <= getattr(world.truth, finding), world.told()


def test_an_honest_cluster_loses_nothing_under_any_one_fault(honest: list[Simulated]) -> None:
    for world in honest:
        assert world.truth is not None, world.told()
        assert not world.truth.harm, world.told()
        assert not world.truth.phantoms, world.told()


def test_a_second_fault_during_recovery_loses_nothing_either(relapsed: list[Simulated]) -> None:
    for world in relapsed:
        assert world.truth is not None, world.told()
        assert not world.truth.harm, world.told()
        assert not world.truth.two_writers, world.told()


def test_an_honest_cluster_never_has_two_writers(honest: list[Simulated]) -> None:
    """Not even such as no client could have known of."""
    for world in honest:
        assert world.truth is not None, world.told()
        assert not world.truth.two_writers, world.told()


def test_an_honest_cluster_passes(honest: list[Simulated]) -> None:
    for world in honest:
        assert passed(world), world.told()


def test_the_honest_worlds_were_put_to_the_test(honest: list[Simulated]) -> None:
    assert any(len(w.findings.epochs) > 1 for w in honest), "nobody ever took over"
    assert any(op.copies == 1 for w in honest for op in w.ops), "no partner was ever let go"
    for outcome in Outcome:
        assert any(op.outcome is outcome for w in honest for op in w.ops), outcome
    assert len({w.plan.fault.fault for w in honest}) > 5


@pytest.mark.parametrize("sabotage", Sabotage)
def test_harm_that_was_done_is_condemned(sabotage: Sabotage, sabotaged: Sabotaged) -> None:
    for world in sabotaged[sabotage]:
        if harmed(world):
            assert world.verdict.ruling is Ruling.FAIL, world.told()


@pytest.mark.parametrize("sabotage", Sabotage)
def test_a_sabotage_does_its_harm(sabotage: Sabotage, sabotaged: Sabotaged) -> None:
    done = [w for w in sabotaged[sabotage] if w.truth and getattr(w.truth, HARM[sabotage])]
    assert done, "the worlds were too kind: their tests tested nothing"


def test_what_should_not_have_been_done_never_passes(everything: list[Simulated]) -> None:
    """Phantoms and two writers too, and a world in which nobody writes at the end."""
    for world in everything:
        truth = world.truth
        if truth is None or truth.harm or truth.phantoms or truth.two_writers:
            assert not passed(world), world.told()


def test_traffic_too_thin_to_show_anything_never_passes(vacuous: list[Simulated]) -> None:
    for world in vacuous:
        assert not passed(world), world.told()


def test_thin_traffic_that_met_harm_is_still_condemned(vacuous: list[Simulated]) -> None:
    met = [w for w in vacuous if harmed(w)]
    assert met, "no harm was met: nothing was tested"
    for world in met:
        assert world.verdict.ruling is Ruling.FAIL, world.told()
