"""forget, gc, copy, heal and repair as commands: what they say, what they end with, and what they leave alone."""

import json
import random
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from backup.crypto.keyring import Kdf
from backup.format import snapshot
from backup.format.snapshot import key_of
from backup.integrity.verify import verify
from backup.keys import rotation
from backup.keys.reseal import reseal_all
from backup.locations.urls import open_url
from backup.repository.init import create_repository
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.run import run_files
from backup.writer.pack_health import Level
from infra.lab.loopback_store import LoopbackSite, loopback
from infra.objectstore import buckets
from infra.objectstore.directory import DirectoryStore
from infra.objectstore.s3 import open_store
from zaibei.cli.backup import app
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.progress import Silent

CLOCK, FAST = SystemClock(), Kdf(memory_kib=64, iterations=1, lanes=1)
Told = tuple[int, dict[str, Any], str]
Run = Callable[..., Told]


class Vaults:
    """Two vaults of the same three runs; the first file stays, the second changes with each."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.password = base / "password"
        self.password.write_text("correct horse\n")
        self.source = base / "source"
        self.source.mkdir()
        (self.source / "stays").write_bytes(random.Random(0).randbytes(50_000))
        self.b, self.c = (
            create_repository(DirectoryStore(base / n), "correct horse", clock=CLOCK, kdf=FAST)
            for n in ("b", "c")
        )
        for day in (1, 2, 3):
            self.backup(day, self.b, self.c)

    def backup(self, day: int, *repos: Repository, retain: timedelta | None = None) -> None:
        (self.source / "changes").write_bytes(random.Random(day).randbytes(50_000))
        done = run_files([self.source], repos, CLOCK, random.Random(day), Silent(), retain=retain)
        assert done.complete, done.problems

    def url(self, name: str) -> str:
        return f"file://{self.base / name}"

    def run(self, *arguments: str, json_: bool = True) -> Told:
        given = [*arguments, "--repo", self.url("b"), "--password-file", str(self.password)]
        return invoke(*given, json_=json_)

    def named(self, *arguments: str) -> Told:
        return self.run(*arguments, "--confirm", self.b.name)

    def bytes_of(self, name: str = "b") -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in (self.base / name).rglob("*") if p.is_file()}

    def lose_a_pack(self) -> None:
        with Reader(self.b) as reader:
            node = next(n for n in reader.nodes(self.b.find("3")) if n.path == b"source/changes")
            pack = reader.catalogue.locations(node.blobs[0])[0].pack
        self.b.store.remove(f"packs/{pack[:2]}/{pack}")

    def sound(self) -> bool:
        return not verify(self.b, Level.FULL, rng=random.Random(1), progress=Silent()).damage


def invoke(*arguments: str, json_: bool = True) -> Told:
    """Exit code, the JSON object (or the text under ""), and stderr."""
    done = CliRunner().invoke(app, [*arguments, *(["--json"] if json_ else [])])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    if not json_:
        return done.exit_code, {"": done.stdout}, done.stderr
    return done.exit_code, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr


@pytest.fixture
def vaults(tmp_path: Path) -> Vaults:
    return Vaults(tmp_path)


def commands(vaults: Vaults) -> list[list[str]]:
    return [
        ["forget", "1"],
        ["forget", "--keep-last", "1"],
        ["gc", "--grace", "0s"],
        ["heal", "--from", vaults.url("c")],
        ["repair"],
    ]


def test_without_the_name_typed_nothing_is_done_and_the_hint_says_what_to_type(
    vaults: Vaults,
) -> None:
    before = vaults.bytes_of()
    for command in commands(vaults):
        code, told, said = vaults.run(*command)
        assert (code, told["done"]) == (2, False), command
        assert f"--confirm {vaults.b.name}" in said.replace("\n", ""), command
        code, told, _ = vaults.run(*command, "--dry-run")
        assert (code, told["done"]) == (0, False), command
        code, _, said = vaults.run(*command, "--confirm", "another")
        assert (code, "no such repository" in said) == (2, True), command
    assert vaults.run("copy", "--to", vaults.url("c"), "--dry-run")[1]["to_copy"] == [1, 2, 3]
    assert vaults.bytes_of() == before


def test_forget_and_gc_as_a_policy_would_and_what_they_say(vaults: Vaults) -> None:
    packs = len(list(vaults.b.store.list("packs/")))
    code, told, _ = vaults.run("forget", "--keep-last", "1", "--dry-run")
    one = told["repositories"][vaults.b.name]
    assert (code, one["forgotten"]) == (0, [1, 2])
    assert [d["keep"] for d in one["decisions"]] == [
        [],
        [],
        ["one of the last 1", "the newest complete one"],
    ]
    code, told, _ = vaults.named("forget", "--keep-last", "1")
    assert (code, told["done"]) == (0, True)
    assert vaults.b.sequences() == [3]
    assert (
        vaults.run("forget", "--keep-last", "1", "--dry-run")[1]["repositories"][vaults.b.name][
            "forgotten"
        ]
        == []
    )

    code, told, _ = vaults.named("gc", "--grace", "0s")
    assert (code, told["done"], told["complete"]) == (0, True, True)
    one = told["repositories"][vaults.b.name]
    assert one["swept"]["removed"]["snapshots"] == 2
    assert "packs" not in one["swept"]["removed"], "marked first, removed by the next run"
    assert one["marked"]["dead"] + one["marked"]["repacked"] >= 2
    assert one["marked"]["marks"] == 1
    swept = vaults.named("gc", "--grace", "0s")[1]["repositories"][vaults.b.name]["swept"]
    assert {"packs", "index", "marks"} <= swept["removed"].keys()
    assert swept["refused"] is None
    assert len(list(vaults.b.store.list("packs/"))) < packs
    assert vaults.sound()


def test_what_was_to_be_kept_and_is_nowhere_is_said(vaults: Vaults) -> None:
    words = ("forget", "--keep-last", "1", "--keep-tag", "releese", "--keep-label", "etc")
    _, told, _ = vaults.run(*words, "--dry-run")
    assert told["notes"] == [
        "--keep-label etc: no snapshot has it",
        "--keep-tag releese: no snapshot has it",
    ]
    assert "note: --keep-tag releese" in vaults.run(*words, "--dry-run", json_=False)[1][""]


def test_what_forget_would_be_refused_is_said_before_anybody_confirms(vaults: Vaults) -> None:
    before = vaults.bytes_of()
    for more in ((), ("--dry-run",), ("--confirm", vaults.b.name)):
        code, _, said = vaults.run("forget", "3", *more)
        assert (code, "newest" in said, "--even-the-last" in said) == (1, True, True)
        assert vaults.run("forget", "9", *more)[0] == 2
        assert vaults.run("forget", *more)[0] == 2
    assert vaults.bytes_of() == before
    assert vaults.named("forget", "3", "--even-the-last")[0] == 0
    assert vaults.b.sequences() == [1, 2]


def test_gc_beside_loss_ends_with_1_and_beside_an_unreadable_mark_says_what_to_do(
    vaults: Vaults,
) -> None:
    vaults.b.store.create(f"marks/{'ab' * 32}", b"junk")
    before = vaults.bytes_of()
    code, told, said = vaults.named("gc")
    assert (code, told, "--clear-damaged" in said) == (1, {}, True)
    code, _, said = vaults.run("gc", "--clear-damaged")
    assert (code, "would be removed" in said) == (1, True)
    assert vaults.bytes_of() == before
    assert vaults.named("gc", "--clear-damaged")[0] == 0
    assert not list(vaults.b.store.list("marks/"))
    vaults.lose_a_pack()
    code, told, said = vaults.named("gc")
    assert (code, told, "heal" in said) == (1, {}, True)


def test_copy_needs_no_name_and_ends_with_1_when_something_is_left_out(
    vaults: Vaults, tmp_path: Path
) -> None:
    create_repository(DirectoryStore(tmp_path / "d"), "correct horse", clock=CLOCK, kdf=FAST)
    there = ("copy", "--to", vaults.url("d"))
    code, told, _ = vaults.run(*there, "1", "2")
    assert (code, told["done"], told["complete"]) == (0, True, True)
    assert told["snapshots"] == {"1": 1, "2": 2}
    vaults.lose_a_pack()
    code, told, _ = vaults.run(*there)
    assert (code, told["complete"], told["already"], list(told["failed"])) == (1, False, 2, ["3"])
    assert vaults.run("copy", "--to", vaults.url("b"))[0] == 2
    assert vaults.run(*there, "9")[0] == 2


def test_heal_ends_with_0_only_when_nothing_is_left(vaults: Vaults) -> None:
    vaults.lose_a_pack()
    before = vaults.bytes_of()
    command = ("heal", "--from", vaults.url("c"))
    code, told, _ = vaults.run(*command, "--dry-run")
    assert (code, told["complete"], len(told["wounds"])) == (1, False, 1)
    assert vaults.run(*command)[0] == 2
    assert vaults.bytes_of() == before
    code, told, _ = vaults.named(*command)
    assert (code, told["complete"], told["unhealed"]) == (0, True, [])
    assert told["fetched_blobs"] >= 1
    assert vaults.sound()
    code, told, _ = vaults.run(*command, "--dry-run")
    assert (code, told["complete"], told["wounds"]) == (0, True, [])


def test_repair_names_what_is_lost_and_ends_with_1(vaults: Vaults) -> None:
    vaults.lose_a_pack()
    before = vaults.bytes_of()
    assert vaults.run("repair", "--dry-run")[0] == 1
    assert vaults.run("repair")[0] == 2
    assert vaults.bytes_of() == before
    code, told, _ = vaults.named("repair")
    assert (code, told["done"]) == (1, True)
    (loss,) = told["losses"]
    assert (loss["snapshot"], loss["paths"], loss["replaced_by"]) == (3, ["source/changes"], 4)
    assert vaults.b.sequences() == [1, 2, 4]
    assert vaults.sound()


def test_repair_clears_a_damaged_copy_of_a_rotation_out_of_its_way(vaults: Vaults) -> None:
    new = rotation.begin(vaults.b, why="test").repository
    assert reseal_all(new, Silent()).done
    key = snapshot.resealed_key(2, key_of(2))
    file = vaults.base / "b" / key
    file.chmod(0o600)
    file.write_bytes(b"not what was sealed")

    code, told, _ = vaults.run("repair", "--dry-run")
    assert code == 1 and [w for w in told["wounds"] if w.startswith(key)]
    _, said, _ = vaults.run("repair", "--dry-run", json_=False)
    assert f"would be removed: {key}" in said[""] and file.exists()

    code, told, _ = vaults.named("repair")
    assert (code, told["complete"], told["copies_not_removed"]) == (0, True, {})
    assert not file.exists()
    assert vaults.named("key", "rotate", "--resume")[0] == 0
    assert file.exists()
    assert vaults.run("verify", "--level", "full")[0] == 0


def test_a_damaged_snapshot_that_a_copy_of_a_rotation_holds_is_not_stated_lost(
    vaults: Vaults,
) -> None:
    new = rotation.begin(vaults.b, why="test").repository
    assert reseal_all(new, Silent()).done
    file = vaults.base / "b" / key_of(2)
    file.chmod(0o600)
    file.write_bytes(b"not what was signed")
    assert vaults.run("verify")[0] == 1

    code, told, _ = vaults.run("repair", "--dry-run")
    assert (code, told["losses"]) == (1, []) and [w for w in told["wounds"] if key_of(2) in w]
    _, said, _ = vaults.run("repair", "--dry-run", json_=False)
    assert f"would be removed: {key_of(2)}; its copy is read in its place" in said[""]
    assert file.exists()

    code, told, _ = vaults.named("repair")
    assert (code, told["complete"], told["losses"]) == (0, True, [])
    assert not file.exists() and not (vaults.base / "b" / "forgets").exists()
    assert vaults.run("repair", "--dry-run")[0] == 0
    assert vaults.run("verify", "--level", "full")[0] == 0
    assert vaults.run("list")[0] == 0
    assert [one.sequence for one in new.snapshots()] == [1, 2, 3]


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackSite]:
    # Deeper than the path of a socket may be.
    with loopback(tmp_path / ("deep" * 20) / "seaweedfs", clock=CLOCK) as site:
        here = SimpleNamespace(store=site.access, backups=site.access)
        database = SimpleNamespace(backup=SimpleNamespace(vaults=(site.name,)))
        buckets.prepare(
            SimpleNamespace(ca_file=site.ca_file, site=lambda _: here),  # type: ignore[arg-type]
            SimpleNamespace(buckets=(), databases=(database,)),  # type: ignore[arg-type]
        )
        monkeypatch.setenv("ZAIBEI_S3_CA_FILE", str(site.ca_file))
        be(monkeypatch, site, "", "writer")
        yield site


def be(monkeypatch: pytest.MonkeyPatch, site: LoopbackSite, who: str, role: str) -> None:
    key, secret = site.access.keys[role]
    assert secret.file is not None
    monkeypatch.setenv(f"ZAIBEI_S3_{who}KEY", key)
    monkeypatch.setenv(f"ZAIBEI_S3_{who}SECRET_FILE", str(secret.file))


@pytest.mark.integration
def test_on_a_real_store_only_the_deleter_sweeps_and_no_lock_is_passed(
    s3: LoopbackSite, vaults: Vaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(
        s3.access, ca_file=s3.ca_file, bucket=buckets.VAULT, role="writer", prefix="cli/", site="x"
    )
    repo = create_repository(store, "correct horse", clock=CLOCK, kdf=FAST)
    vaults.backup(4, repo, retain=timedelta(hours=1))
    for day in (5, 6):
        vaults.backup(day, repo)
    url = f"s3+{s3.access.endpoint}/{buckets.VAULT}/cli"
    where = ["--repo", url, "--password-file", str(vaults.password)]
    name = open_url(url).name

    def gc(*, json_: bool = True) -> Told:
        return invoke("gc", *where, "--confirm", name, "--grace", "0s", json_=json_)

    code, _, said = gc()
    assert (code, "ZAIBEI_S3_DELETER_KEY" in said) == (2, True)
    assert invoke("forget", "1", "2", *where, "--confirm", name)[0] == 0
    there = {s.key for s in store.list()}

    be(monkeypatch, s3, "DELETER_", "writer")
    code, told, said = gc()
    one = told["repositories"][name]["swept"]
    assert (code, told["complete"], one["removed"]) == (1, False, {})
    assert "AccessDenied" in one["refused"]
    assert "ZAIBEI_S3_DELETER_KEY" in said, "who may"
    assert there <= {s.key for s in store.list()}

    be(monkeypatch, s3, "DELETER_", "deleter")
    code, said_there, _ = gc(json_=False)
    assert code == 0
    assert re.search(r"removed: .*\b[1-9]\d* packs, .*\b1 snapshots;", said_there[""])
    assert re.search(
        r"[1-9]\d* objects are locked and stay; the first unlocks at 20", said_there[""]
    )
    left = {s.key for s in store.list()}
    assert key_of(1) in left, "locked"
    assert key_of(2) not in left
    assert not verify(repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage
