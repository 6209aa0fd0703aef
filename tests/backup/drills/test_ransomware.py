"""An attacker with the writer's keys, a real store, and what is left afterwards."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.drills.attacker import ATTACKS
from backup.drills.ransomware import Drilled, drill
from infra.objectstore.written import written_at
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.progress import Silent

HARMLESS = {  # what a writer must be able to do, also when it is a thief: it covers names and adds junk
    "overwrite",
    "encrypt in place",
    "overwrite by multipart",
    "copy one object over another",
    "lengthen a lock by ten years",
    "take the next snapshot's name",
    "flood with junk",
    "write where the store keeps versions",
    # Of what no snapshot needs and no lock holds (`runs/`): `locks_shortened` is what judges the others.
    "shorten a lock",
    "weaken a lock as bypass",
}


@pytest.fixture
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")


@pytest.mark.integration
def test_every_committed_snapshot_outlives_an_attacker_with_the_writers_keys(
    workdir: Path,
) -> None:
    done = drill(workdir, duration=timedelta(seconds=8), clock=SystemClock(), progress=Silent())

    assert done.held, (done.versions_lost, done.locks_shortened, done.damage)
    assert done.restored == done.snapshots == 4
    assert set(done.attacks) == set(ATTACKS)
    managed = {name for name, counts in done.attacks.items() if counts.get("managed")}
    refused = {name for name, counts in done.attacks.items() if not counts.get("managed")}
    assert managed <= HARMLESS
    assert all(done.attacks[name].get("refused") for name in refused), "tried, and refused"
    assert "overwrite" in managed, "an attack that manages nothing proves nothing"
    assert not done.now.startswith("opens"), "without as-of the attack shows, and is said"
    assert not list(workdir.iterdir()), "the store is thrown away"


@pytest.mark.integration
def test_without_locks_and_with_the_administrators_keys_the_drill_is_lost_and_says_so(
    workdir: Path,
) -> None:
    done = drill(
        workdir,
        duration=timedelta(seconds=2),
        stolen="admin",
        locked=False,
        clock=SystemClock(),
        progress=Silent(),
    )

    assert not done.held
    assert done.versions_lost
    assert done.restored < done.snapshots


@pytest.fixture
def drilled() -> Callable[..., Drilled]:
    def one(**other: object) -> Drilled:
        return Drilled(
            **{  # type: ignore[arg-type]
                "attacked": timedelta(seconds=1),
                "attempts": 9,
                "attacks": {},
                "versions_before": 3,
                "versions_lost": (),
                "locks_shortened": (),
                "now": "",
                "damage": (),
                "snapshots": 2,
                "restored": 2,
                **other,
            }
        )

    return one


@pytest.mark.parametrize(
    "other",
    [
        {"attempts": 0},
        {"restored": 1},
        {"snapshots": 0, "restored": 0},
        {"versions_lost": ("k",)},
        {"locks_shortened": ("k",)},
        {"damage": ("d",)},
    ],
)
def test_any_single_loss_and_an_attack_that_never_was_are_not_held(
    drilled: Callable[..., Drilled], other: dict[str, object]
) -> None:
    assert drilled().held
    assert not drilled(**other).held


TIMES = st.datetimes(
    min_value=datetime(2016, 1, 1),  # noqa: DTZ001 — hypothesis adds the zone
    max_value=datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(at=TIMES, moved=st.timedeltas(timedelta(0), timedelta(days=9999)), down=st.booleans())
def test_a_lock_extended_later_does_not_move_a_version_out_of_the_past(
    at: datetime, moved: timedelta, down: bool
) -> None:
    ns = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    version = f"{(2**63 - 1 - ns) if down else ns:016x}" + "ab" * 8
    told = (at + moved).replace(microsecond=0)

    assert written_at(version, told) == at


@given(version=st.none() | st.text(max_size=40), told=TIMES)
def test_an_id_that_holds_no_time_leaves_the_stores_word(
    version: str | None, told: datetime
) -> None:
    assert written_at(version, told) <= told + timedelta(seconds=2)


def test_a_version_as_seaweedfs_names_it_is_dated_to_the_moment() -> None:
    told = datetime(2026, 11, 22, 8, 1, 42, tzinfo=UTC)

    assert written_at("6715b0ca22e6651dc2760542a99567a3", told) == datetime(
        2026, 11, 22, 8, 1, 34, 221867, tzinfo=UTC
    )
