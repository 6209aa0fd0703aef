"""A restore that is interrupted, meets a full disk, damage, forged listings and names that no disk takes."""

# Names are bytes here.

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from backup.errors import NotEmpty
from backup.format.snapshot import Content
from backup.format.tree import Node, Type
from backup.integrity.verify import verify
from backup.repository.init import create_repository
from backup.repository.reader import Reader
from backup.repository.repository import Repository, open_repository
from backup.restore.files import Restored, restore, restore_files, survey
from backup.restore.replicas import Source
from backup.restore.target_dir import STAGE
from backup.run import run_files
from backup.sources.fanout import Fanout
from backup.sources.walk import Rules, chosen
from backup.writer.pack_health import Level
from backup.writer.writer import Writer
from infra.objectstore.directory import DirectoryStore
from infra.objectstore.memory import Fault, MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage, NoSpace, Refused, Unreachable, Usage
from zaibei.kernel.progress import Silent

Make = Callable[..., Repository]
STAGED = os.fsdecode(STAGE)


def many(base: Path, count: int = 40, size: int = 50_000) -> Path:
    """Files that share nothing, so that each needs bytes of its own."""
    rng = random.Random(5)
    (base / "sub").mkdir(parents=True)
    for n in range(count):
        (base / ("sub" if n % 2 else ".") / f"{n:03d}").write_bytes(rng.randbytes(size))
    return base


def contents(base: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(base)): p.read_bytes()
        for p in base.rglob("*")
        if p.is_file() and not p.is_symlink() and STAGED not in p.parts
    }


def back_up(repos: list[Repository], source: Path, clock: SimClock) -> None:
    assert run_files([source], repos, clock, None, Silent()).complete


def bring_back(repos: list[Repository], target: Path, **options: object) -> Restored:
    one = repos[0].find("latest")
    sources = [
        Source(repos[0], snapshot=one),
        *(Source(r, like=one.content) for r in repos[1:]),
    ]
    try:
        return restore(sources, target, progress=Silent(), **options)  # type: ignore[arg-type]
    finally:
        for source in sources:
            source.close()


def small_packs(repo: Repository, source: Path, clock: SimClock, size: int = 256 << 10) -> None:
    from backup.sources.files import backup_files  # noqa: PLC0415

    outcome = backup_files(
        [source], [Writer(repo, pack_bytes=size)], clock=clock, progress=Silent()
    )
    assert outcome[0].snapshot is not None


def test_a_full_disk_ends_it_with_what_was_reached_and_more_room_lets_it_go_on(
    repo: Repository,
    tmp_path: Path,
    clock: SimClock,
    small_disk: Callable[[Path, int], Path],
) -> None:
    source = many(tmp_path / "source")
    small_packs(repo, source, clock)
    disk = tmp_path / "disk"
    disk.mkdir()
    small_disk(disk, 1 << 20)

    with pytest.raises(NoSpace, match=r"files are whole, .* of 1\.91 MiB"):
        bring_back([repo], disk / "t")

    reached = contents(disk / "t" / "source")
    wanted = contents(source)
    assert 0 < len(reached) < len(wanted)
    assert reached.items() <= wanted.items(), "a name that is there is a whole file"

    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True, timeout=10)
    done = bring_back([repo], disk / "t", resume=True)

    assert contents(disk / "t" / "source") == wanted
    assert done.kept == len(reached)
    assert done.sound and not (disk / "t" / STAGED).exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from backup.repository.reader import Reader
from backup.repository.repository import open_repository
from backup.restore.files import restore_files
from infra.objectstore.directory import DirectoryStore
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.progress import Silent

class Deadly(DirectoryStore):
    packs = 0
    def read(self, key, *, start=0, length=None):
        if key.startswith("packs/"):
            Deadly.packs += 1
            if Deadly.packs == 5:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().read(key, start=start, length=length)

repo = open_repository(Deadly(Path(sys.argv[1])), "correct horse", clock=SystemClock())
with Reader(repo) as reader:
    restore_files(reader, repo.find("latest"), Path(sys.argv[2]), progress=Silent())
"""


def test_a_restore_that_was_killed_goes_on_where_it_was(tmp_path: Path, clock: SimClock) -> None:
    from backup.crypto.keyring import Kdf  # noqa: PLC0415

    source, vault, target = many(tmp_path / "source"), tmp_path / "vault", tmp_path / "t"
    fast = Kdf(memory_kib=64, iterations=1, lanes=1)
    repo = create_repository(DirectoryStore(vault), "correct horse", clock=clock, kdf=fast)
    small_packs(repo, source, clock)

    killed = subprocess.run(
        [sys.executable, "-P", "-c", KILLED, str(vault), str(target)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        timeout=60,
        capture_output=True,
        check=False,
    )

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    reached, wanted = contents(target / "source"), contents(source)
    assert reached.items() <= wanted.items() and len(reached) < len(wanted)
    with pytest.raises(NotEmpty, match="not empty") as told:
        bring_back([repo], target)
    assert "--resume" in str(told.value)

    again = open_repository(DirectoryStore(vault), "correct horse", clock=clock)
    done = bring_back([again], target, resume=True)

    assert contents(target / "source") == wanted
    assert done.kept == len(reached) and done.files == len(wanted)


def interrupted(repo: Repository, target: Path) -> None:
    """Ended by a store that stops answering after some packs."""
    assert isinstance(repo.store, MemoryStore)
    before = repo.store.faults
    repo.store.faults = dict.fromkeys(
        range(repo.store.calls + 9, repo.store.calls + 4000), Fault.BEFORE
    )
    with pytest.raises(Unreachable):
        bring_back([repo], target)
    repo.store.faults = before


def test_what_is_there_is_trusted_by_its_content_and_not_by_its_times(
    repo: Repository, tmp_path: Path, clock: SimClock
) -> None:
    source, target = many(tmp_path / "source"), tmp_path / "t"
    small_packs(repo, source, clock)
    interrupted(repo, target)
    victim = next(p for p in sorted((target / "source").rglob("*")) if p.is_file())
    was = victim.stat()
    victim.write_bytes(b"\0" * was.st_size)  # as a machine leaves it that lost its power
    os.utime(victim, ns=(was.st_atime_ns, was.st_mtime_ns))

    bring_back([repo], target, resume=True)

    assert contents(target / "source") == contents(source)


def test_an_interrupted_restore_of_another_snapshot_is_not_gone_on_with(
    repo: Repository, tmp_path: Path, clock: SimClock
) -> None:
    source, target = many(tmp_path / "source"), tmp_path / "t"
    small_packs(repo, source, clock)
    interrupted(repo, target)
    from datetime import timedelta  # noqa: PLC0415

    clock.sleep(timedelta(seconds=5))
    back_up([repo], source, clock)

    with pytest.raises(Refused, match="another snapshot"):
        bring_back([repo], target, resume=True)


def test_resuming_links_and_special_files_makes_them_once(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    os.link(some_files / "text", some_files / "zz-again")
    os.mkfifo(some_files / "pipe")
    back_up([repo], some_files, clock)
    target = tmp_path / "t"
    bring_back([repo], target)
    # As if it had died just before its last step.
    from backup.restore.replicas import mark_of  # noqa: PLC0415

    (target / STAGED).mkdir()
    (target / STAGED / "of").write_text(mark_of(repo.find("latest").content))
    (target / "source" / "link").unlink()
    (target / "source" / "link").symlink_to("somewhere/else")

    done = bring_back([repo], target, resume=True)

    assert done.sound and done.kept == 5
    assert (target / "source" / "link").readlink() == Path("deep/big")
    assert (target / "source" / "text").stat().st_nlink == 2


@pytest.mark.parametrize("resume", [False, True])
def test_a_target_with_anything_in_it_is_refused(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock, resume: bool
) -> None:
    back_up([repo], some_files, clock)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "mine").write_text("mine")

    with pytest.raises(NotEmpty, match="not empty"):
        bring_back([repo], tmp_path / "t", resume=resume)
    with pytest.raises(Usage, match="not a directory"):
        bring_back([repo], tmp_path / "t" / "mine", resume=resume)

    assert [p.name for p in (tmp_path / "t").iterdir()] == ["mine"]


def test_a_new_filesystem_with_its_lost_and_found_is_empty(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    back_up([repo], some_files, clock)
    (tmp_path / "t" / "lost+found").mkdir(parents=True)

    assert bring_back([repo], tmp_path / "t").sound


def test_only_what_is_included_comes_back_and_its_directories_as_they_were(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    back_up([repo], some_files, clock)
    wanted = chosen(Rules.of(["/source/deep/"]), Rules.of(["same"]))

    done = bring_back([repo], tmp_path / "t", wanted=wanted)

    assert sorted(contents(tmp_path / "t")) == ["source/deep/big"]
    assert done.files == 1
    was, now = (some_files / "deep").stat(), (tmp_path / "t" / "source" / "deep").stat()
    assert (now.st_mode, now.st_mtime_ns) == (was.st_mode, was.st_mtime_ns)


def test_a_survey_says_what_would_come_back_and_touches_nothing(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    back_up([repo], some_files, clock)
    source = Source(repo, snapshot=repo.find("latest"))

    found = survey([source], progress=Silent(), wanted=chosen(Rules.of(["*big"]), Rules.of()))
    source.close()

    assert (found.files, found.size_bytes) == (1, (2 << 20) + 77)


def damaged(repo: Repository, *, of: str = "data") -> None:
    """One pack of the latest snapshot's data (or listing) is not what it was."""
    with Reader(repo) as reader:
        one = repo.find("latest")
        ids = one.content.tree
        if of == "data":
            ids = next(n.blobs for n in reader.nodes(one) if n.blobs)
        pack = reader.catalogue.locations(ids[0])[0].pack
    key = f"packs/{pack[:2]}/{pack}"
    assert isinstance(repo.store, MemoryStore)
    data = repo.store.read(key)
    repo.store.corrupt(key, data[:100] + b"\0" * (len(data) - 100))


def test_what_is_damaged_is_left_out_and_named_and_the_rest_comes_back(
    repo: Repository, tmp_path: Path, clock: SimClock
) -> None:
    source = many(tmp_path / "source")
    small_packs(repo, source, clock)
    damaged(repo)

    done = bring_back([repo], tmp_path / "t")

    back, wanted = contents(tmp_path / "t" / "source"), contents(source)
    assert back.items() <= wanted.items()
    assert len(back) + len(done.lost) == len(wanted) and done.lost
    assert not done.sound
    with Reader(repo) as reader, pytest.raises(Damage, match="files cannot be restored"):
        restore_files(reader, repo.find("latest"), tmp_path / "other", progress=Silent())


def test_what_is_damaged_in_one_vault_is_taken_from_the_other_and_said(
    make: Make, tmp_path: Path, clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    source = many(tmp_path / "source")
    back_up([b, c], source, clock)
    damaged(b)

    done = bring_back([b, c], tmp_path / "t")

    assert contents(tmp_path / "t" / "source") == contents(source)
    assert not done.lost and done.taken and not done.sound
    assert all("site-c" in line for line in done.taken)


def test_what_one_vault_lacks_can_be_gone_on_with_from_another(
    make: Make, tmp_path: Path, clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    source = many(tmp_path / "source")
    back_up([b, c], source, clock)
    damaged(b)
    assert bring_back([b], tmp_path / "t").lost

    done = bring_back([c], tmp_path / "t", resume=True)

    assert contents(tmp_path / "t" / "source") == contents(source)
    assert done.sound and not (tmp_path / "t" / STAGED).exists()


def test_a_listing_that_breaks_off_goes_on_in_the_other_vault(
    make: Make, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    back_up([b, c], some_files, clock)
    damaged(b, of="listing")

    done = bring_back([b, c], tmp_path / "t")

    assert contents(tmp_path / "t" / "source") == contents(some_files)
    assert any("the listing" in line and "site-c" in line for line in done.taken)
    with pytest.raises(Damage):
        bring_back([b], tmp_path / "alone")


def test_another_vault_that_holds_another_run_is_no_help_and_no_harm(
    make: Make, tmp_path: Path, clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    source = many(tmp_path / "source")
    back_up([b], source, clock)
    back_up([c], source / "sub", clock)
    damaged(b)

    done = bring_back([b, c], tmp_path / "t")

    assert done.lost and not done.taken
    assert contents(tmp_path / "t" / "source").items() <= contents(source).items()


def test_another_vault_that_stops_answering_leaves_what_is_lost_lost(
    make: Make, tmp_path: Path, clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    source = many(tmp_path / "source")
    (source / "zz-link").symlink_to("000")
    back_up([b, c], source, clock)
    damaged(b)
    assert isinstance(c.store, MemoryStore)
    c.store.faults = dict.fromkeys(range(c.store.calls + 6, c.store.calls + 4000), Fault.BEFORE)

    done = bring_back([b, c], tmp_path / "t")

    assert done.lost and done.links == 1
    assert contents(tmp_path / "t" / "source").items() <= contents(source).items()


def forge(repo: Repository, entries: list[tuple[Node, bytes]], clock: SimClock) -> None:
    """Whoever holds the key of a compromised host can sign any listing."""
    content = Content(
        kind="files",
        label="",
        host="evil",
        started=clock.now(),
        finished=clock.now(),
        tree=(),
        entries=0,
        size_bytes=0,
        complete=True,
    )
    with Fanout([Writer(repo)], Silent()) as out:
        for node, data in entries:
            out.add(node, [data] if data else [])
        assert out.commit(content)[0].snapshot is not None


def file(path: bytes, **fields: object) -> Node:
    made = Node(path=path, type=Type.FILE, mode=0o644, mtime_ns=0)
    return replace(made, **fields)  # type: ignore[arg-type]


FORGED = {
    "the same file twice": [(file(b"x"), b"one"), (file(b"x"), b"two")],
    "a file that is a directory": [(file(b"x"), b"one"), (file(b"x/y"), b"two")],
    "a directory that is a file": [(file(b"x/y"), b"one"), (file(b"x"), b"two")],
    "the restore's own folder": [(file(STAGE + b"/of"), b"owned")],
    "a hard link that climbs out": [(file(b"x", hard=b"../../etc/passwd"), b"")],
    "a hard link to nothing": [(file(b"x", hard=b"y"), b"")],
    "a hard link to a directory": [
        (file(b"d", type=Type.DIRECTORY), b""),
        (file(b"x", hard=b"d"), b""),
    ],
    "a hard link through a link": [
        (file(b"l", type=Type.LINK, target=b"../outside"), b""),
        (file(b"x", hard=b"l/secret"), b""),
    ],
    "a pipe of the same name": [(file(b"x"), b"one"), (file(b"x", type=Type.FIFO), b"")],
}


@pytest.mark.parametrize("what", sorted(FORGED))
@pytest.mark.parametrize("resume", [False, True])
def test_a_forged_listing_is_damage_and_touches_nothing_outside(
    repo: Repository, tmp_path: Path, clock: SimClock, what: str, resume: bool
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    forge(repo, FORGED[what], clock)
    target = tmp_path / "t"

    with pytest.raises(Damage):
        bring_back([repo], target)
    if resume and (target / STAGED).exists():
        with suppress(Damage):  # one name twice: the second replaces what the first run left
            bring_back([repo], target, resume=True)

    assert [p.name for p in outside.iterdir()] == ["secret"]
    assert (outside / "secret").stat().st_nlink == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "source") == ["outside", "t"]


def test_a_name_that_this_filesystem_cannot_hold_is_lost_alone(
    repo: Repository, tmp_path: Path, clock: SimClock
) -> None:
    long = b"n" * 300
    forge(repo, [(file(b"a"), b"a"), (file(long), b"b"), (file(long + b"/x"), b"c")], clock)

    done = bring_back([repo], tmp_path / "t")

    assert contents(tmp_path / "t") == {"a": b"a"}
    assert len(done.lost) == 2 and "File name too long" in done.lost[0]


def test_a_link_that_this_filesystem_cannot_hold_is_lost_alone(
    repo: Repository, tmp_path: Path, clock: SimClock
) -> None:
    """xfs takes targets of 1023 bytes, ext4 of 4095: a link of one is a link too long on the other."""
    long = "n" * 300
    forged = [
        (file(b"a"), b"a"),
        (file(b"a_longlink", type=Type.LINK, target=b"t" * 5000), b""),
        (file(b"a_nolink", type=Type.LINK), b""),
        (file(b"link", type=Type.LINK, target=b"a"), b""),
        (file(b"pipe", type=Type.FIFO), b""),
        (file(long.encode(), hard=b"a"), b""),
        (file(long.encode() + b"p", type=Type.FIFO), b""),
        (file(long.encode() + b"q/x"), b"q"),
        (file(b"q", hard=long.encode() + b"q/x"), b""),
    ]
    forge(repo, forged, clock)

    for again in (False, True):
        done = bring_back([repo], tmp_path / "t", resume=again)

        assert done.lost == (
            f"'{long}q/x': this filesystem cannot hold it: File name too long",
            f"'{long}': this filesystem cannot hold it: File name too long",
            f"'q': its first name '{long}q/x' is lost",
            f"'{long}p': this filesystem cannot hold it: File name too long",
            "'a_longlink': this filesystem cannot hold it: File name too long",
            "'a_nolink': this filesystem cannot hold it: No such file or directory",
        )
        assert (done.files, done.links, done.special, done.sound) == (1, 1, 1, False)
        assert contents(tmp_path / "t") == {"a": b"a"}
        assert (tmp_path / "t" / "link").readlink() == Path("a")


@pytest.mark.parametrize(
    "forged",
    [
        file(b"bad", uid=-5),
        file(b"bad", type=Type.LINK, target=b"x\0y"),
        file(b"bad", xattrs=((b"user.x\0y", b""),)),
        file(b"bad", type=Type.CHAR, rdev=(2**31, 0)),
    ],
)
def test_a_number_or_name_that_no_system_takes_is_damage_and_named(
    repo: Repository, tmp_path: Path, clock: SimClock, forged: Node
) -> None:
    forge(repo, [(file(b"a"), b"a"), (forged, b"")], clock)

    with pytest.raises(Damage, match="'bad'"):
        bring_back([repo], tmp_path / "t")

    found = verify(repo, Level.FULL, rng=random.Random(1), progress=Silent()).findings
    assert any("'bad'" in str(f) for f in found), found


def test_an_attribute_that_nobody_takes_is_said(
    repo: Repository, tmp_path: Path, clock: SimClock
) -> None:
    forge(repo, [(file(b"a", xattrs=((b"other.system", b"x"),)), b"a")], clock)

    done = bring_back([repo], tmp_path / "t")

    assert contents(tmp_path / "t") == {"a": b"a"}
    assert done.unset_count == 1 and "other.system" in done.unset[0] and not done.sound


def test_a_hard_link_to_a_lost_file_is_lost_too(
    repo: Repository, tmp_path: Path, clock: SimClock
) -> None:
    source = many(tmp_path / "source", count=2)
    os.link(source / "000", source / "zz")
    back_up([repo], source, clock)
    damaged(repo)

    done = bring_back([repo], tmp_path / "t")

    assert any("first name" in line for line in done.lost)
    assert contents(tmp_path / "t") == {}


def test_a_file_of_many_pieces_with_holes_between_them_comes_back(
    repo: Repository, tmp_path: Path, clock: SimClock
) -> None:
    """Blobs reach over holes: the cutter does not see them."""
    (tmp_path / "source").mkdir()
    image = tmp_path / "source" / "image"
    with image.open("wb") as out:
        for n in range(40):
            out.seek(n * 300_000)
            out.write(os.urandom(200_000))
        out.truncate(13_000_000)
    back_up([repo], tmp_path / "source", clock)
    with Reader(repo) as reader:
        (node,) = [n for n in reader.nodes(repo.find("latest")) if n.path == b"source/image"]
    assert len(node.holes) > 10 and len(node.blobs) > 2

    assert bring_back([repo], tmp_path / "t").sound

    assert (tmp_path / "t" / "source" / "image").read_bytes() == image.read_bytes()
