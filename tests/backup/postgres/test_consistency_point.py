"""One name for a database's moment and a bucket's version set: rows and objects held against each other."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.format import point as points
from backup.format.point import Bound, NamedMoment, Point, TableFacts
from backup.postgres import consistency_point, dangling, point_checks
from backup.postgres.clean_room import restored
from backup.postgres.dangling import Named, Reference
from backup.postgres.recovery_target import Recovered, Target
from backup.postgres.table_facts import table_facts
from backup.postgres.wal_receiver import WalArchiver
from backup.repository.repository import Repository
from backup.run import run_bucket, run_point, run_postgres
from infra.data.load import load
from infra.data.loopback import postgres
from infra.objectstore.memory import MemoryStore
from infra.postgres.server import databases
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Damage, Unreachable, Usage
from zaibei.kernel.progress import Silent

CLOCK = SystemClock()
REFERENCE = Reference(database="d", sql="", source="b")
KEYS = st.dictionaries(st.sampled_from("abcdefgh人Ａ"), st.integers(1, 3), max_size=8)


@given(rows=KEYS, objects=KEYS, twice=st.booleans())
def test_what_dangles_is_what_two_sets_would_say(
    rows: dict[str, int], objects: dict[str, int], twice: bool
) -> None:
    ordered = sorted(rows, key=str.encode)
    found = dangling.compare(
        REFERENCE,
        [Named(key=k, size_bytes=rows[k]) for k in ordered for _ in range(1 + twice)],
        [(Named(key=k, size_bytes=objects[k]), str) for k in sorted(objects, key=str.encode)],
        deep=False,
    )
    assert set(found.lacking_keys) == rows.keys() - objects.keys()
    assert set(found.unnamed_keys) == objects.keys() - rows.keys()
    assert set(found.differing_keys) == {
        k for k in rows.keys() & objects.keys() if rows[k] != objects[k]
    }
    assert (found.rows, found.objects) == (len(rows) * (1 + twice), len(objects))
    assert found.holds == (not found.lacking and not found.differing)


def test_contents_count_only_when_they_were_read() -> None:
    rows = [Named(key="a", sha256="11")]
    objects = [(Named(key="a", size_bytes=1), lambda: "22")]
    assert dangling.compare(REFERENCE, rows, objects, deep=False).holds
    assert not dangling.compare(REFERENCE, rows, objects, deep=True).holds


def test_a_side_that_is_not_in_order_is_damage_and_not_a_wrong_answer() -> None:
    with pytest.raises(Damage, match="not in order"):
        dangling.compare(REFERENCE, [Named(key="b"), Named(key="a")], [], deep=False)
    objects = [(Named(key=k), str) for k in "ba"]
    with pytest.raises(Damage, match="not in order"):
        dangling.compare(REFERENCE, [], objects, deep=False)


def mark(*, quiet: bool) -> points.NamedMoment:
    return points.NamedMoment(
        name="p",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        system=7,
        timeline=1,
        lsn="0/3000100",
        quiet=quiet,
        counted={"d": {"public.t": TableFacts(rows=1, checksum="x")}},
    )


def test_counts_that_somebody_wrote_over_prove_nothing_and_say_so() -> None:
    there = Recovered(lsn="0/3000100", timeline=2, promoted=True, last_commit=None, stopped=None)
    same = {"d": {"public.t": TableFacts(rows=1, checksum="x")}}
    other = {"d": {"public.t": TableFacts(rows=2, checksum="y"), "public.u": same["d"]["public.t"]}}

    def said(quiet: bool, now: points.Counts) -> list[bool | None]:
        return [c.passed for c in point_checks.checks(mark(quiet=quiet), there, now)]

    assert said(True, same) == [True, True]
    assert said(False, same) == [True, True]
    assert said(True, other) == [True, False]
    assert said(False, other) == [True, None]
    elsewhere = Recovered(
        lsn="0/3000080", timeline=2, promoted=True, last_commit=None, stopped=None
    )
    assert not point_checks.checks(mark(quiet=True), elsewhere, same)[0].holds


def test_names_that_postgresql_would_cut_or_quote_are_refused_before_it_is_asked() -> None:
    for wrong in ("", "a" * 64, "人" * 22, "it's", "a\nb"):
        with pytest.raises(Usage, match="not a name"):
            consistency_point.mark("host=/nowhere", None, name=wrong, clock=CLOCK)


def test_references_from_a_file_have_a_form(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('[{"database": "d", "sql": "SELECT key FROM t", "source": "b"}]')
    assert dangling.parse(path)[0].source == "b"
    for wrong in (
        "{}",
        "[]",
        '[{"database": "d"}]',
        '[{"database":"d","sql":"","source":"b","x":1}]',
        "[",
    ):
        path.write_text(wrong)
        with pytest.raises(Usage):
            dangling.parse(path)


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="zbcp-", dir="/var/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@pytest.mark.integration
def test_a_point_brings_back_rows_and_objects_that_belong_together_or_names_those_that_do_not(
    directory: Path, make: Callable[..., Repository]
) -> None:
    vaults = [make("site-b"), make("site-c")]
    bucket = MemoryStore(clock=CLOCK, name="site-a/geo-images")
    with ExitStack() as undo:
        server = undo.enter_context(postgres())
        load(server.dsn, None, bucket, seed=7, scale=0.02)
        dsn = server.dsn("postgres", user="postgres")
        wal = WalArchiver(
            conninfo=dsn, password=None, repositories=vaults, spool=directory / "spool", clock=CLOCK
        )
        undo.enter_context(wal)
        stop = threading.Event()
        thread = threading.Thread(target=wal.run, args=(stop,))
        thread.start()
        undo.callback(thread.join, 60)
        undo.callback(stop.set)
        with pytest.raises(Unreachable, match="nowhere") as told:
            consistency_point.mark(f"{dsn} dbname=nowhere", None, name="too-early", clock=CLOCK)
        assert "dbname=postgres" in told.value.hints[0]
        early = consistency_point.mark(dsn, None, name="too-early", clock=CLOCK)
        done = run_point(early, [], vaults, CLOCK, None, Silent())
        assert not done.complete and "no base backup" in done.problems[0]
        assert run_postgres(dsn, None, vaults, CLOCK, None, Silent()).complete

        def point(name: str) -> points.NamedMoment:
            one = consistency_point.mark(dsn, None, name=name, clock=CLOCK, count_rows=True)
            images = run_bucket(
                bucket, vaults, CLOCK, None, Silent(), source="site-a/geo-images", label=name
            )
            tied = run_point(one, [images], vaults, CLOCK, None, Silent())
            assert tied.complete, tied.problems
            return one

        def room(name: str) -> tuple[list[dangling.Dangling], list[bool | None]]:
            repo, _, found = point_checks.find_point(vaults[::-1], name)
            with restored(
                repo,
                point_checks.bound_snapshot(repo, found, found.base),
                workdir=directory,
                clock=CLOCK,
                progress=Silent(),
                target=Target(how="name", value=name, timeline=found.mark.timeline),
            ) as inside:
                now = {d: table_facts(inside.dsn(d)) for d in databases(inside.dsn())}
                checks = point_checks.checks(found.mark, inside.recovered, now)
                asked = dangling.answerable(found)
                loose = dangling.of_point(repo, found, inside.dsn, asked, deep=True)
            return loose, [c.passed for c in checks]

        keys = [s.key for s in bucket.list("images/")]
        point("sound")
        with pytest.raises(Usage, match="used once"):
            point_checks.unused(vaults, "sound")
        # After the point: neither the removed object nor the removed rows may matter.
        bucket.remove(keys[0])
        bucket.create("images/zz/uploaded-before-its-row", b"x")
        with psycopg.connect(server.dsn("geospatial", user="postgres")) as connection:
            connection.execute("DELETE FROM parcel")
        point("torn")

        loose, checks = room("sound")
        assert len(loose) == 1 and loose[0].holds and loose[0].contents_read
        assert (loose[0].rows, loose[0].unnamed) == (len(keys), 0)
        assert checks == [True, True]

        loose, checks = room("torn")
        assert loose[0].lacking_keys == [keys[0]] and not loose[0].holds
        assert loose[0].unnamed_keys == ["images/zz/uploaded-before-its-row"]
        assert checks == [True, True]
        with pytest.raises(Usage, match="no point"):
            point_checks.find_point(vaults, "never")


def test_contents_are_called_read_only_when_every_row_could_be_held_against_them() -> None:
    objects = [(Named(key=k, size_bytes=5), lambda: "aa") for k in ("a", "b")]
    said = dangling.compare(
        REFERENCE, [Named(key="a", sha256="aa"), Named(key="b")], objects, deep=True
    )
    assert said.holds and not said.contents_read and said.unread == 1
    assert "1 rows give no sha256" in dangling.told(said)[0]


@pytest.mark.parametrize("size", [Decimal(5), 5])
def test_a_size_is_a_number_of_bytes_whatever_type_the_database_gives_it(size: object) -> None:
    assert dangling._row({"key": "a", "size_bytes": size}).size_bytes == 5


@pytest.mark.parametrize("size", [Decimal("5.5"), "5", 5.0])
def test_a_size_that_is_none_is_refused_and_not_passed_over(size: object) -> None:
    with pytest.raises(Usage, match="no whole number of bytes"):
        dangling._row({"key": "a", "size_bytes": size})


def test_a_bucket_that_no_query_looks_into_is_told() -> None:
    point = Point(
        mark=NamedMoment(
            name="p", at=datetime(2026, 1, 1, tzinfo=UTC), system=1, timeline=1, lsn="0/1"
        ),
        base=Bound(sequence=1, digest="", kind="postgres", source=""),
        bound=tuple(
            Bound(sequence=n, digest="", kind="bucket", source=source)
            for n, source in enumerate(("site-a/geo-images", "site-a/contracts"), 2)
        ),
    )
    asked = dangling.answerable(point)
    assert dangling.unasked(point, asked) == ("site-a/contracts",)
