"""The stand-alone reader against golden and living repositories: one file, started as a stranger would, in an
interpreter that cannot see zaibei."""

import ast
import contextlib
import os
import random
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from backup.crypto import escrow
from backup.crypto.identity import Identity
from backup.crypto.keyring import Kdf
from backup.crypto.seal import Kind, open_whole
from backup.format.snapshot import Content
from backup.format.tree import Node, Type
from backup.keys import recipients, reseal, rotation
from backup.repository.init import create_repository
from backup.repository.repository import Repository, open_repository
from backup.run import run_files
from backup.sources.fanout import Fanout
from backup.wal.archive import Archive
from backup.writer.writer import Writer
from infra.objectstore.directory import DirectoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.progress import Silent

READER = Path(__file__).parents[2] / "backup" / "breakglass.py"
GOLDEN = Path(__file__).parents[1] / "golden" / "repository"
FAST = Kdf(memory_kib=64, iterations=1, lanes=1)
each_suite = pytest.mark.parametrize("suite", ["intl", "sm"])


def reader(*words: Path | str, secret: str) -> "subprocess.CompletedProcess[str]":
    vault, *more = words
    held = Path(str(vault)).parent / "secret"
    held.write_text(secret + "\n", encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-I", READER, vault, held, *more],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        check=False,
    )


def test_it_stands_alone_and_can_be_read_at_one_sitting() -> None:
    text = READER.read_text()
    assert len(text.splitlines()) <= 400
    tree = ast.parse(text)
    named = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    named |= {n.module or "." for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    outside = {n.partition(".")[0] for n in named} - sys.stdlib_module_names
    assert outside == {"cryptography", "zstandard"}


@each_suite
def test_it_restores_the_repositories_of_2026(suite: str, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    vault.symlink_to(GOLDEN / "v1" / suite)
    said = reader(vault, secret="zaibei golden")
    assert (said.returncode, len(said.stdout.splitlines())) == (0, 2)
    assert reader(vault, tmp_path / "t", secret="zaibei golden").returncode == 0
    base = tmp_path / "t" / "data"
    assert (base / "人口.txt").read_text() == "人口基础信息库\n" * 400
    assert (base / "random").read_bytes() == random.Random(2026).randbytes(5000)
    assert (base / "link").readlink() == Path("random")


@pytest.fixture
def source(some_files: Path) -> Path:
    """With holes, a second name and an attribute beside what every test tree has."""
    with (some_files / "sparse").open("wb") as out:
        out.write(b"head")
        out.seek(3 << 20)
        out.write(b"tail" * 3000)
        out.truncate(5 << 20)
    os.link(some_files / "text", some_files / "again")
    os.setxattr(some_files / "text", "user.grade", b"3")
    return some_files


def living(suite: str, at: Path, clock: SimClock) -> Repository:
    return create_repository(
        DirectoryStore(at), "open sesame", clock=clock, suite_name=suite, kdf=FAST
    )


def put(repo: Repository, source: Path) -> None:
    assert run_files([source], [repo], repo.clock, random.Random(1), Silent()).complete


def same(one: Path, two: Path) -> None:
    def facts(base: Path) -> dict[bytes, object]:
        out: dict[bytes, object] = {}
        for real in sorted(base.rglob("*")):
            info = real.lstat()
            about: list[object] = [info.st_mode, info.st_uid, info.st_gid]
            if real.is_symlink():
                about.append(real.readlink())
            elif real.is_file():
                about += [real.read_bytes(), info.st_mtime_ns]
                about.append([(n, os.getxattr(real, n)) for n in os.listxattr(real)])
            out[os.fsencode(real.relative_to(base))] = about
        return out

    assert facts(one) == facts(two)


@each_suite
def test_a_living_repository_comes_back_as_it_was(
    suite: str, source: Path, tmp_path: Path, clock: SimClock
) -> None:
    vault = tmp_path / "vault"
    put(living(suite, vault, clock), source)
    said = reader(vault, tmp_path / "t", secret="open sesame")
    assert (said.returncode, said.stderr) == (0, "")
    same(tmp_path / "t" / source.name, source)
    blocks = (tmp_path / "t" / source.name / "sparse").stat().st_blocks
    assert blocks * 512 < 1 << 20, "a hole stays a hole"


def test_what_others_left_in_the_vault_stops_it_nowhere(
    source: Path, tmp_path: Path, clock: SimClock
) -> None:
    vault = tmp_path / "vault"
    repo = living("intl", vault, clock)
    put(repo, source)
    assert reseal.reseal_all(rotation.begin(repo, why="test", kdf=FAST).repository, Silent()).done
    for folder in (
        "",
        "keys",
        "snapshots",
        "index",
        "packs",
        "packs/ab",
        "resealed",
        "epochs",
        "wal",
    ):
        for left in (".DS_Store", "lost+found/x", "README", "0000000001x"):
            file = vault / folder / left
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"not ours")
    (vault / "resealed/0000000002/snapshots/.DS_Store").write_bytes(b"")
    said = reader(vault, tmp_path / "t", secret="open sesame")
    assert (said.returncode, said.stderr) == (0, "")
    same(tmp_path / "t" / source.name, source)


@each_suite
@pytest.mark.parametrize("curve", ["x25519", "sm2"])
def test_after_a_rotation_a_passphrase_and_a_private_key_still_open_it(
    suite: str, curve: str, source: Path, tmp_path: Path, clock: SimClock
) -> None:
    vault = tmp_path / "vault"
    repo = living(suite, vault, clock)
    mine = Identity.new(curve)
    recipients.add_key(repo, curve=curve, public=mine.public, name="li")
    put(repo, source)
    Archive(repo, 7).put(b"log" * 100, epoch=1, timeline=1, segment=3)
    newer = rotation.begin(repo, why="a laptop is gone", kdf=FAST).repository
    (source / "second").write_text("after the rotation")
    put(open_repository(newer.store, mine, clock=clock), source)
    for secret in ("open sesame", mine.private.hex()):
        target = tmp_path / f"t{len(secret)}"
        said = reader(vault, target, secret=secret)
        assert (said.returncode, said.stderr) == (0, "")
        same(target / source.name, source)
    assert reseal.reseal_all(newer, Silent(), rng=random.Random(3)).done
    newer.store.remove("snapshots/0000000001")  # as the garbage collection will
    (source / "second").unlink()
    said = reader(vault, tmp_path / "late", "1", secret="open sesame")
    assert (said.returncode, said.stderr) == (0, "")
    assert not (tmp_path / "late" / source.name / "second").exists()
    assert (tmp_path / "late" / source.name / "text").read_text() == (source / "text").read_text()


def test_words_of_the_escrow_open_it(source: Path, tmp_path: Path, clock: SimClock) -> None:
    vault = tmp_path / "vault"
    repo = living("intl", vault, clock)
    words = recipients.add_escrow(repo, threshold=2, shares=3, name="safe")
    put(repo, source)
    private = escrow.join([words[2], words[0]])
    said = reader(vault, tmp_path / "t", secret=private.hex())
    assert (said.returncode, said.stderr) == (0, "")


def test_a_wrong_secret_and_a_full_target_are_errors_with_a_reason(
    source: Path, tmp_path: Path, clock: SimClock
) -> None:
    vault = tmp_path / "vault"
    put(living("intl", vault, clock), source)
    said = reader(vault, secret="open barley")
    assert (said.returncode, "opens none of the keys" in said.stderr) == (1, True)
    said = reader(vault, source, secret="open sesame")
    assert (said.returncode, said.stderr) == (1, f"error: {source} is not empty\n")
    said = reader(vault, tmp_path / "t", "3", secret="open sesame")
    assert (said.returncode, said.stderr) == (1, "error: no snapshot 3 can be read\n")
    assert reader(tmp_path / "nowhere", secret="x").returncode == 1


def test_entries_that_no_system_takes_are_named_and_the_rest_comes_back(
    tmp_path: Path, clock: SimClock
) -> None:
    def node(path: bytes, type_: Type, **fields: object) -> Node:
        return replace(Node(path=path, type=type_, mode=0o644, mtime_ns=0), **fields)  # type: ignore[arg-type]

    vault = tmp_path / "vault"
    now = clock.now()
    content = Content(
        kind="files",
        label="",
        host="evil",
        started=now,
        finished=now,
        tree=(),
        entries=0,
        size_bytes=0,
        complete=True,
    )
    with Fanout([Writer(living("intl", vault, clock))], Silent()) as out:
        out.add(node(b"a", Type.LINK, target=b"z"), [])
        out.add(node(b"long", Type.LINK, target=b"t" * 5000), [])
        out.add(node(b"mode", Type.FILE, mode=2**40), [])
        out.add(node(b"nul", Type.LINK, target=b"x\0y"), [])
        out.add(node(b"owner", Type.DIRECTORY, mode=2**40), [])
        out.add(node(b"attribute", Type.FILE, xattrs=((b"user.x\0y", b""),)), [])
        out.add(node(b"z", Type.FILE), [b"whole"])
        assert out.commit(content)[0].snapshot is not None

    said = reader(vault, tmp_path / "t", secret="open sesame")

    assert said.returncode == 1 and "Traceback" not in said.stderr
    lines = said.stderr.splitlines()
    assert len(lines) == 5 and all(line.startswith("DAMAGE: ") for line in lines), lines
    for name in ("attribute", "long", "mode", "nul", "owner"):
        assert any(f"{name}': " in line for line in lines), name
    assert (tmp_path / "t" / "a").read_bytes() == b"whole"


def test_pipes_keep_their_time_and_what_is_not_made_is_named_and_no_damage(
    source: Path, tmp_path: Path, clock: SimClock
) -> None:
    os.mkfifo(source / "pipe", 0o640)
    os.utime(source / "pipe", ns=(1, 1_700_000_000_123_456_789))
    with socket.socket(socket.AF_UNIX) as one, contextlib.chdir(source):
        one.bind("door")
    made = {"socket": "door"}
    if os.geteuid() == 0:
        os.mknod(source / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        made["char"] = "null"
    vault = tmp_path / "vault"
    put(living("intl", vault, clock), source)
    back = tmp_path / "t" / source.name
    said = reader(vault, tmp_path / "t", secret="open sesame")
    told = {f"not made: '{back / name}': a {kind}" for kind, name in made.items()}
    assert (said.returncode, set(said.stderr.splitlines())) == (0, told)
    there = (back / "pipe").lstat()
    assert (there.st_mtime_ns, stat.S_IMODE(there.st_mode)) == (1_700_000_000_123_456_789, 0o640)
    assert not any((back / name).exists() for name in made.values())


def test_a_locale_of_yesterday_stops_it_nowhere(
    source: Path, tmp_path: Path, clock: SimClock
) -> None:
    old = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    vault = tmp_path / "vault"
    repo = create_repository(DirectoryStore(vault), "芝麻开门", clock=clock, kdf=FAST)
    assert run_files([source], [repo], clock, random.Random(1), Silent(), label="人口").complete
    # Not -I alone: it would ignore the very variables.
    listed = subprocess.run(
        [sys.executable, READER, vault, _secret(tmp_path, "芝麻开门")],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, **old},
    )
    assert (listed.returncode, listed.stderr) == (0, b"")
    assert rb"\u4eba\u53e3" in listed.stdout


def _secret(base: Path, text: str) -> Path:
    (base / "secret").write_text(text + "\n", encoding="utf-8")
    return base / "secret"


def test_without_any_index_it_does_not_notice(
    source: Path, tmp_path: Path, clock: SimClock
) -> None:
    vault = tmp_path / "vault"
    put(living("intl", vault, clock), source)
    for segment in (vault / "index").iterdir():
        segment.unlink()
    assert reader(vault, tmp_path / "t", secret="open sesame").returncode == 0
    same(tmp_path / "t" / source.name, source)


def test_a_damaged_pack_costs_what_was_in_it_and_is_told(
    source: Path, tmp_path: Path, clock: SimClock
) -> None:
    vault = tmp_path / "vault"
    repo = living("intl", vault, clock)
    put(repo, source)
    sizes = {p: p.stat().st_size for p in (vault / "packs").rglob("*") if p.is_file()}
    largest = max(sizes, key=lambda p: sizes[p])
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 2] ^= 1
    largest.write_bytes(raw)
    said = reader(vault, tmp_path / "t", secret="open sesame")
    assert said.returncode == 1
    assert "DAMAGE" in said.stderr
    back = tmp_path / "t" / source.name
    lost = [p.name for p in back.rglob("*.damaged")]
    assert len(lost) == 1
    for path in (p for p in back.rglob("*") if p.is_file() and p.suffix != ".damaged"):
        assert path.read_bytes() == (source / path.relative_to(back)).read_bytes()


@each_suite
def test_the_log_comes_with_the_database(suite: str, tmp_path: Path, clock: SimClock) -> None:
    """Its objects only: a whole database is in the integration tests."""
    repo = living(suite, tmp_path / "vault", clock)
    archive = Archive(repo, 7)
    item = archive.put(b"log" * 100, epoch=1, timeline=1, segment=3)
    raw = repo.store.read(item.key)
    code = (
        "import sys; sys.argv=['x']; import runpy; m=runpy.run_path(sys.stdin.readline().strip());"
        "from pathlib import Path; r=m['Repository'](Path(sys.stdin.readline().strip()),'open sesame');"
        "t=Path(sys.stdin.readline().strip()); t.mkdir(); bad=[]; m['wal'](r,'7',t,bad.append); assert not bad, bad"
    )
    said = subprocess.run(
        [sys.executable, "-I", "-c", code],
        input=f"{READER}\n{tmp_path / 'vault'}\n{tmp_path / 'w'}\n",
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    segment = (tmp_path / "w" / "000000010000000000000003").read_bytes()
    assert (len(segment), segment[:300]) == (16 << 20, b"log" * 100)
    assert open_whole(repo.keys, Kind.WAL, item.key, raw)
