import hashlib
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover.checker import NAMED_MAX, Findings, check
from failover.ledger.format import Kind, Op, Outcome
from zaibei.kernel.errors import Damage


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def op(seq: int, outcome: Outcome = Outcome.OK, **facts: Any) -> Op:
    sent = facts.pop("sent", float(seq))
    return Op(
        **{
            "op_id": f"d-c-{seq:04d}",
            "kind": Kind.ROW,
            "client": "c",
            "seq": seq,
            "payload_sha256": sha(str(seq)),
            "intended_s": sent,
            "sent_s": sent,
            "completed_s": facts.pop("completed", sent + 0.5),
            "outcome": outcome,
            "door": "site-a",
            "epoch": 1 if outcome is Outcome.OK else None,
            **facts,
        }
    )


def row(seq: int, epoch: int = 1) -> tuple[str, str, int]:
    return f"d-c-{seq:04d}", sha(str(seq)), epoch


def found(ops: list[Op], rows: list[tuple[str, str, int]]) -> Findings:
    return check(ops, rows, None, prefix="d-")


def test_an_acknowledged_write_that_is_absent_is_lost_and_named() -> None:
    f = found([op(1), op(2), op(3)], [row(1), row(3)])
    assert (f.lost, f.rows.ok, f.rows.present) == (1, 3, 2)
    assert f.examples["lost"] == ("d-c-0002",)


def test_a_write_nobody_knows_about_is_never_lost() -> None:
    f = found([op(1, Outcome.INFO), op(2, Outcome.INFO)], [row(2)])
    assert f.lost == f.resurrected == 0
    assert (f.rows.info, f.rows.info_present) == (2, 1)


def test_a_refused_write_that_is_there_has_risen_again() -> None:
    f = found([op(1, Outcome.FAIL), op(2, Outcome.FAIL)], [row(2)])
    assert f.resurrected == 1
    assert f.examples["resurrected"] == ("d-c-0002",)


def test_other_bytes_are_corruption_also_when_the_answer_was_lost() -> None:
    f = found([op(1), op(2, Outcome.INFO)], [("d-c-0001", sha("x"), 1), ("d-c-0002", sha("y"), 1)])
    assert (f.corrupted, f.lost) == (2, 0)


def test_a_row_without_a_digest_is_corrupted_not_equal() -> None:
    rows: list[Any] = [("d-c-0001", None, 1)]
    assert found([op(1)], rows).corrupted == 1


def test_what_nobody_attempted_is_a_phantom_but_other_drills_are_left_alone() -> None:
    f = found([op(1)], [row(1), row(9), ("e-c-0001", sha("e"), 1)])
    assert f.phantoms == 1
    assert f.examples["phantoms"] == ("d-c-0009",)
    assert f.rows.present == 2


def test_a_row_that_is_there_twice_is_a_duplicate_and_its_wrong_bytes_are_seen() -> None:
    good, bad = row(1), ("d-c-0001", sha("x"), 1)
    for rows in ([good, bad], [bad, good]):
        f = found([op(1)], rows)
        assert (f.duplicates, f.corrupted, f.lost) == (1, 1, 0)
    assert found([op(1)], [good, good, good]).duplicates == 2


def test_what_was_not_read_back_is_not_known_to_be_lost() -> None:
    ops = [op(1), op(2, kind=Kind.OBJECT, epoch=None)]
    f = check(ops, [row(1)], None, prefix="d-")
    assert f.unread == (Kind.OBJECT,)
    assert f.lost == 0
    read = check(ops, [row(1)], [], prefix="d-")
    assert read.unread == ()
    assert (read.lost, read.objects.lost) == (1, 1)


def test_rows_and_objects_do_not_stand_in_for_each_other() -> None:
    ops = [op(1), op(2, kind=Kind.OBJECT, epoch=None)]
    f = check(ops, [row(2)], [("d-c-0001", sha("1"))], prefix="d-")
    assert (f.rows.lost, f.objects.lost, f.rows.phantoms, f.objects.phantoms) == (1, 1, 1, 1)


def test_an_id_used_twice_makes_the_ledger_worthless() -> None:
    with pytest.raises(Damage, match="used again"):
        found([op(1), op(1)], [row(1)])


def test_only_some_ids_are_named_and_all_are_counted() -> None:
    f = found([op(i) for i in range(100)], [])
    assert f.lost == 100
    assert len(f.examples["lost"]) == NAMED_MAX


# -- epochs ------------------------------------------------------------------------------------


def test_two_writers_at_once_are_seen_even_when_nothing_is_lost() -> None:
    ops = [
        op(1, sent=0.0, epoch=1),
        op(2, sent=1.0, completed=1.1, epoch=2),
        op(3, sent=1.2, completed=1.5, epoch=1),  # did not exist when epoch 2 acknowledged
    ]
    f = found(ops, [row(1), row(2, 2), row(3)])
    assert f.lost == 0
    assert f.overlap == 1
    assert f.overlap_s == pytest.approx(0.4)
    assert f.examples["overlap"] == ("d-c-0003",)


def test_a_slow_answer_of_the_old_epoch_is_no_split_brain() -> None:
    ops = [
        op(1, sent=0.9, completed=2.0, epoch=1),  # sent before the change, answered after it
        op(2, sent=1.0, completed=1.1, epoch=2),
    ]
    assert found(ops, [row(1), row(2, 2)]).overlap == 0


def test_a_write_applied_by_the_old_and_confirmed_by_the_new_is_told() -> None:
    f = found([op(1, epoch=2)], [row(1, epoch=1)])
    assert (f.other_epoch, f.overlap, f.lost) == (1, 0, 0)


def test_each_epoch_has_its_certain_times() -> None:
    f = found([op(1, epoch=1), op(2, epoch=1), op(5, epoch=2)], [])
    assert [(e.epoch, e.writes) for e in f.epochs] == [(1, 2), (2, 1)]
    assert (f.epochs[0].first_sent_s, f.epochs[0].last_completed_s) == (1.0, 2.5)


# -- against a model ---------------------------------------------------------------------------

_TIMES = st.integers(min_value=0, max_value=20).map(float)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Op], list[tuple[str, str, int]]]:
    ops = []
    for seq in range(draw(st.integers(min_value=0, max_value=12))):
        sent = draw(_TIMES)
        outcome = draw(st.sampled_from(Outcome))
        ops.append(
            op(
                seq,
                outcome,
                sent=sent,
                completed=sent + draw(st.integers(min_value=0, max_value=5)),
                epoch=draw(st.integers(min_value=1, max_value=3))
                if outcome is Outcome.OK
                else None,
            )
        )
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(min_value=0, max_value=14).map(lambda i: f"d-c-{i:04d}"),
                st.integers(min_value=0, max_value=14).map(lambda i: sha(str(i))),
                st.integers(min_value=1, max_value=3),
            )
            | st.integers(min_value=0, max_value=14).map(row),
            max_size=20,
        )
    )
    return ops, rows


@settings(deadline=None, max_examples=200)
@given(history=histories())
def test_the_checker_agrees_with_the_definitions_written_as_loops(
    history: tuple[list[Op], list[tuple[str, str, int]]],
) -> None:
    ops, rows = history
    f = check(iter(ops), iter(rows), None, prefix="d-")

    there: dict[str, list[str]] = {}
    for i, digest, _ in rows:
        there.setdefault(i, []).append(digest)
    ok = [o for o in ops if o.outcome is Outcome.OK]
    lost = [o for o in ok if o.op_id not in there]
    changed = [
        o
        for o in ops
        if o.outcome is not Outcome.FAIL
        and any(digest != o.payload_sha256 for digest in there.get(o.op_id, []))
    ]
    gone = {o.op_id for o in lost} | {o.op_id for o in changed}
    assert f.lost == len(lost)
    assert f.corrupted == len(changed)
    assert f.resurrected == sum(o.outcome is Outcome.FAIL and o.op_id in there for o in ops)
    assert f.phantoms == len(there.keys() - {o.op_id for o in ops})
    assert f.duplicates == sum(len(d) - 1 for d in there.values())
    assert f.rows.attempted == len(ops)
    assert Counter(o.outcome for o in ops) == Counter(
        {Outcome.OK: f.rows.ok, Outcome.FAIL: f.rows.fail, Outcome.INFO: f.rows.info}
    )
    overlapping = {
        old.op_id
        for old in ok
        for new in ok
        if new.epoch > old.epoch and old.sent_s > new.completed_s  # type: ignore[operator]
    }
    assert f.overlap == len(overlapping)
    assert (f.overlap_s > 0) == (f.overlap > 0)
    safe = [
        o.completed_s
        for o in ok
        if o.op_id not in gone
        and all(e.op_id not in gone for e in ok if e.completed_s <= o.completed_s)
    ]
    assert f.newest_safe_s == max(safe, default=None)


def test_memory_does_not_grow_with_the_drill() -> None:
    def ops(n: int) -> Iterator[Op]:
        return (op(i) for i in range(n))

    n = 16_000
    tracemalloc.start()
    f = check(ops(n), (row(i) for i in range(n)), None, prefix="d-")
    _, most = tracemalloc.get_traced_memory()
    everything = list(ops(n))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (f.lost, f.rows.ok, len(everything)) == (0, n, n)
    assert most < held / 5
