import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover.ledger.format import Intent, Kind, Op, Outcome
from failover.ledger.reader import Ending, Reader
from failover.ledger.writer import Ledger
from failover.verdict import Ruling, ledger_whole
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Damage, Invalid, Usage

CLOCK = SystemClock()


def intent(seq: int, client: str = "pool0") -> Intent:
    return Intent(
        op_id=f"d-{client}-{seq}",
        kind=Kind.ROW,
        client=client,
        seq=seq,
        payload_sha256="ab" * 32,
        intended_s=100.0 + seq,
    )


def answer(of: Intent, outcome: Outcome = Outcome.OK) -> Op:
    return of.done(
        sent_s=of.intended_s + 0.001,
        completed_s=of.intended_s + 0.005,
        outcome=outcome,
        door="site-a",
        epoch=3,
        copies=2,
        detail="201 成功",
    )


def written(path: Path, n: int) -> list[Op]:
    """One batch for each record: the tests below cut between seals."""
    with Ledger.create(path, drill="d", clock=CLOCK) as ledger:
        for seq in range(n):
            ledger.intend(intent(seq)).result()
            ledger.complete(answer(intent(seq))).result()
    return [answer(intent(seq)) for seq in range(n)]


def read(path: Path) -> tuple[list[Op], Ending]:
    reader = Reader(path)
    ops = list(reader.ops())
    return ops, reader.ending


def test_what_was_written_is_read_back_and_sha256sum_agrees(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    ops = written(path, 5)

    back, ending = read(path)

    assert back == ops
    assert ending.closed
    assert ledger_whole(ending).passed
    done = subprocess.run(
        ["sha256sum", "-c", "x.jsonl.sha256"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert ending.sha256 in Path(f"{path}.sha256").read_text()


def test_the_header_tells_whose_clock_the_times_are_of(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    before = CLOCK.monotonic()
    with Ledger.create(path, drill="d", clock=CLOCK, facts={"seed": 7}):
        pass

    header = Reader(path).header

    assert header.clock == "CLOCK_MONOTONIC"
    assert before <= header.monotonic_s <= CLOCK.monotonic()
    assert header.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert header.facts == {"seed": 7}


def test_evidence_is_not_written_over(tmp_path: Path) -> None:
    written(tmp_path / "x.jsonl", 1)
    with pytest.raises(Usage, match="there already"):
        Ledger.create(tmp_path / "x.jsonl", drill="d", clock=CLOCK)


def test_an_intent_without_an_answer_is_info_not_silence(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with Ledger.create(path, drill="d", clock=CLOCK) as ledger:
        ledger.intend(intent(0))
        ledger.intend(intent(1))
        ledger.complete(answer(intent(1)))
        ledger.intend(intent(2))
        ledger.withdraw(intent(2).op_id)
        ledger.note("fault", at_s=101.5, detail="power of site-a")

    ops, ending = read(path)

    assert {op.op_id: op.outcome for op in ops} == {"d-pool0-1": "ok", "d-pool0-0": "info"}
    assert (ending.unanswered, ending.withdrawn) == (1, 1)
    assert [(n.t_s, n.what) for n in ending.notes] == [(101.5, "fault")]
    result = ledger_whole(ending)
    assert not result.passed
    assert result.if_failed is Ruling.INVALID


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(min_value=0, max_value=10_000))
def test_a_file_cut_anywhere_is_read_and_never_invents_an_acknowledgement(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    where = tmp_path_factory.mktemp("cut")
    path = where / "x.jsonl"
    ops = written(path, 4)
    whole = path.read_bytes()
    header_seal = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    at = header_seal + cut % (len(whole) - header_seal)
    path.write_bytes(whole[:at])

    back, ending = read(path)

    answered = [op for op in back if op.outcome is Outcome.OK]
    assert answered == ops[: len(answered)]
    assert all(op.outcome is Outcome.INFO for op in back[len(answered) :])
    assert not ending.closed
    # A record counts when its seal is whole, and not a byte sooner.
    sealed = whole[:at].rfind(b'{"t":"seal"')
    if whole[sealed:at].count(b"\n") == 0:
        sealed = whole[:sealed].rfind(b'{"t":"seal"')
    counted = whole[:sealed].count(b'"t":"done"')
    assert len(answered) == counted


def test_a_tail_of_zeros_after_a_power_loss_is_torn_not_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    written(path, 2)
    whole = path.read_bytes()
    last = whole.rfind(b'{"t":"close"')
    path.write_bytes(whole[:last] + bytes(len(whole) - last))

    ops, ending = read(path)

    assert len(ops) == 2
    assert ending.torn_bytes == len(whole) - last
    assert not ledger_whole(ending).passed


def test_a_spoilt_last_batch_whose_seal_got_to_the_disk_is_torn(tmp_path: Path) -> None:
    # Pages of one write reach the disk in any order: the seal may be there and its records not.
    path = tmp_path / "x.jsonl"
    ledger = Ledger.create(path, drill="d", clock=CLOCK)
    ledger.intend(intent(0)).result()
    ledger.complete(answer(intent(0))).result()
    whole = path.read_bytes()
    at = whole.index(b'{"t":"done"')
    end = whole.index(b"\n", at)
    path.write_bytes(whole[:at] + bytes(end - at) + whole[end:])

    ops, ending = read(path)

    assert [op.outcome for op in ops] == [Outcome.INFO]
    assert ending.torn_bytes == len(whole) - at
    ledger.close()


@settings(deadline=None, max_examples=60)
@given(where=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_a_bit_changed_in_a_closed_ledger_never_reads_as_whole(
    tmp_path_factory: pytest.TempPathFactory, where: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("bit") / "x.jsonl"
    ops = written(path, 3)
    raw = bytearray(path.read_bytes())
    raw[where % len(raw)] ^= 1 << bit
    path.write_bytes(raw)

    try:
        back, ending = read(path)
    except Damage:
        return
    # What is behind the last seal but one may pass for torn. The ledger is then not whole, and
    # nothing reads as acknowledged that was not.
    assert not ledger_whole(ending).passed
    assert back[:2] == ops[:2]
    assert back[2:] == ops[2:] or back[2].outcome is Outcome.INFO


def test_a_changed_outcome_in_the_middle_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    written(path, 3)
    path.write_bytes(path.read_bytes().replace(b'"outcome":"ok"', b'"outcome":"no"', 1))
    with pytest.raises(Damage, match="changed after it was written"):
        read(path)


def test_something_else_is_not_a_ledger(tmp_path: Path) -> None:
    for content in (b"", b"hello\n", b'{"t":"header","format":"other/1"}\n'):
        path = tmp_path / "x"
        path.write_bytes(content)
        with pytest.raises(Damage, match="not a ledger"):
            Reader(path)


def test_many_clients_share_one_sync(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    ledger = Ledger.create(path, drill="d", clock=CLOCK)

    def client(name: str) -> None:
        for seq in range(50):
            ledger.intend(intent(seq, name))
            ledger.complete(answer(intent(seq, name))).result()

    threads = [threading.Thread(target=client, args=(f"c{i}",)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    cost = ledger.close().cost

    ops, ending = read(path)
    assert len({op.op_id for op in ops if op.outcome is Outcome.OK}) == 400
    assert ledger_whole(ending).passed
    assert cost.records == 802  # header and close too
    assert cost.syncs <= 402, "no more than the clients waited for"


def test_a_disk_that_failed_stays_failed_and_nothing_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    ledger = Ledger.create(path, drill="d", clock=CLOCK)
    ledger.intend(intent(0)).result()
    os.dup2(os.open("/dev/full", os.O_WRONLY), ledger._file)  # ENOSPC from here on

    with pytest.raises(Invalid, match="cannot be written"):
        ledger.complete(answer(intent(0))).result()
    with pytest.raises(Invalid, match="cannot be written"):
        ledger.intend(intent(1))

    ops, _ = read(path)
    assert [op.outcome for op in ops] == [Outcome.INFO]


_WRITER = """
import sys
from pathlib import Path
from failover.ledger.format import Intent, Kind, Outcome
from failover.ledger.writer import Ledger
from zaibei.kernel.clock import SystemClock

ledger = Ledger.create(Path(sys.argv[1]), drill="d", clock=SystemClock())
seq = 0
while True:
    intent = Intent(op_id=f"d-w-{seq}", kind=Kind.ROW, client="w", seq=seq,
                    payload_sha256="00", intended_s=float(seq))
    ledger.intend(intent).result()
    print("sent", seq, flush=True)
    if seq % 3:
        ledger.complete(intent.done(sent_s=float(seq), completed_s=float(seq),
                                    outcome=Outcome.OK, door="a")).result()
        print("ok", seq, flush=True)
    seq += 1
"""


def test_kill_9_of_the_writer_leaves_its_unacknowledged_writes_as_info(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _WRITER, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        text=True,
    )
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(100)]
    process.send_signal(signal.SIGKILL)
    said += process.stdout.readlines()  # what the pipe still held
    process.wait()
    process.stdout.close()

    ops, ending = read(path)

    outcome = {op.seq: op.outcome for op in ops}
    for line in said:
        word, _, seq = line.strip().partition(" ")
        if not line.endswith("\n"):
            continue  # cut by the kill
        if word == "ok":
            assert outcome[int(seq)] is Outcome.OK, "it was counted, so it must be there"
        elif int(seq) % 3 == 0:
            assert outcome[int(seq)] is Outcome.INFO, "it was sent, so it must not be silent"
    assert not ending.closed
    assert ending.unanswered >= 20
    assert all(json.loads(line) for line in path.read_text().splitlines()[:100])
