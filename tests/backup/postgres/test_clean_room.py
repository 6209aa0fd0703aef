"""Real data in a real room: masked before anybody gets in, joined as before, and nothing original left on disk."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from backup.mask import authorisation
from backup.mask import leak_check as proof
from backup.mask.apply import Masking, mask_room
from backup.mask.policy import RULES, Rule, Treatment
from backup.postgres.clean_room import restored
from backup.repository.repository import Repository
from backup.run import run_postgres
from infra.data.load import load
from infra.data.loopback import Loopback, postgres
from infra.data.numbers import why_not_credit, why_not_identity
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.progress import Silent

pytestmark = pytest.mark.integration
CLOCK = SystemClock()
KEY = bytes(range(32))
EXTRA = (
    Rule(pattern="postgres.public.customer.tel", treat=Treatment.PHONE),
    Rule(pattern="postgres.public.customer.who", treat=Treatment.NAME),
    Rule(pattern="postgres.public.customer.note", treat=Treatment.PLAIN),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with postgres() as one:
        load(one.dsn, None, None, seed=7, scale=0.003)
        with psycopg.connect(one.dsn("postgres", user="postgres")) as connection:
            connection.execute("CREATE TABLE customer (who text, tel bigint, note text)")
            connection.execute(
                "INSERT INTO customer VALUES ('欧阳明', 13812345678, '会员'), ('Ann', 15900000001, NULL)"
            )
        yield one


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="zbcr-", dir="/var/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def vault(server: Loopback, make: Callable[..., Repository]) -> Repository:
    made = make()
    dsn = server.dsn("postgres", user="postgres")
    assert run_postgres(dsn, None, [made], CLOCK, None, Silent()).complete
    return made


def column(dsn: str, query: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute(query.encode()).fetchall()]


PERSONS = "SELECT identity_number FROM person ORDER BY 1"
JOINED = """
SELECT p.identity_number || p.name || p.birth_date || p.sex FROM person p
WHERE to_char(p.birth_date, 'YYYYMMDD') = substr(p.identity_number, 7, 8)
AND (substr(p.identity_number, 17, 1)::int % 2 = 1) = (p.sex = '男')
"""


def test_a_masked_room_keeps_forms_and_joins_and_nothing_of_the_originals(
    vault: Repository, server: Loopback, directory: Path
) -> None:
    persons = column(server.dsn("population"), PERSONS)
    names = set(column(server.dsn("population"), "SELECT name FROM person"))
    insured = "SELECT DISTINCT identity_number FROM insurance_payment"
    paying = set(column(server.dsn("economy"), insured))
    sealed = set(column(server.dsn("population"), "SELECT encode(sealed, 'hex') FROM biometric"))

    with restored(
        vault,
        vault.find("latest"),
        workdir=directory,
        clock=CLOCK,
        progress=Silent(),
        masking=Masking(key=KEY, rules=(*EXTRA, *RULES)),
        pages=True,
    ) as room:
        masked = column(room.dsn("population"), PERSONS)
        assert len(masked) == len(persons) and not set(masked) & set(persons)
        assert [why_not_identity(m) for m in masked if why_not_identity(m)] == []
        # A birth date and a sex say the same as the number, in every row.
        assert len(column(room.dsn("population"), JOINED)) == len(persons)
        assert not names & set(column(room.dsn("population"), "SELECT name FROM person"))
        # Across databases: who paid is somebody, and as many as before.
        still = set(column(room.dsn("economy"), insured))
        assert still <= set(masked) and len(still) == len(paying)
        entities = set(column(room.dsn("legal_entity"), "SELECT credit_code FROM entity"))
        assert set(column(room.dsn("economy"), "SELECT credit_code FROM tax_payment")) <= entities
        assert [c for c in entities if why_not_credit(c)] == []
        assert not sealed & set(
            column(room.dsn("population"), "SELECT encode(sealed, 'hex') FROM biometric")
        )
        assert column(room.dsn(), "SELECT note FROM customer WHERE note IS NOT NULL") == ["会员"]
        assert all(
            t // 10**9 in (10, 11, 12) for t in column(room.dsn(), "SELECT tel FROM customer")
        )
        assert room.masked is not None and room.masked.files_read is True
        assert not (room.directory / "archive").exists()
        raw = b"".join(p.read_bytes() for p in room.data.rglob("*") if p.is_file())
        assert [p for p in persons[::15] if p.encode() in raw] == [], (
            "no dead row, log or statistic"
        )
        assert "trust" in (room.directory / "room_hba.conf").read_text(), "open now"
        assert all(c.holds for c in room.checks), room.checks


def test_a_column_that_nobody_classified_ends_it_before_anything_is_changed(
    server: Loopback, directory: Path
) -> None:
    before = column(server.dsn("population"), PERSONS)

    with pytest.raises(Refused, match=r"postgres\.public\.customer\.note"):
        mask_room(
            lambda database="postgres": server.dsn(database, user="postgres"),
            Masking(key=KEY),
            directory=directory,
            progress=Silent(),
        )

    assert column(server.dsn("population"), PERSONS) == before


def test_an_original_that_a_wrong_rule_leaves_is_found_and_the_room_stays_closed(
    vault: Repository, directory: Path
) -> None:
    wrong = Rule(pattern="health_code.public.person_code.identity_number", treat=Treatment.PLAIN)
    with (
        pytest.raises(Damage, match=r"number in health_code.public.person_code.*closed") as found,
        restored(
            vault,
            vault.find("latest"),
            workdir=directory,
            clock=CLOCK,
            progress=Silent(),
            masking=Masking(key=KEY, rules=(wrong, *EXTRA, *RULES)),
        ),
    ):
        pytest.fail("it was opened")
    assert "99000" not in found.value.message, "where, never what"


def test_leave_for_one_table_shows_it_and_never_a_biometric(
    vault: Repository, server: Loopback, directory: Path
) -> None:
    one = vault.find("latest")
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    leave = authorisation.sign(
        one,
        repository=vault.config.repository,
        person="张三",
        purpose="case 12",
        key=key,
        tables=["population.public.person", "population.public.biometric"],
        since=CLOCK.now() - timedelta(minutes=1),
        until=CLOCK.now() + timedelta(hours=1),
    )
    checked = authorisation.checked(
        leave, one, repository=vault.config.repository, trusted=[pem], now=CLOCK.now()
    )
    sealed = set(column(server.dsn("population"), "SELECT encode(sealed, 'hex') FROM biometric"))

    with restored(
        vault,
        one,
        workdir=directory,
        clock=CLOCK,
        progress=Silent(),
        masking=Masking(key=KEY, rules=(*EXTRA, *RULES), authorisation=checked),
    ) as room:
        here = "SELECT encode(sealed, 'hex') FROM biometric"
        assert column(room.dsn("population"), PERSONS) == column(server.dsn("population"), PERSONS)
        assert not sealed & set(column(room.dsn("population"), here))
        assert room.masked is not None and room.masked.files_read is None
        relatives = column(room.dsn("population"), "SELECT identity_number FROM family_relation")
        assert not set(relatives) & set(column(room.dsn("population"), PERSONS)), (
            "leave is for one table; the others are masked"
        )


WHO, TEL = "欧阳明", "13812345678"
CLIENT = Masking(
    key=KEY,
    rules=(
        Rule(pattern="*.client*.tel", treat=Treatment.PHONE),
        Rule(pattern="*.client*.who", treat=Treatment.NAME),
        Rule(pattern="*.gone.*", treat=Treatment.PLAIN),
    ),
)


@pytest.fixture
def derived() -> Iterator[Loopback]:
    """Partitions, samples of them in their parent, and views over views."""
    with postgres() as one:
        with psycopg.connect(one.dsn("postgres", user="postgres"), autocommit=True) as connection:
            for statement in (
                b"CREATE TABLE client (who text, tel text, n integer) PARTITION BY HASH (n)",
                b"CREATE TABLE client_0 PARTITION OF client FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
                b"CREATE TABLE client_1 PARTITION OF client FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
                f"INSERT INTO client SELECT '{WHO}', '{TEL}', n FROM generate_series(1, 50) n".encode(),
                b"CREATE STATISTICS both_known (mcv) ON who, tel FROM client",
                b"CREATE INDEX ON client ((tel || '/'))",
                b"CREATE TABLE gone AS SELECT who, tel FROM client",
            ):
                connection.execute(statement)
        yield one


def run_all(server: Loopback, *statements: str) -> None:
    with psycopg.connect(server.dsn("postgres", user="postgres"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def mask_derived(server: Loopback, directory: Path) -> None:
    mask_room(
        lambda database="postgres": server.dsn(database, user="postgres"),
        CLIENT,
        directory=directory,
        progress=Silent(),
    )


def sampled(server: Loopback) -> str:
    dsn = server.dsn("postgres", user="postgres")
    stats = "coalesce(most_common_vals::text, '') || coalesce(histogram_bounds::text, '')"
    out = column(dsn, f"SELECT {stats} FROM pg_stats WHERE schemaname = 'public'")
    out += column(dsn, "SELECT most_common_vals::text FROM pg_stats_ext")
    return " ".join(v for v in out if v)


def test_a_view_over_a_view_and_the_samples_of_a_parent_keep_nobody(
    derived: Loopback, directory: Path
) -> None:
    run_all(
        derived,
        "CREATE MATERIALIZED VIEW first AS SELECT who, tel FROM client",
        "CREATE VIEW between AS SELECT who || '' AS who, tel FROM first",
        "CREATE MATERIALIZED VIEW a_second AS SELECT who, tel FROM between",
        "CREATE MATERIALIZED VIEW a_first AS SELECT who, tel FROM a_second",
        "CREATE MATERIALIZED VIEW unfilled AS SELECT who, tel FROM client",
        # By now the one that comes first of all stands last in the catalogue.
        "REFRESH MATERIALIZED VIEW a_second",
        "REFRESH MATERIALIZED VIEW first",
        "ANALYZE",
        "REFRESH MATERIALIZED VIEW unfilled WITH NO DATA",
        "DELETE FROM gone",
    )
    assert TEL in sampled(derived) and WHO in sampled(derived), "there was something to lose"

    mask_derived(derived, directory)

    dsn = derived.dsn("postgres", user="postgres")
    for view in ("first", "a_second", "a_first"):
        assert column(dsn, f"SELECT DISTINCT who FROM {view}") == column(
            dsn, "SELECT DISTINCT who FROM client"
        )
        assert WHO not in column(dsn, f"SELECT who FROM {view}"), view
        assert TEL not in column(dsn, f"SELECT tel FROM {view}"), view
    assert TEL not in sampled(derived) and WHO not in sampled(derived)
    assert "10" in sampled(derived) or "11" in sampled(derived) or "12" in sampled(derived), "anew"


def test_a_view_that_hides_what_it_reads_is_searched_and_keeps_the_room_closed(
    derived: Loopback, directory: Path
) -> None:
    run_all(
        derived,
        "CREATE MATERIALIZED VIEW read_by_text AS SELECT who FROM client",
        "CREATE FUNCTION hidden() RETURNS SETOF text LANGUAGE sql AS 'SELECT who FROM public.read_by_text'",
        "CREATE MATERIALIZED VIEW a_hiding AS SELECT * FROM hidden() AS who",
        "DELETE FROM gone",
    )
    with pytest.raises(Damage, match=r"name in postgres\.public\.a_hiding.*closed"):
        mask_derived(derived, directory)


def test_samples_are_looked_for_in_views_parents_indexes_and_groups_of_columns(
    derived: Loopback,
) -> None:
    run_all(derived, "CREATE MATERIALIZED VIEW seen AS SELECT who FROM client", "ANALYZE")
    with psycopg.connect(derived.dsn("postgres", user="postgres")) as connection:
        there = {r.name: r.oid for r in proof.relations(connection)}
        assert set(there) == {"client", "client_0", "client_1", "gone", "seen"}
        assert WHO in " ".join(proof.statistics(connection, [there["seen"]]))
        of_parent = "\n".join(proof.statistics(connection, [there["client"]]))
        assert f'{{"{WHO}",{TEL}}}' in of_parent or f"{{{WHO},{TEL}}}" in of_parent, "the group"
        assert f"{TEL}/" in "\n".join(proof.statistics(connection, [there["client_0"]])), (
            "the index"
        )
        assert TEL not in "\n".join(proof.statistics(connection, []))
