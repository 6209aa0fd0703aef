"""A small log with a drill in it, the pack made from it, and a forger who holds the keys."""

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from zaibei.evidence import (
    Entry,
    Evidence,
    Findings,
    Kind,
    Statement,
    Subject,
    Witness,
    dsse,
    keys,
    note,
    pack,
    packing,
    statement,
    tree,
    verify,
)
from zaibei.kernel.clock import SimClock

DRILL = "drill-20260101T000000Z-7k2m9p"
OUTCOME = 2  # index of the outcome in the small log
SCRIPT = Path(packing.__file__).parent / "packed" / "verify.sh"


@dataclass
class Desk:
    """Where evidence is made: a log, two witnesses, a folder of artefacts."""

    root: Path
    clock: SimClock
    evidence: Evidence
    artefacts: Path

    def pack(self, *entries: int, name: str = "pack") -> Path:
        return pack(
            self.evidence,
            entries=entries or (OUTCOME,),
            artefacts_dir=self.artefacts,
            dest=self.root / name,
            title="同城切换演练 / same-city failover",
        )

    def drill(self, drill_id: str, verdict: str = "PASS") -> Entry:
        self.evidence.record(Kind.INTENT, {"drill_id": drill_id, "hazard": "H1"})
        return self.evidence.record(Kind.OUTCOME, {"drill_id": drill_id, "verdict": verdict})


def open_desk(root: Path) -> Desk:
    clock = SimClock()
    first = Evidence.open(root / "evidence", clock)
    witnesses = [
        Witness(root / s, name=s, log_key=first.keys.ed25519, clock=clock)
        for s in ("site-b", "site-c")
    ]
    artefacts = root / "artefacts"
    artefacts.mkdir()
    return Desk(
        root, clock, Evidence.open(root / "evidence", clock, witnesses=witnesses), artefacts
    )


def small_log(desk: Desk) -> None:
    ledger, plan = desk.artefacts / "ledger.jsonl", desk.artefacts / "plan.json"
    ledger.write_text('{"op_id":"1","outcome":"ok"}\n' * 3)
    plan.write_text('{"scenario":"site-power-loss"}\n')
    record = desk.evidence.record
    record(Kind.SCHEDULE, {"due": [{"scenario": "site-power-loss", "by": "2026-02-01"}]})
    record(Kind.INTENT, {"drill_id": DRILL, "hazard": "H1"}, subject=[plan])
    record(
        Kind.OUTCOME,
        {"drill_id": DRILL, "verdict": "PASS", "lost": 0, "title": {"zh": "市电中断"}},
        subject=[ledger, Subject.of(plan, name="in/plan.json")],
    )
    record(Kind.INTENT, {"drill_id": "drill-2", "hazard": "H3"})
    record(Kind.ABORTED, {"drill_id": "drill-2", "reason": "the store was read-only"})


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return open_desk(tmp_path)


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, Path]:
    desk = open_desk(tmp_path_factory.mktemp("desk"))
    small_log(desk)
    return desk, desk.pack()


@pytest.fixture(scope="session")
def honest_desk(_made: tuple[Desk, Path]) -> Desk:
    return _made[0]


@pytest.fixture
def a_pack(_made: tuple[Desk, Path], tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(_made[1], tmp_path / "spoilt"))


def shell(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """The script of this version, not the one in the pack: that one is part of what is judged."""
    return subprocess.run(
        ["sh", SCRIPT, *flags, folder], capture_output=True, text=True, timeout=60, check=False
    )


Judge = Callable[[Path], str | None]


def by_python(folder: Path) -> str | None:
    """Why it is refused, or None."""
    found: Findings = verify(folder)
    return None if found.ok else found.problems[0]


def by_shell(folder: Path) -> str | None:
    done = shell(folder)
    if done.returncode == 0:
        assert done.stdout.endswith("VERIFIED\n")
        return None
    assert "NOT VERIFIED" in done.stderr
    assert done.returncode == 8
    return done.stderr.splitlines()[0]


@pytest.fixture(params=[by_python, by_shell], ids=["python", "shell"])
def why_refused(request: pytest.FixtureRequest) -> Judge:
    return request.param  # type: ignore[no-any-return]


@dataclass
class Forger:
    """Holds every private key of the log, and no witness. What it signs must still be in order."""

    desk: Desk

    def entry(self, index: int, kind: str, predicate: Mapping[str, Any]) -> Entry:
        at = self.desk.evidence
        payload = statement.encode(kind, predicate)
        key = keys.p256_private(at.directory / "keys")
        return Entry(
            index=index,
            statement_digest="",
            envelope=dsse.seal(payload, key=key, keyid=at.keys.keyid),
            payload=payload,
            statement=statement.decode(payload),
        )

    def signed(self, index: int, payload: bytes, kind: str = Kind.ACTION) -> Entry:
        """Whatever the bytes are: truly signed by the key holder. `kind`: only for the name of its folder."""
        at = self.desk.evidence
        key = keys.p256_private(at.directory / "keys")
        return Entry(
            index=index,
            statement_digest="",
            envelope=dsse.seal(payload, key=key, keyid=at.keys.keyid),
            payload=payload,
            statement=Statement(predicate_type=kind, predicate={}, subject=()),
        )

    def checkpoint(self, logged: Sequence[Entry]) -> bytes:
        leaves = [tree.leaf_hash(e.envelope) for e in logged]
        origin = self.desk.evidence.head().origin
        head = note.Checkpoint(origin=origin, size=len(leaves), root=tree.root(leaves))
        line = keys.log_line(self._log_key(), name=origin, text=head.encode())
        return note.Note(text=head.encode(), signatures=(line,)).encode()

    def pack(self, logged: Sequence[Entry], chosen: Sequence[int], folder: Path) -> Path:
        checkpoint = self.checkpoint(logged)
        public = {k: v for k, v in self.desk.evidence.keys.files().items() if k != "sm2.pub"}
        made = packing.control_files(
            logged, [logged[n] for n in chosen], checkpoint=checkpoint, public=public
        )
        for name, raw in made.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(raw)
        head = note.parse_checkpoint(note.parse(checkpoint).text)
        packing.seal(
            folder, head=head, title="t", packed_at="2026-01-01T00:00:00Z", key=self._log_key()
        )
        return folder

    def reseal(
        self, folder: Path, *, title: str = "t", packed_at: str = "2026-01-01T00:00:00Z"
    ) -> None:
        """A manifest that fits what lies in the folder now."""
        head = self.desk.evidence.head()
        packing.seal(folder, head=head, title=title, packed_at=packed_at, key=self._log_key())

    def manifest(self, folder: Path, text: bytes) -> None:
        """Sign any text as the manifest."""
        origin = self.desk.evidence.head().origin
        line = keys.log_line(self._log_key(), name=origin, text=text)
        (folder / "MANIFEST").write_bytes(note.Note(text=text, signatures=(line,)).encode())

    def _log_key(self) -> keys.ed25519.Ed25519PrivateKey:
        return keys.ed25519_private(self.desk.evidence.directory / "keys")


@pytest.fixture
def forger(honest_desk: Desk) -> Forger:
    return Forger(honest_desk)
