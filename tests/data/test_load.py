from collections.abc import Callable

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.data.check import check, dangling
from infra.data.facts import facts
from infra.data.load import Loading, Step, decide, load
from infra.data.loopback import Loopback
from infra.data.world import DATABASES, GENERATION, World
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage, Refused, Unreachable

SCALE = 0.002
THERE = Loading(generation=GENERATION, seed=1, persons=200, rows=9, objects_written=False)


@given(
    st.integers(0, 3), st.integers(1, 3), st.booleans(), st.booleans(), st.sampled_from([0, 1, 2])
)
def test_a_world_is_never_mixed_with_another(
    seed: int, tens: int, with_objects: bool, replace: bool, generation: int
) -> None:
    found = Loading(generation=generation, seed=1, persons=20, rows=9, objects_written=None)
    same = (generation, seed, tens) == (GENERATION, 1, 2)
    try:
        step = decide(
            found, seed=seed, persons=tens * 10, with_objects=with_objects, replace=replace
        )
    except Refused:
        assert not same
        assert not replace
        return
    assert step is not Step.FILL
    assert (step is Step.REPLACE) == (not same)


def test_pictures_left_out_once_are_written_by_the_next_load() -> None:
    def step(with_objects: bool) -> Step:
        return decide(THERE, seed=1, persons=200, with_objects=with_objects, replace=False)

    assert step(True) is Step.PICTURES
    assert step(False) is Step.NOTHING


@given(st.lists(st.text("AB0", max_size=3)), st.sets(st.text("AB0", max_size=3)))
def test_the_walk_finds_what_sets_would(references: list[str], keys: set[str]) -> None:
    found = dangling(iter(sorted(references)), iter(sorted(keys)))
    assert list(found) == [r for r in sorted(references) if r not in keys]


def test_references_in_another_order_are_refused_and_not_called_missing() -> None:
    with pytest.raises(AssertionError, match="not in order"):
        list(dangling(iter(["b", "a"]), iter(["a", "b"])))


def one(server: Loopback, database: str, query: str, user: str = "postgres") -> object:
    with psycopg.connect(server.dsn(database, user)) as conn:
        cursor = conn.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


@pytest.fixture
def fresh(server: Loopback) -> Callable[[str], str]:
    """Empty databases on the running server."""
    for database in DATABASES:
        one(
            server,
            database,
            "DROP SCHEMA IF EXISTS zaibei_catalogue CASCADE; DROP SCHEMA public CASCADE;"
            "CREATE SCHEMA public AUTHORIZATION pg_database_owner",
        )
    return server.dsn


@pytest.mark.integration
def test_a_loaded_world_is_whole_and_loading_it_again_changes_nothing(
    server: Loopback, fresh: Callable[[str], str]
) -> None:
    store = MemoryStore(clock=SimClock())
    first = load(fresh, None, store, seed=1, scale=SCALE)
    before = [facts(fresh(d)) for d in DATABASES]
    again = load(fresh, None, store, seed=1, scale=SCALE)

    assert {d.step for d in first} == {Step.FILL}
    assert {d.step for d in again} == {Step.NOTHING}
    assert [d.rows for d in first] == [d.rows for d in again]
    assert [facts(fresh(d)).tables for d in DATABASES] == [f.tables for f in before]
    assert len(list(store.list())) == World(seed=1, scale=SCALE).images
    found = check(fresh, None, [store], deep=True)
    assert found.sound
    assert all(t.references > 0 for t in (*found.links, *found.malformed))
    assert found.pictures[0].references > 0


@pytest.mark.integration
def test_the_generated_rows_are_the_rows_that_are_there(
    server: Loopback, fresh: Callable[[str], str]
) -> None:
    load(fresh, None, None, seed=1, scale=SCALE)
    world = World(seed=1, scale=SCALE)
    for database in DATABASES:
        counted = {t.name: t.rows for t in facts(fresh(database)).tables}
        for table in world.tables(database):
            assert counted[f"public.{table.name}"] == sum(1 for _ in table.rows())


@pytest.mark.integration
def test_another_world_is_refused_with_everything_left_as_it_was(
    server: Loopback, fresh: Callable[[str], str]
) -> None:
    load(fresh, None, None, seed=1, scale=SCALE)
    before = [facts(fresh(d)).tables for d in DATABASES]
    with pytest.raises(Refused, match="another world is there: seed 1") as refused:
        load(fresh, None, None, seed=2, scale=SCALE)
    assert "--replace" in refused.value.hints[0]
    assert [facts(fresh(d)).tables for d in DATABASES] == before

    load(fresh, None, None, seed=2, scale=SCALE, replace=True)
    assert [facts(fresh(d)).tables for d in DATABASES] != before
    assert check(fresh, None).sound


class Broken:
    """A store that dies in the middle."""

    def __init__(self, after: int) -> None:
        self.left = after

    def create(self, key: str, data: bytes) -> str | None:
        self.left -= 1
        if self.left < 0:
            raise Unreachable("site-a/geo-images did not answer")
        return None


@pytest.mark.integration
def test_a_load_that_broke_off_leaves_a_database_empty_and_the_next_one_finishes(
    server: Loopback, fresh: Callable[[str], str]
) -> None:
    with pytest.raises(Unreachable):
        load(fresh, None, Broken(after=1), seed=1, scale=0.02)
    assert len(facts(fresh("population")).tables) > 1, "committed before the store broke"
    assert facts(fresh("geospatial")).tables == (), "rows must not name pictures that are not there"

    done = load(fresh, None, MemoryStore(clock=SimClock()), seed=1, scale=0.02)
    assert [d.step for d in done[:3]] == [Step.NOTHING, Step.NOTHING, Step.FILL]


@pytest.mark.integration
def test_pictures_of_an_earlier_try_are_taken_and_strange_bytes_under_their_name_are_damage(
    server: Loopback, fresh: Callable[[str], str]
) -> None:
    key, data = World(seed=1, scale=SCALE).image(0)
    store = MemoryStore(clock=SimClock())
    store.create(key, b"strange")
    with pytest.raises(Damage, match="other bytes"):
        load(fresh, None, store, seed=1, scale=SCALE)
    assert facts(fresh("geospatial")).tables == ()

    store = MemoryStore(clock=SimClock())
    store.create(key, data)
    assert load(fresh, None, store, seed=1, scale=SCALE)[2].objects_written is True


@pytest.mark.integration
def test_a_planted_dangling_reference_is_found_and_its_birth_date_is_not_shown(
    server: Loopback, fresh: Callable[[str], str]
) -> None:
    load(fresh, None, None, seed=1, scale=SCALE)
    one(
        server,
        "economy",
        "UPDATE tax_payment SET credit_code = '919900000000000007' WHERE receipt ="
        " (SELECT min(receipt) FROM tax_payment)",
    )
    one(
        server,
        "health_code",
        "UPDATE person_code SET identity_number = '990000190001010018'"
        " WHERE person_id = 'p000000003'",
    )
    found = check(fresh, None)
    bad = {t.name: t for t in found.links if t.dangling}
    assert not found.sound
    assert set(bad) == {
        "economy.tax_payment.credit_code -> legal_entity.entity",
        "health_code.person_code.identity_number -> population.person",
    }
    assert [t.dangling for t in bad.values()] == [1, 1]
    assert all("19000101" not in e for t in bad.values() for e in t.examples)


@pytest.mark.integration
def test_a_lost_or_changed_picture_is_found(server: Loopback, fresh: Callable[[str], str]) -> None:
    store = MemoryStore(clock=SimClock())
    load(fresh, None, store, seed=1, scale=0.02)
    lost, changed = [s.key for s in store.list()][:2]
    store.remove(lost)
    store.corrupt(changed, b"\x00" * len(World(seed=1, scale=0.02).image(0)[1]))
    found = check(fresh, None, [store], deep=True)
    assert found.pictures[0].dangling == 2
    assert sorted(found.pictures[0].examples) == sorted([lost, changed])


@pytest.mark.integration
def test_pictures_nobody_looked_at_are_unknown(
    server: Loopback, fresh: Callable[[str], str]
) -> None:
    load(fresh, None, None, seed=1, scale=SCALE)
    assert check(fresh, None).pictures == ()


@pytest.mark.integration
def test_a_checksum_does_not_depend_on_order_and_sees_one_changed_cell(
    server: Loopback, fresh: Callable[[str], str]
) -> None:
    load(fresh, None, None, seed=1, scale=SCALE)
    before = facts(fresh("population")).tables
    one(
        server,
        "population",
        "CREATE TABLE again AS SELECT * FROM person ORDER BY name DESC",
        "zaibei_loader",
    )
    copy = {t.name: t for t in facts(fresh("population")).tables}
    assert copy["public.again"].checksum == copy["public.person"].checksum
    one(
        server,
        "population",
        "DROP TABLE again; UPDATE person SET name = name || '改'"
        " WHERE identity_number = (SELECT min(identity_number) FROM person)",
    )
    after = facts(fresh("population")).tables
    changed = [a.name for a, b in zip(after, before, strict=True) if a != b]
    assert changed == ["public.person"]


@pytest.mark.integration
def test_the_service_reads_and_adds_but_takes_nothing_away(
    server: Loopback, fresh: Callable[[str], str]
) -> None:
    load(fresh, None, None, seed=1, scale=0.0001)
    for database, statement in (
        ("health_code", "DELETE FROM sample_registration"),
        ("health_code", "UPDATE sample_registration SET epoch = 0"),
        ("health_code", "TRUNCATE sample_registration"),
        ("health_code", "SELECT * FROM person_code"),
        ("health_code", "UPDATE code_state SET colour = 'green'"),
        ("population", "SELECT * FROM public.person"),
        ("population", "SELECT * FROM public.biometric"),
        ("legal_entity", "SELECT * FROM public.entity"),
    ):
        with (
            psycopg.connect(server.dsn(database, "zaibei_app")) as conn,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            conn.execute(statement.encode())


@pytest.mark.integration
def test_every_table_has_a_grade_and_an_owner(
    server: Loopback, fresh: Callable[[str], str]
) -> None:
    load(fresh, None, None, seed=1, scale=0.0001)
    for database in DATABASES:
        tables = {t.name for t in facts(fresh(database)).tables} - {"zaibei_catalogue.asset"}
        with psycopg.connect(fresh(database)) as conn:
            named = conn.execute("SELECT name FROM zaibei_catalogue.asset").fetchall()
        assert {n for (n,) in named} == tables


@pytest.mark.integration
def test_tables_of_somebody_else_are_not_touched(
    server: Loopback, fresh: Callable[[str], str]
) -> None:
    one(server, "economy", "CREATE TABLE public.theirs ()")
    with pytest.raises(Refused, match="economy has tables that this loader did not make"):
        load(fresh, None, None, seed=1, scale=SCALE)
    assert facts(fresh("population")).tables == (), "refused before anything was filled"
