"""What an operator asks of a backup of files is done as it was meant, refused, or said not to have happened."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backup.crypto.keyring import Kdf
from backup.repository.init import create_repository
from backup.repository.reader import Reader
from backup.repository.repository import Repository, open_repository
from backup.sources.chunker import OTHER, Source
from backup.sources.fanout import Outcome
from backup.sources.files import Asked, backup_files
from backup.sources.reading import AGAIN_MAX
from backup.sources.walk import Rules
from backup.writer.writer import Writer
from infra.objectstore.directory import DirectoryStore
from zaibei.cli.backup import app
from zaibei.kernel.clock import SimClock, SystemClock
from zaibei.kernel.progress import Silent

BOM = b"\xef\xbb\xbf"
Told = tuple[int, dict[str, Any], str]
Zaibei = Callable[..., Told]
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="root reads everything; another must not")


@pytest.fixture
def vault(tmp_path: Path) -> Repository:
    fast = Kdf(memory_kib=64, iterations=1, lanes=1)
    store = DirectoryStore(tmp_path / "vault")
    return create_repository(store, "correct horse", clock=SystemClock(), kdf=fast)


@pytest.fixture
def zaibei(vault: Repository, tmp_path: Path) -> Zaibei:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    password.chmod(0o600)

    def run(*words: str | Path, stdin: bytes | None = None) -> Told:
        where = ("--repo", f"file://{tmp_path}/vault", "--password-file", str(password), "--json")
        done = CliRunner().invoke(app, [*map(str, words), *where], input=stdin)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, json.loads(done.stdout or "{}"), done.stderr

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = tmp_path / "src"
    for name in ("cache/1", "keep/a.tmp", "keep/b", "c.tmp"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(f"of {name}")
    return base


def listed(zaibei: Zaibei) -> set[str]:
    """The files of the newest snapshot."""
    return {e["path"] for e in zaibei("show")[1]["entries"] if e["type"] == "file"}


# ── rules ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        BOM + b"cache/\r\n*.tmp\r\n",
        b"cache/\r\n*.tmp",
        b"cache/   \n*.tmp\n",
        BOM + b"# a comment\ncache/\n\n*.tmp\n",
        "cache/\n*.tmp\n\xe9\n".encode("latin-1"),
    ],
)
def test_a_file_of_rules_means_what_its_editor_showed(
    zaibei: Zaibei, source: Path, tmp_path: Path, text: bytes
) -> None:
    (tmp_path / "rules").write_bytes(text)

    code, _, _ = zaibei("run", "--files", source, "--exclude-from", tmp_path / "rules")

    assert (code, listed(zaibei)) == (0, {"src/keep/b"})


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_rules_in_another_encoding_are_refused_with_the_reason(
    zaibei: Zaibei, source: Path, tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "rules").write_text("cache/\n*.tmp\n", encoding=encoding)

    code, _, words = zaibei("run", "--files", source, "--exclude-from", tmp_path / "rules")

    assert (code == 2 and "as UTF-8" in words) or "is it UTF-16" in words


@pytest.mark.parametrize("rule", ["", "  ", "#save#", "!"])
@pytest.mark.parametrize("option", ["--exclude", "--allow-unreadable"])
def test_a_rule_of_the_command_line_that_says_nothing_is_refused(
    zaibei: Zaibei, source: Path, option: str, rule: str
) -> None:
    code, _, words = zaibei("run", "--files", source, option, rule)

    assert code == 2 and "hint:" in words


@pytest.mark.parametrize("rule", ["src/cache", "./cache", "~/cache", "cahce/", "/nowhere/cache"])
def test_a_rule_that_matched_nothing_is_said(zaibei: Zaibei, source: Path, rule: str) -> None:
    code, told, words = zaibei("run", "--files", source, "--exclude", rule, "--exclude", "*.tmp")

    assert code == 0
    assert f"{rule!r}: matched nothing" in words
    assert told["facts"]["idle_rules"] == [f"rule {rule!r}"]
    assert "*.tmp" not in "".join(told["facts"]["idle_rules"])


def test_a_file_without_a_rule_is_said(zaibei: Zaibei, source: Path, tmp_path: Path) -> None:
    (tmp_path / "rules").write_bytes(BOM + b"# later\n\n")

    code, told, words = zaibei("run", "--files", source, "--exclude-from", tmp_path / "rules")

    assert code == 0 and "no rule in it" in words
    assert told["facts"]["idle_rules"] == [f"{tmp_path}/rules: no rule in it"]


def test_a_whole_path_leaves_out_what_is_there_and_nothing_in_another_source(
    zaibei: Zaibei, source: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "cache").mkdir(parents=True)
    (other / "cache" / "2").write_text("2")
    both = ("--files", source, "--files", other)

    code, told, _ = zaibei(
        "run", *both, "--exclude", f"{source}/cache", "--exclude", f"{source}/**/*.tmp"
    )

    assert code == 0 and told["facts"]["idle_rules"] == []
    assert listed(zaibei) == {"src/keep/b", "other/cache/2"}


def test_a_whole_path_works_through_a_link_and_as_an_exception(
    zaibei: Zaibei, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "way").symlink_to(source)

    assert (
        zaibei(
            *("run", "--files", tmp_path / "way", "--exclude", "*.tmp"),
            *("--exclude", f"{source}/cache", "--exclude", f"!{tmp_path}/way/c.tmp"),
        )[0]
        == 0
    )
    assert listed(zaibei) == {"way/keep/b", "way/c.tmp"}


# ── sources ──────────────────────────────────────────────────────────────────────────────────────


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one, chdir(path.parent):
        one.bind(path.name)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize("kind", [a_pipe, a_socket, a_device])
@pytest.mark.parametrize("linked", [False, True])
def test_a_source_without_contents_of_its_own_is_refused(
    zaibei: Zaibei, source: Path, tmp_path: Path, kind: Callable[[Path], None], linked: bool
) -> None:
    path = tmp_path / "odd"
    kind(path)
    if linked:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"

    code, _, words = zaibei("run", "--files", source, "--files", path)

    assert code == 2 and "would not be backed up" in words
    assert "hint: give its contents to standard input: --stdin" in words
    assert zaibei("list")[1]["repositories"].popitem()[1] == []


def test_what_a_shell_hands_over_as_a_path_is_refused(
    vault: Repository, tmp_path: Path, zaibei: Zaibei
) -> None:
    argv = [sys.executable, "-P", "-m", "zaibei.cli.main", "backup", "run", "--files", "/dev/stdin"]
    code = "import sys; from zaibei.cli.main import run; sys.argv[0] = 'zaibei'; run()"
    where = ["--repo", f"file://{tmp_path}/vault", "--password-file", str(tmp_path / "password")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *argv[4:], *where],
        input=b"x",
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2 and b"a pipe" in done.stderr


def test_standard_input_is_one_file_of_any_length(
    zaibei: Zaibei, tmp_path: Path, vault: Repository
) -> None:
    data = os.urandom(9_000_000)

    assert zaibei("run", "--stdin", "dump.sql", "--tag", "db", stdin=data)[0] == 0
    assert zaibei("restore", "latest", "--target", tmp_path / "t")[0] == 0

    assert (tmp_path / "t" / "dump.sql").read_bytes() == data
    assert stat.S_IMODE((tmp_path / "t" / "dump.sql").stat().st_mode) == 0o600


def test_standard_input_that_was_empty_is_no_good_backup(zaibei: Zaibei) -> None:
    code, told, _ = zaibei("run", "--stdin", "dump.sql", stdin=b"")
    assert code == 1 and "standard input was empty" in told["problems"][0]
    assert zaibei("run", "--stdin", "dump.sql", "--allow-empty", stdin=b"")[0] == 0
    for name in ("a/b", "..", ""):
        assert zaibei("run", "--stdin", name, stdin=b"x")[0] == 2


def test_a_first_backup_of_nothing_ends_with_1_unless_it_is_meant(
    zaibei: Zaibei, tmp_path: Path, source: Path
) -> None:
    (tmp_path / "disk" / "empty").mkdir(parents=True)

    code, told, _ = zaibei("run", "--files", tmp_path / "disk")
    assert code == 1 and "0 files" in told["problems"][0]
    code, told, _ = zaibei("run", "--files", source, "--exclude", "*")
    assert code == 1 and "0 files" in told["problems"][0]
    assert zaibei("run", "--files", tmp_path / "disk", "--allow-empty")[0] == 0


def test_a_repository_in_its_own_source_is_left_out_and_said(
    zaibei: Zaibei, source: Path, tmp_path: Path
) -> None:
    sizes = []
    for _ in range(3):
        code, told, words = zaibei("run", "--files", tmp_path, "--exclude", "password")
        assert code == 0 and "is a repository of this run: left out" in words
        assert told["facts"]["own_repositories"] == [f"{tmp_path.name}/vault"]
        sizes.append(told["vaults"][0]["size_bytes"])

    assert len(set(sizes)) == 1
    assert not any("vault" in path for path in listed(zaibei))


def test_two_sources_of_one_name_get_names(zaibei: Zaibei, tmp_path: Path) -> None:
    for part in ("p", "q"):
        (tmp_path / part / "data").mkdir(parents=True)
        (tmp_path / part / "data" / part).write_text(part)
    p, q = tmp_path / "p" / "data", tmp_path / "q" / "data"

    code, _, words = zaibei("run", "--files", p, "--files", q)
    assert code == 2 and "--files other=" in words
    assert zaibei("run", "--files", f"one={p}", "--files", q)[0] == 0
    assert listed(zaibei) == {"one/p", "data/q"}
    (tmp_path / "a=b").mkdir()
    (tmp_path / "a=b" / "x").write_text("x")
    with chdir(tmp_path):
        assert zaibei("run", "--files", "a=b")[0] == 0, "a path that is there is that path"
    assert listed(zaibei) == {"a=b/x"}


def test_a_restore_knows_a_file_by_the_path_it_had(
    zaibei: Zaibei, source: Path, tmp_path: Path
) -> None:
    assert zaibei("run", "--files", f"mine={source}")[0] == 0

    code, told, _ = zaibei(
        *("restore", "latest", "--target", tmp_path / "t", "--include", f"{source}/keep/"),
        *("--exclude", f"{source}/keep/*.tmp", "--include", "nothing-like-it"),
    )

    assert code == 0 and told["files"] == 1
    assert (tmp_path / "t" / "mine" / "keep" / "b").exists()
    assert told["notes"] == ["rule 'nothing-like-it': matched nothing"]


def test_a_restore_of_nothing_leaves_no_target_behind(
    zaibei: Zaibei, source: Path, tmp_path: Path
) -> None:
    assert zaibei("run", "--files", source)[0] == 0

    assert zaibei("restore", "latest", "--target", tmp_path / "t", "--include", "/no")[0] == 2
    assert not (tmp_path / "t").exists()
    (tmp_path / "mine").mkdir()
    assert zaibei("restore", "latest", "--target", tmp_path / "mine", "--include", "/no")[0] == 2
    assert (tmp_path / "mine").exists()


# ── whose it is ──────────────────────────────────────────────────────────────────────────────────


def test_a_host_and_tags_that_are_named_decide_what_is_kept(zaibei: Zaibei, source: Path) -> None:
    for n in range(3):
        assert zaibei("run", "--files", source, "--host", f"c{n}", "--tag", f"t{n}")[0] == 0
    found = zaibei("list")[1]["repositories"].popitem()[1]
    assert [(s["host"], s["tags"], s["paths"]) for s in found] == [
        (f"c{n}", [f"t{n}"], [str(source)]) for n in range(3)
    ]

    def kept(*words: str) -> list[int]:
        told = zaibei("forget", "--keep-last", "1", "--dry-run", *words)[1]
        decisions = told["repositories"].popitem()[1]["decisions"]
        return [d["entry"]["sequence"] for d in decisions if d["keep"]]

    assert kept() == [1, 2, 3], "each container was a host of its own"
    assert kept("--group-by", "label,paths") == [3]
    assert kept("--group-by", "paths", "--keep-tag", "t1") == [2, 3]
    assert zaibei("forget", "--keep-last", "1", "--dry-run", "--group-by", "moon")[0] == 2


def test_a_host_that_is_named_finds_its_own_last_listing(zaibei: Zaibei, source: Path) -> None:
    for path in source.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    for _ in range(2):
        assert zaibei("run", "--files", source, "--host", "shop")[0] == 0

    assert zaibei("show", "1")[1]["host"] == "shop"
    assert zaibei("show")[1]["facts"]["roots"] == [str(source)]


def test_the_host_may_come_from_the_environment(
    zaibei: Zaibei, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZAIBEI_HOST", "shop")

    assert zaibei("run", "--files", source)[0] == 0
    assert zaibei("show")[1]["host"] == "shop"


def test_a_job_has_host_tags_and_what_may_fail(zaibei: Zaibei, source: Path) -> None:
    words = ("--host", "shop", "--tag", "night", "--allow-unreadable", "*.lock", "--allow-empty")
    code, told, _ = zaibei(
        "schedule", "add", "j", "--every", "1h", "--files", f"x={source}", *words
    )

    assert code == 0 and told["notes"] == []
    job = told["job"]
    assert (job["host"], job["tags"], job["unreadable"]) == ("shop", ["night"], ["*.lock"])
    assert job["files"] == [f"x={source}"] and job["allow_empty"] is True
    code, told, _ = zaibei("schedule", "add", "k", "--every", "1h", "--files", source)
    assert code == 0 and "host" not in told["job"], "an older zaibei reads it"
    for wrong in (("--files", "/dev/null"), ("--files", source, "--files", f"src={source}")):
        assert zaibei("schedule", "add", "w", "--every", "1h", *wrong)[0] == 2


# ── what cannot be read ──────────────────────────────────────────────────────────────────────────


class WhileWritten:
    """Cuts as always, and for so many times another program writes to a file in the middle of it."""

    def __init__(self, file: Path, times: int) -> None:
        self._file, self.left = file, times

    def cut(self, source: Source) -> Iterator[bytes]:
        for piece in OTHER.cut(source):
            yield piece
            if self.left:
                self.left -= 1
                with self._file.open("ab") as more:
                    more.write(b"more")


def run_while(repo: Repository, path: Path, times: int, **asked: Any) -> Outcome:
    (outcome,) = backup_files(
        [path],
        [Writer(repo)],
        clock=SimClock(),
        progress=Silent(),
        cutter=WhileWritten(path / "log", times),
        asked=Asked(**asked),
    )
    assert outcome.snapshot is not None
    return outcome


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "log").write_bytes(b"begun")
    return tmp_path / "busy"


def test_a_file_that_changes_once_is_read_again_and_whole(vault: Repository, busy: Path) -> None:
    for times in (1, AGAIN_MAX):
        outcome = run_while(vault, busy, times)

        assert outcome.snapshot is not None and outcome.snapshot.content.complete
        with Reader(vault) as reader:
            (log,) = [n for n in reader.nodes(outcome.snapshot) if n.path.endswith(b"log")]
        assert log.size_bytes == (busy / "log").stat().st_size and not log.torn


def test_a_file_that_changes_every_time_is_marked_and_its_restore_says_so(
    zaibei: Zaibei, vault: Repository, busy: Path, tmp_path: Path
) -> None:
    outcome = run_while(vault, busy, 100)
    assert outcome.snapshot is not None and not outcome.snapshot.content.complete

    marks = {e["path"]: e.get("torn") for e in zaibei("show")[1]["entries"]}
    assert marks == {"busy": None, "busy/log": True}
    where = ("--repo", f"file://{tmp_path}/vault", "--password-file", str(tmp_path / "password"))
    shown = CliRunner().invoke(app, ["show", *where]).stdout
    assert "busy/log  TORN" in shown
    done = CliRunner().invoke(app, ["restore", "latest", "--target", str(tmp_path / "t"), *where])
    assert done.exit_code == 1
    assert "TORN: 'busy/log': changed while it was read" in done.stdout
    assert "NOT IN THE BACKUP" not in done.stdout
    assert (tmp_path / "t" / "busy" / "log").read_bytes().startswith(b"begun")


def test_what_may_fail_is_said_and_leaves_the_run_complete(vault: Repository, busy: Path) -> None:
    outcome = run_while(vault, busy, 100, unreadable=Rules.of(["log"]))

    assert outcome.snapshot is not None
    content = outcome.snapshot.content
    assert content.complete and content.problems == ()
    assert content.facts["allowed_problems"] == ["'busy/log': changed while it was read"]


def test_an_incomplete_snapshot_gives_the_next_run_what_it_listed_whole(
    vault: Repository, busy: Path
) -> None:
    (busy / "old").write_text("long ago")
    clock = SimClock()
    rest = {"progress": Silent(), "clock": clock}
    os.utime(busy / "old", (1, 1))
    (first,) = backup_files([busy], [Writer(vault)], cutter=WhileWritten(busy / "log", 100), **rest)
    assert first.snapshot is not None and not first.snapshot.content.complete
    from datetime import timedelta  # noqa: PLC0415

    real = SystemClock().now() - clock.now()
    clock.sleep(real + timedelta(seconds=60))
    (second,) = backup_files(
        [busy], [Writer(vault)], cutter=WhileWritten(busy / "log", 100), **rest
    )
    clock.sleep(timedelta(seconds=60))
    (third,) = backup_files([busy], [Writer(vault)], **rest)

    assert second.snapshot is not None and not second.snapshot.content.complete
    assert third.snapshot is not None and third.snapshot.content.complete
    assert third.snapshot.content.facts["unchanged"] == 1, "`old`, and not the torn log"


# ── fidelity ─────────────────────────────────────────────────────────────────────────────────────


def test_second_names_of_links_and_pipes_are_second_names_again(
    zaibei: Zaibei, source: Path, tmp_path: Path
) -> None:
    (source / "link").symlink_to("c.tmp")
    os.link(source / "link", source / "keep" / "link", follow_symlinks=False)
    os.mkfifo(source / "pipe")
    os.link(source / "pipe", source / "keep" / "pipe")
    if os.geteuid() == 0:
        os.mknod(source / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.link(source / "null", source / "keep" / "null")
    assert zaibei("run", "--files", source)[0] == 0

    assert zaibei("restore", "latest", "--target", tmp_path / "t")[0] == 0
    assert (
        zaibei("restore", "latest", "--target", tmp_path / "u", "--exclude", "/src/keep/")[0] == 0
    )

    back = tmp_path / "t" / "src"
    for name in ("link", "pipe", *(["null"] * (os.geteuid() == 0))):
        one, two = (back / "keep" / name).lstat(), (back / name).lstat()
        assert one.st_ino == two.st_ino and one.st_nlink == 2, name
        assert stat.S_IFMT((tmp_path / "u" / "src" / name).lstat().st_mode) == stat.S_IFMT(
            one.st_mode
        )


def test_a_tree_deeper_than_a_path_may_be_long_comes_back(
    zaibei: Zaibei, vault: Repository, tmp_path: Path
) -> None:
    base = tmp_path / "deep"
    base.mkdir()
    held = os.open(base, os.O_DIRECTORY)
    for n in range(40):
        name = f"d{n:03d}" + "x" * 200
        os.mkdir(name, dir_fd=held)
        below = os.open(name, os.O_DIRECTORY, dir_fd=held)
        with open(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=below), "w") as out:  # noqa: PTH123
            out.write(str(n))
        os.symlink("f", "l", dir_fd=below)
        os.close(held)
        held = below
    os.close(held)

    code, told, _ = zaibei("run", "--files", base)
    assert (code, told["problems"]) == (0, [])
    code, told, _ = zaibei("restore", "latest", "--target", tmp_path / "t")
    assert (code, told["files"]) == (0, 40)

    reached, held = 0, os.open(tmp_path / "t" / "deep", os.O_DIRECTORY)
    while names := sorted(n for n in os.listdir(held) if n.startswith("d")):  # noqa: PTH208
        below = os.open(names[0], os.O_DIRECTORY, dir_fd=held)
        with open(os.open("f", os.O_RDONLY, dir_fd=below)) as made:  # noqa: PTH123
            assert made.read() == str(reached)
        assert os.readlink("l", dir_fd=below) == "f"
        os.close(held)
        held, reached = below, reached + 1
    os.close(held)
    assert reached == 40


def test_a_listing_of_before_opens_as_it_did(vault: Repository, source: Path) -> None:
    """Torn copies and second names are fields that a listing may have, and need not."""
    again = open_repository(vault.store, "correct horse", clock=SystemClock())
    (outcome,) = backup_files([source], [Writer(again)], clock=SimClock(), progress=Silent())
    assert outcome.snapshot is not None

    with Reader(again) as reader:
        assert not any(n.torn or n.hard for n in reader.nodes(outcome.snapshot))


def test_a_password_file_with_a_byte_order_mark_opens_what_it_is_for(
    zaibei: Zaibei, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "password").write_bytes(BOM + b"correct horse\r\n")
    assert zaibei("run", "--files", source)[0] == 0
    # As an earlier zaibei made one, with the mark in the passphrase.
    shutil.rmtree(tmp_path / "vault")
    fast = Kdf(memory_kib=64, iterations=1, lanes=1)
    old = "\ufeffcorrect horse"
    create_repository(DirectoryStore(tmp_path / "vault"), old, clock=SystemClock(), kdf=fast)
    assert zaibei("run", "--files", source)[0] == 0
    (tmp_path / "password").write_text("wrong\n")
    assert zaibei("list")[0] == 2
