"""The anomaly guard on what ransomware does, really done to files; and on what administrators do at night."""

import gzip
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from backup import status
from backup.crypto.keyring import Kdf
from backup.format import tree
from backup.format.facts import FACT, Verdict, verdict_of
from backup.format.snapshot import Content
from backup.format.tree import Node, Type
from backup.guard import rules
from backup.guard.listing_diff import differences
from backup.guard.magic import WRONG_MAX, MagicCheck
from backup.guard.rules import HISTORY_MIN, RULES, Features
from backup.lifecycle.retention import entry_of
from backup.repository.init import create_repository
from backup.repository.repository import Repository
from backup.run import Run, run_files
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.progress import Silent

KEY = bytes(range(32))
WORDS = [random.Random(n).randbytes(n % 5 + 2).hex() for n in range(400)]
BLOCK = 8192


def text(rng: random.Random, size: int) -> bytes:
    return " ".join(rng.choices(WORDS, k=size // 6 + 1)).encode()[:size]


def encrypted(data: bytes, seed: int = 0) -> bytes:
    cipher = Cipher(algorithms.AES(KEY), modes.CTR(seed.to_bytes(16))).encryptor()
    return cipher.update(data) + cipher.finalize()


def every_nth(data: bytes, nth: int, *, block: int = 512, seed: int = 0) -> bytes:
    out = bytearray(data)
    for at in range(0, len(data), block * nth):
        out[at : at + block] = encrypted(data[at : at + block], seed + at)
    return bytes(out)


def photo(rng: random.Random, size: int = 0) -> bytes:
    return b"\xff\xd8\xff\xe0" + rng.randbytes(size or rng.randint(6000, 12000))


@dataclass
class Source:
    """A folder with a week of ordinary nights behind it; `night` is the next backup."""

    root: Path
    repo: Repository
    clock: SimClock
    rng: random.Random = field(default_factory=lambda: random.Random(5))

    def write(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def files(self, pattern: str = "**/*") -> list[Path]:
        return sorted(p for p in self.root.glob(pattern) if p.is_file())

    def run(self, accept: str = "") -> Run:
        return run_files(
            [self.root], [self.repo], self.clock, random.Random(7), Silent(), accept=accept
        )

    def night(self, accept: str = "") -> dict[str, Any]:
        done = self.run(accept)
        assert done.complete
        made = done.outcomes[0].snapshot
        assert made is not None
        return made.content.facts[FACT]

    def edit_some(self) -> None:
        for path in self.rng.sample(self.files("**/*.txt"), 4):
            path.write_bytes(path.read_bytes() + text(self.rng, 300))
        self.write(f"docs/new/{self.rng.random()}.txt", text(self.rng, 8000))


def office(source: Source) -> None:
    for n in range(120):
        source.write(f"docs/{n % 12}/{n}.txt", text(source.rng, source.rng.randint(5000, 16000)))
    for n in range(60):
        source.write(f"photos/{n % 7}/{n}.jpg", photo(source.rng))


def logs(source: Source) -> None:
    for n in range(20):
        for day in range(6):
            said = text(source.rng, 9000)
            name = f"app{n}.log" if day == 0 else f"app{n}.log.{day}"
            source.write(
                name if day < 2 else f"{name}.gz", said if day < 2 else gzip.compress(said)
            )


def release(source: Source) -> None:
    for n in range(150):
        source.write(f"lib/mod{n}.py", text(source.rng, 7000))
    for n in range(40):
        source.write(f"lib/native{n}.so", every_nth(bytes(20000), 3, seed=n))
        source.write(f"static/icon{n}.png", b"\x89PNG\r\n\x1a\n" + source.rng.randbytes(3000))


def database(source: Source) -> None:
    for n in range(40):
        page = text(source.rng, BLOCK // 2) + bytes(BLOCK // 2)
        source.write(f"5/{16384 + n}", page * source.rng.randint(20, 60))
        source.write(f"5/{1247 + n}", page)


@dataclass
class Settled:
    """What a source is after its week: taken once, given to each test afresh."""

    make: Callable[[], Source]
    contents: dict[Path, bytes]


def settle(base: Path, name: str, build: Callable[[Source], None]) -> Settled:
    clock = SimClock()
    store = MemoryStore(clock=clock, name="site-b")
    kdf = Kdf(memory_kib=64, iterations=1, lanes=1)
    repo = create_repository(store, "secret", clock=clock, kdf=kdf)
    source = Source(base / name, repo, clock)
    build(source)
    for _ in range(HISTORY_MIN + 2):
        told = source.night()
        if source.files("**/*.txt"):
            source.edit_some()
    assert told["verdict"] == "clean", told
    held = {key: list(versions) for key, versions in store._keys.items()}
    contents = {p: p.read_bytes() for p in source.files()}

    def make() -> Source:
        shutil.rmtree(source.root)
        for path, data in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        mine = MemoryStore(clock=clock, name="site-b")
        mine._keys = {key: list(versions) for key, versions in held.items()}
        mine._made = store._made
        return Source(source.root, Repository(mine, clock, repo.config, repo.keys), clock)

    return Settled(make, contents)


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Source]:
    base = tmp_path_factory.mktemp("guard")
    builds = {"office": office, "logs": logs, "release": release, "base": database}
    known: dict[str, Settled] = {}

    def one(name: str) -> Source:
        if name not in known:
            known[name] = settle(base, name, builds[name])
        return known[name].make()

    return one


# ── attacks ─────────────────────────────────────────────────────────────────────────────────────


def in_place(source: Source, share: float = 0.05) -> None:
    paths = source.files()
    for n, path in enumerate(source.rng.sample(paths, int(len(paths) * share) + 10)):
        path.write_bytes(encrypted(path.read_bytes(), n))


def with_a_new_extension(source: Source) -> None:
    for n, path in enumerate(source.files()[::4]):
        path.with_name(path.name + ".locked").write_bytes(encrypted(path.read_bytes(), n))
        path.unlink()
        (path.parent / "README_TO_DECRYPT.txt").write_text("pay, or your data is published")


def partly(nth: int) -> Callable[[Source], None]:
    def attack(source: Source) -> None:
        for n, path in enumerate(source.files("**/*.txt")):
            path.write_bytes(every_nth(path.read_bytes(), nth, seed=n))

    return attack


def photographs_with_their_heads_left_alone(source: Source) -> None:
    for n, path in enumerate(source.files("**/*.jpg")):
        data = path.read_bytes()
        path.write_bytes(data[:512] + encrypted(data[512:], n))


def photographs(source: Source) -> None:
    for n, path in enumerate(source.files("**/*.jpg")[:15]):
        path.write_bytes(encrypted(path.read_bytes(), n))


def under_random_names(source: Source) -> None:
    for n, path in enumerate(source.files("**/*.txt")):
        source.write(f"x/{source.rng.random()}", encrypted(path.read_bytes() * 2, n))
        path.unlink()


def written_as_text(source: Source) -> None:
    for n, path in enumerate(source.files("**/*.txt")[::3]):
        path.write_text(encrypted(path.read_bytes(), n).hex())
        path.rename(path.with_suffix(".enc"))


def deleted(source: Source) -> None:
    for path in source.files()[::2]:
        path.unlink()


def emptied(source: Source) -> None:
    """Each file is still there; a count of files sees nothing."""
    for path in source.files():
        path.write_bytes(b"")


def overwritten_with_zeros(source: Source) -> None:
    for path in source.files():
        path.write_bytes(b"\0" * 40)


def tables_dropped(source: Source) -> None:
    for n in range(12):
        (source.root / "5" / str(16384 + n)).unlink()


def tables_emptied(source: Source) -> None:
    for n in range(12):
        (source.root / "5" / str(16384 + n)).unlink()
        source.write(f"5/{20000 + n}", b"")


def a_column_encrypted(source: Source) -> None:
    for n in range(10):
        path = source.root / "5" / str(16384 + n)
        path.write_bytes(every_nth(path.read_bytes(), 4, block=2048, seed=n))


ATTACKS = [
    ("office", in_place, "turned into noise"),
    ("office", with_a_new_extension, "turned into noise"),
    ("office", partly(2), "turned into noise"),
    ("office", partly(4), "turned into noise"),
    ("office", photographs, "turned into noise"),
    ("office", photographs_with_their_heads_left_alone, "rewritten to the same length"),
    ("office", under_random_names, "does not compress"),
    ("office", written_as_text, "another extension"),
    ("office", deleted, "are gone"),
    ("office", emptied, "nothing came in their place"),
    ("office", overwritten_with_zeros, "nothing came in their place"),
    ("base", tables_dropped, "relations are gone"),
    ("base", tables_emptied, "relations are gone"),
    ("base", a_column_encrypted, "bytes turned into noise"),
]


@pytest.mark.parametrize(("of", "attack", "why"), ATTACKS)
def test_an_attack_is_told_with_its_reason(
    settled: Callable[[str], Source], of: str, attack: Callable[[Source], None], why: str
) -> None:
    source = settled(of)
    attack(source)
    told = source.night()
    assert told["verdict"] == "anomalous", told
    assert any(why in reason for reason in told["reasons"]), told


# ── nights that must not alarm ──────────────────────────────────────────────────────────────────


def nothing(source: Source) -> None: ...


def a_big_import_of_texts(source: Source) -> None:
    for n in range(300):
        source.write(f"import/{n}.csv", text(source.rng, 9000))


def a_big_import_of_photographs(source: Source) -> None:
    for n in range(300):
        source.write(f"import/{n}.jpg", photo(source.rng))


def a_big_import_of_unknown_archives(source: Source) -> None:
    for n in range(100):
        source.write(f"import/{n}.tile", source.rng.randbytes(9000))


def a_folder_renamed(source: Source) -> None:
    (source.root / "docs").rename(source.root / "documents")


def all_touched(source: Source) -> None:
    for path in source.files():
        os.utime(path, (1, 1))


def rotation(source: Source) -> None:
    for n in range(20):
        for day in (5, 4, 3):
            (source.root / f"app{n}.log.{day - 1}.gz").rename(source.root / f"app{n}.log.{day}.gz")
        said = (source.root / f"app{n}.log.1").read_bytes()
        source.write(f"app{n}.log.2.gz", gzip.compress(said))
        (source.root / f"app{n}.log").rename(source.root / f"app{n}.log.1")
        source.write(f"app{n}.log", text(source.rng, 900))


def an_upgrade(source: Source) -> None:
    for path in source.files("lib/*.py"):
        path.write_bytes(path.read_bytes()[:5000] + text(source.rng, source.rng.randint(900, 4000)))
    for n, path in enumerate(source.files("lib/*.so")):
        path.write_bytes(every_nth(bytes(21000 + 16 * n), 3, seed=n + 99))
    for path in source.files("static/*.png")[:30]:
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + source.rng.randbytes(source.rng.randint(2500, 4000))
        )


def vacuum_full(source: Source) -> None:
    for n in range(40):
        path = source.root / "5" / str(16384 + n)
        data = path.read_bytes()
        source.write(f"5/{20000 + n}", data[: len(data) // 2 // BLOCK * BLOCK])
        path.unlink()


def a_bulk_load(source: Source) -> None:
    for n in range(10):
        path = source.root / "5" / str(16384 + n)
        path.write_bytes(path.read_bytes() + source.rng.randbytes(40 * BLOCK))


def a_nightly_update(source: Source) -> None:
    for path in source.files("5/16*"):
        data = bytearray(path.read_bytes())
        for at in range(0, len(data), BLOCK):
            data[at : at + BLOCK // 2] = text(source.rng, BLOCK // 2)
        path.write_bytes(data)


QUIET = [
    ("office", nothing),
    ("office", Source.edit_some),
    ("office", a_big_import_of_texts),
    ("office", a_big_import_of_photographs),
    ("office", a_big_import_of_unknown_archives),
    ("office", a_folder_renamed),
    ("office", all_touched),
    ("logs", rotation),
    ("release", an_upgrade),
    ("base", vacuum_full),
    ("base", a_bulk_load),
    ("base", a_nightly_update),
]


@pytest.mark.parametrize(("of", "work"), QUIET)
def test_ordinary_work_does_not_alarm(
    settled: Callable[[str], Source], of: str, work: Callable[[Source], None]
) -> None:
    source = settled(of)
    work(source)
    told = source.night()
    assert told["verdict"] == "clean", told


# ── what is written down, and what comes after ──────────────────────────────────────────────────


def test_a_new_source_is_unknown_until_something_is_usual(
    repo: Repository, clock: SimClock, tmp_path: Path
) -> None:
    source = Source(tmp_path / "new", repo, clock)
    office(source)
    told = []
    for _ in range(HISTORY_MIN + 2):
        told.append(source.night())
        source.edit_some()
    assert [t["verdict"] for t in told] == ["unknown"] * (HISTORY_MIN + 1) + ["clean"]
    assert told[0]["baseline"] is None
    assert told[0]["features"]["dense_ratio"] == 0, "photographs with their heads are vouched for"


def test_an_attack_in_the_second_night_is_told_although_nothing_is_usual_yet(
    repo: Repository, clock: SimClock, tmp_path: Path
) -> None:
    source = Source(tmp_path / "new", repo, clock)
    office(source)
    source.night()
    in_place(source)
    assert source.night()["verdict"] == "anomalous"


def test_the_night_after_an_attack_is_not_clean_until_somebody_says_so(
    settled: Callable[[str], Source],
) -> None:
    source = settled("office")
    good = source.repo.find("latest").sequence
    in_place(source)
    nights = [source.night(), source.night()]
    assert [t["verdict"] for t in nights] == ["anomalous"] * 2
    assert [t["baseline"] for t in nights] == [good] * 2, "still held against the last good one"
    accepted = source.night(accept="disks were encrypted on purpose")
    assert accepted["verdict"] == "clean" and accepted["reasons"]
    assert source.night()["verdict"] == "clean"


def test_a_slow_attack_is_told_when_it_has_struck_enough(settled: Callable[[str], Source]) -> None:
    source = settled("office")
    left = source.files("**/*.txt")
    struck, told = 0, {"verdict": "clean"}
    while told["verdict"] == "clean" and left:
        for _ in range(3):
            left[-1].write_bytes(encrypted(left.pop().read_bytes(), len(left)))
        told, struck = source.night(), struck + 3
    assert any("over the last runs" in r for r in told["reasons"]), told
    assert struck <= 30, struck


def test_a_backup_is_complete_and_loud_when_it_is_anomalous(
    settled: Callable[[str], Source],
) -> None:
    source = settled("office")
    deleted(source)
    done = source.run()
    assert done.complete and any("are gone" in a for a in done.anomalies)
    made = done.outcomes[0].snapshot
    assert made is not None
    judged = entry_of(made, modified=made.content.finished, verified=False)
    assert judged.odd, "retention counts it among all, never in the place of a clean one"
    (told,) = status.read()["guard"]["site-b"].values()
    assert told["verdict"] == "anomalous" and told["reasons"]
    other = Source(source.root.parent / "elsewhere", source.repo, source.clock)
    other.write("a.txt", b"quiet")
    other.run()
    verdicts = {g["verdict"] for g in status.read()["guard"]["site-b"].values()}
    assert verdicts == {"anomalous", "unknown"}, "the alarm of one source stays"


def test_of_two_listings_only_the_blobs_that_differ_are_fetched() -> None:
    def line(name: str, blob: int) -> bytes:
        node = Node(
            path=name.encode(), type=Type.FILE, mode=0o600, mtime_ns=1, blobs=(bytes([blob]) * 32,)
        )
        return b"".join(tree.encode(node))

    vault = {b"common": line("a", 1), b"old": line("b", 2), b"new": line("b", 3) + line("c", 4)}
    fetched: list[bytes] = []

    def fetch(id_: bytes) -> bytes:
        fetched.append(id_)
        return vault[id_]

    same = differences([b"common", b"old"], [b"common", b"old"], fetch, entries=2)
    assert not fetched and not same.before and not same.after
    found = differences([b"common", b"old"], [b"common", b"new"], fetch, entries=3)
    assert b"common" not in fetched
    assert set(found.before) == {b"b"} and set(found.after) == {b"b", b"c"}


def test_a_guard_that_cannot_read_back_says_so_and_the_backup_stands(
    settled: Callable[[str], Source],
) -> None:
    source = settled("office")
    source.edit_some()
    store = source.repo.store
    assert isinstance(store, MemoryStore)
    for key in [k for k in store._keys if k.startswith("packs/")]:
        if (data := store._keys[key][0].data) is not None:
            store.corrupt(key, data[:200] + bytes(len(data) - 200))
    told = source.night()
    assert told["verdict"] == "unknown"
    assert "cannot be read" in told["reasons"][0]


def test_a_head_is_looked_at_whatever_the_case_of_the_name() -> None:
    heads = MagicCheck()
    heads.look(b"a/SCAN.PDF", b"%PDF-1.7 ...")
    heads.look(b"a/b.PdF", encrypted(b"%PDF-1.7 ..."))
    heads.look(b"a/.jpg", b"a hidden file is no photograph")
    heads.look(b"a/plain", b"nothing is known")
    assert (heads.seen, heads.wrong) == (2, 1)
    assert heads.vouched(b"a/SCAN.PDF") and heads.is_wrong(b"a/b.PdF")


# ── the decision ────────────────────────────────────────────────────────────────────────────────

_share = st.floats(0, 1)


@given(past=st.lists(_share, max_size=30), rule=st.sampled_from(RULES))
def test_no_past_lifts_a_limit_above_hard_or_below_its_floor(
    past: list[float], rule: rules.Rule
) -> None:
    limit = rules.limit_of(rule, [{rule.name: v} for v in past])
    assert rule.floor <= limit <= rule.hard


@given(
    struck=st.integers(200, 1000),
    past=st.lists(st.fixed_dictionaries({r.name: _share for r in RULES}), max_size=20),
)
def test_a_fifth_of_all_files_struck_is_anomalous_whatever_was_usual(
    struck: int, past: list[dict[str, float]]
) -> None:
    now = Features(entries=1000, entries_before=1000, struck=struck)
    assert rules.judge(now, past, compared=True).verdict is Verdict.ANOMALOUS


@given(past=st.lists(st.fixed_dictionaries({r.name: _share for r in RULES}), max_size=20))
def test_a_quiet_run_is_never_anomalous(past: list[dict[str, float]]) -> None:
    now = Features(entries=1000, entries_before=1000, changed=900)
    told = rules.judge(now, past, compared=True).verdict
    assert told is (Verdict.CLEAN if len(past) >= HISTORY_MIN else Verdict.UNKNOWN)


def test_a_tree_that_loses_a_third_every_night_is_used_to_it() -> None:
    past = [{"shrunk": v} for v in (0.3, 0.35, 0.4, 0.32, 0.38, 0.36)]
    now = Features(entries=600, entries_before=1000)
    assert rules.judge(now, past, compared=True).verdict is Verdict.CLEAN
    assert rules.judge(now, [], compared=True).verdict is Verdict.ANOMALOUS


def test_features_of_a_later_zaibei_are_read_as_far_as_they_are_known() -> None:
    told = {**rules.plain(Features(entries=3, dense_ratio=0.25)), "of_2030": 1, "added": None}
    assert rules.features_of(told) == Features(entries=3, dense_ratio=0.25)


def test_a_snapshot_that_nobody_judged_is_unknown(repo: Repository, clock: SimClock) -> None:
    bare = Content(
        kind="files",
        label="",
        host="h",
        started=clock.now(),
        finished=clock.now(),
        tree=(),
        entries=0,
        size_bytes=0,
        complete=True,
    )
    assert verdict_of(bare) is Verdict.UNKNOWN


def test_where_more_heads_are_wrong_than_are_remembered_nobody_is_vouched_for() -> None:
    heads = MagicCheck()
    for n in range(WRONG_MAX + 1):
        heads.look(b"photo/%d.jpg" % n, b"\0\0\0\0")
    heads.look(b"fine.jpg", b"\xff\xd8\xff")
    assert not heads.vouched(b"photo/%d.jpg" % WRONG_MAX)
    assert not heads.vouched(b"fine.jpg")
