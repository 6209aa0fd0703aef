"""A hostile host signs any listing, and a local account exchanges what it can reach: nothing outside the target changes.

The outside is a tree with a file, a directory, a link, a pipe and attributes. Everything that `lstat` says of it, its
attributes and its bytes are compared after every restore.
"""

import itertools
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backup.crypto.keyring import Kdf
from backup.errors import NotEmpty
from backup.format.snapshot import Content
from backup.format.tree import Node, Object, Type
from backup.postgres.clean_room import restore_database
from backup.postgres.recovery_target import Target
from backup.repository.init import create_repository
from backup.repository.repository import Repository
from backup.restore.bucket import as_files
from backup.restore.files import Wanted, everything, restore
from backup.restore.replicas import Source, mark_of
from backup.restore.target_dir import STAGE
from backup.sources.fanout import Fanout
from backup.sources.walk import Rules, chosen
from backup.writer.writer import Writer
from infra.objectstore.directory import DirectoryStore
from infra.objectstore.memory import MemoryStore
from zaibei.kernel import beneath
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage, Refused, ZaibeiError
from zaibei.kernel.progress import Silent

pytestmark = [
    pytest.mark.attack,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be made to change what others own"),
]
READER = Path(__file__).parents[3] / "backup" / "breakglass.py"
FAST = Kdf(memory_kib=64, iterations=1, lanes=1)
NOBODY = 65534
MARKED = (("user.canary", b"1"),)


class Outside:
    """What must not be touched."""

    def __init__(self, at: Path) -> None:
        self.at = at
        (at / "cron.d" / "sub").mkdir(parents=True)
        (at / "shadow").write_text("root:x")
        (at / "shadow").chmod(0o600)
        (at / "cron.d" / "job").write_text("* * * * *")
        (at / "link").symlink_to("shadow")
        os.mkfifo(at / "pipe")
        for name, value in MARKED:
            os.setxattr(at / "shadow", name, value)
        self.was = self.facts()

    def facts(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in [self.at, *sorted(self.at.rglob("*"))]:
            i = path.lstat()
            about = (i.st_mode, i.st_uid, i.st_gid, i.st_nlink, i.st_ino, i.st_mtime_ns)
            attributes = [] if path.is_symlink() else os.listxattr(path)
            data = path.read_bytes() if stat.S_ISREG(i.st_mode) else b""
            found[str(path)] = (*about, i.st_ctime_ns, attributes, data)
        return found

    def demand_untouched(self) -> None:
        assert self.facts() == self.was


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    return Outside(tmp_path / "outside")


def node(path: bytes, type_: Type = Type.FILE, **fields: object) -> Node:
    """As hostile as its type can be: another owner, every bit, an attribute."""
    made = Node(
        path=path,
        type=type_,
        mode=0o777,
        mtime_ns=0,
        uid=12345,
        gid=12345,
        xattrs=((b"user.hostile", b"1"),) if type_ is not Type.LINK else (),
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def folder(path: bytes) -> Node:
    return node(path, Type.DIRECTORY)


def link(path: bytes, target: Path | bytes) -> Node:
    return node(path, Type.LINK, target=target if isinstance(target, bytes) else bytes(target))


def sign(repo: Repository, nodes: list[Node], clock: SimClock, *, kind: str = "files") -> None:
    content = Content(
        kind=kind,
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
        for one in nodes:
            has_data = one.type in (Type.FILE, Type.OBJECT)
            out.add(one, [b"data of " + one.path] if has_data else [])
        assert out.commit(content)[0].snapshot is not None


def bring_back(repo: Repository, target: Path, **options: object) -> None:
    """Whatever it ends with: what it touches is the question."""
    source = Source(repo, snapshot=repo.find("latest"))
    try:
        with suppress(ZaibeiError):
            restore([source], target, progress=Silent(), **options)  # type: ignore[arg-type]
    finally:
        source.close()


def listings(out: Path) -> dict[str, list[Node]]:
    nfc, nfd = "é".encode(), "e\u0301".encode()
    return {
        "a directory below a link": [node(b"data"), link(b"x", out), folder(b"x/cron.d")],
        "a directory below a link, listed before it": [
            node(b"data"),
            folder(b"x/cron.d"),
            link(b"x", out),
        ],
        "a directory and a link of one name": [
            node(b"d"),
            folder(b"x"),
            link(b"x", out / "shadow"),
        ],
        "a link and a directory of one name": [link(b"x", out / "cron.d"), folder(b"x")],
        "a file below a link": [link(b"x", out), node(b"x/shadow"), node(b"x/new")],
        "a file and a link of one name": [node(b"x"), link(b"x", out / "shadow")],
        "a link and a file of one name": [link(b"x", out / "shadow"), node(b"x")],
        "a pipe below a link": [link(b"x", out), node(b"x/pipe", Type.FIFO)],
        "a device below a link": [link(b"x", out), node(b"x/dev", Type.CHAR, rdev=(1, 3))],
        "a link below a link": [link(b"x", out), link(b"x/link", b"/etc/passwd")],
        "a directory two links away": [
            folder(b"a"),
            link(b"a/x", b"../y"),
            link(b"y", out),
            folder(b"a/x/cron.d"),
            folder(b"y/cron.d"),
        ],
        "a hard link through a link": [
            node(b"f"),
            link(b"x", out),
            node(b"h", hard=b"x/shadow"),
            node(b"x/h", hard=b"f"),
        ],
        "a hard link to a link": [link(b"x", out / "shadow"), node(b"h", hard=b"x")],
        "a name that climbs": [node(b"f"), folder(b"../outside/cron.d")],
        "a name that climbs in its middle": [folder(b"a"), folder(b"a/../../outside/cron.d")],
        "an absolute name": [folder(bytes(out / "cron.d")), node(bytes(out / "shadow"))],
        "a hard link to an absolute name": [node(b"h", hard=bytes(out / "shadow"))],
        "a hard link that climbs": [node(b"h", hard=b"../outside/shadow")],
        "a directory twice, with a link between": [
            folder(b"x"),
            link(b"x/l", out),
            folder(b"x"),
            folder(b"x/l"),
        ],
        "twins of one look": [folder(nfc), link(nfd, out), folder(nfd + b"/cron.d"), folder(nfd)],
        "the restore's own folder": [link(STAGE, out), folder(STAGE + b"/cron.d"), folder(STAGE)],
        "a link where a parent is only implied": [
            node(b"x/y/f"),
            link(b"x/y", out),
            folder(b"x/y/cron.d"),
        ],
        "a very deep one below a link": [link(b"x", out), folder(b"x/" + b"cron.d/" * 900 + b"d")],
    }


NAMES = sorted(listings(Path("/outside")))
FILTERS: dict[str, Wanted] = {
    "no filter": everything,
    "--exclude x/": chosen(Rules.of(), Rules.of(["x/"])),
    "--exclude x": chosen(Rules.of(), Rules.of(["x"])),
    "--exclude cron.d": chosen(Rules.of(), Rules.of(["cron.d"])),
    "--include data --include /x": chosen(Rules.of(["data", "/x"]), Rules.of()),
    "--include x --exclude */": chosen(Rules.of(["x"]), Rules.of(["*/"])),
    "--include *": chosen(Rules.of(["*"]), Rules.of(["*/"])),
    "only what is no directory": lambda path: not path.endswith(b"/"),
    "only directories": lambda path: path.endswith(b"/"),
    "nothing": lambda _: False,
}


@pytest.mark.parametrize("what", NAMES)
def test_no_forged_listing_reaches_out_of_the_target_whatever_is_filtered(
    repo: Repository, tmp_path: Path, clock: SimClock, outside: Outside, what: str
) -> None:
    sign(repo, listings(outside.at)[what], clock)

    for wanted in FILTERS.values():
        bring_back(repo, tmp_path / "t", wanted=wanted)
        outside.demand_untouched()
        bring_back(repo, tmp_path / "t", wanted=everything, resume=True)
        outside.demand_untouched()
        shutil.rmtree(tmp_path / "t", ignore_errors=True)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["outside"]


def test_the_same_holds_without_openat2(
    repo: Repository,
    tmp_path: Path,
    clock: SimClock,
    outside: Outside,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An older kernel, or a container whose filter does not know the call."""
    monkeypatch.setattr(beneath, "_syscall", None)
    for what in NAMES:
        sign(repo, listings(outside.at)[what], clock)
        for wanted in (everything, FILTERS["--exclude x/"]):
            bring_back(repo, tmp_path / "t", wanted=wanted)
            outside.demand_untouched()
            shutil.rmtree(tmp_path / "t", ignore_errors=True)


PARTS = st.sampled_from([b"a", b"b", b"x", b"cron.d", b"shadow"])
PATHS = st.lists(PARTS, min_size=1, max_size=3).map(b"/".join)
TARGETS = st.sampled_from([b"", b"/cron.d", b"/shadow", b"/link", b"/pipe", b"/cron.d/sub"])
KINDS = st.sampled_from(
    [Type.FILE, Type.DIRECTORY, Type.DIRECTORY, Type.LINK, Type.LINK, Type.FIFO]
)


@st.composite
def hostile(draw: Callable[..., object]) -> list[tuple[bytes, Type, bytes, bytes]]:
    one = st.tuples(PATHS, KINDS, TARGETS, st.one_of(st.just(b""), st.just(b""), PATHS))
    return draw(st.lists(one, min_size=1, max_size=7))  # type: ignore[return-value]


@given(
    entries=hostile(),
    filters=st.sampled_from(sorted(FILTERS)),
    climbs=st.booleans(),
    resume=st.booleans(),
)
@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_listing_at_all_reaches_out_of_the_target(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[bytes, Type, bytes, bytes]],
    filters: str,
    climbs: bool,
    resume: bool,
) -> None:
    base = tmp_path_factory.mktemp("any")
    outside, clock = Outside(base / "outside"), SimClock()
    store = MemoryStore(clock=clock, name="v")
    repo = create_repository(store, "correct horse", clock=clock, suite_name="intl", kdf=FAST)
    to = b"../outside" if climbs else bytes(outside.at)
    nodes = [
        node(path, kind, target=to + end if kind is Type.LINK else b"")
        if kind is not Type.FILE
        else node(path, hard=hard)
        for path, kind, end, hard in entries
    ]
    sign(repo, nodes, clock)

    bring_back(repo, base / "t", wanted=FILTERS[filters])
    if resume:
        bring_back(repo, base / "t", resume=True)

    outside.demand_untouched()
    shutil.rmtree(base)


def exchanged(real: Path, to: Path) -> None:
    real.rename(real.with_name(real.name + ".moved"))
    real.symlink_to(to)


def plain(count: int = 12) -> list[Node]:
    """An honest tree, of directories whose names the outside has too."""
    made = [folder(b"cron.d"), folder(b"cron.d/sub")]
    return [*made, *(node(b"cron.d/sub/%03d" % n) for n in range(count)), node(b"shadow")]


@pytest.mark.parametrize("moment", range(0, 14, 3))
def test_a_target_that_is_exchanged_for_a_link_while_it_is_filled_leads_nowhere(
    repo: Repository, tmp_path: Path, clock: SimClock, outside: Outside, moment: int
) -> None:
    """Whoever owns the directory above the target can do this at any time."""
    sign(repo, plain(), clock)
    target = tmp_path / "t"
    asked = itertools.count()

    def wanted(_: bytes) -> bool:
        if next(asked) == moment:
            exchanged(target, outside.at)
        return True

    bring_back(repo, target, wanted=wanted)

    outside.demand_untouched()
    assert (tmp_path / "t.moved" / "cron.d" / "sub" / "000").read_bytes().startswith(b"data of")


@pytest.mark.parametrize("path", ["cron.d", "cron.d/sub"])
@pytest.mark.parametrize("moment", [3, 9, 13])
def test_a_directory_that_is_exchanged_for_a_link_while_it_is_filled_leads_nowhere(
    repo: Repository, tmp_path: Path, clock: SimClock, outside: Outside, path: str, moment: int
) -> None:
    """No account but root could; what root meets must hold all the same."""
    sign(repo, plain(), clock)
    asked = itertools.count()

    def wanted(_: bytes) -> bool:
        if next(asked) == moment:
            exchanged(tmp_path / "t" / path, outside.at / "cron.d")
        return True

    bring_back(repo, tmp_path / "t", wanted=wanted)

    outside.demand_untouched()


SWAP = """
import os, sys
os.rename(sys.argv[1], sys.argv[1] + ".moved")
os.symlink(sys.argv[2], sys.argv[1])
"""


def test_the_owner_of_a_target_cannot_exchange_what_is_in_it_until_it_is_done(
    repo: Repository, tmp_path: Path, clock: SimClock, outside: Outside
) -> None:
    sign(repo, plain(), clock)
    target = tmp_path / "t"
    target.mkdir(mode=0o755)
    os.chown(target, NOBODY, NOBODY)
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    asked, tries = itertools.count(), list[int]()

    def wanted(_: bytes) -> bool:
        if next(asked) == 8:
            done = subprocess.run(
                [sys.executable, "-I", "-c", SWAP, target / "cron.d", outside.at],
                user=NOBODY,
                group=NOBODY,
                capture_output=True,
                timeout=20,
                check=False,
            )
            tries.append(done.returncode)
        return True

    bring_back(repo, target, wanted=wanted)

    assert tries == [1], "the other account must fail"
    outside.demand_untouched()
    after = target.stat()
    assert (after.st_uid, stat.S_IMODE(after.st_mode)) == (NOBODY, 0o755), "and has it back"
    assert sorted(p.name for p in target.iterdir()) == ["cron.d", "shadow"]


def interrupted(repo: Repository, target: Path) -> None:
    """The mark of a restore that died before it wrote a file."""
    (target / os.fsdecode(STAGE)).mkdir(parents=True)
    (target / os.fsdecode(STAGE) / "of").write_text(mark_of(repo.find("latest").content))


def test_going_on_takes_no_link_file_or_second_name_that_another_account_put_there(
    repo: Repository, tmp_path: Path, clock: SimClock, outside: Outside
) -> None:
    """Between two runs the owner of a target can put in place what has the very bytes of the backup."""
    (outside.at / "shadow").write_bytes(b"data of shadow")
    (outside.at / "cron.d" / "job").write_bytes(b"data of job")
    os.chown(outside.at / "shadow", 12345, 12345)
    sign(repo, [node(b"job"), folder(b"link"), node(b"link/f"), node(b"shadow")], clock)
    target = tmp_path / "t"
    interrupted(repo, target)
    os.link(outside.at / "shadow", target / "shadow")
    (target / "link").symlink_to(outside.at)
    (target / "job").symlink_to(outside.at / "cron.d" / "job")
    held = (outside.at / "shadow").open("ab")
    outside.was = outside.facts()

    bring_back(repo, target, resume=True)
    (target / "link").unlink()
    bring_back(repo, target, resume=True)

    held.write(b"owned")
    held.close()
    assert (target / "shadow").read_bytes() == b"data of shadow", "it is another file"
    assert (target / "shadow").stat().st_uid == 12345
    assert (target / "job").read_bytes() == b"data of job" and not (target / "job").is_symlink()
    assert (outside.at / "cron.d" / "job").stat().st_uid == 0
    assert stat.S_IMODE((outside.at / "shadow").stat().st_mode) == 0o600


def test_a_folder_of_an_interrupted_restore_that_is_a_link_is_refused(
    repo: Repository, tmp_path: Path, clock: SimClock, outside: Outside
) -> None:
    sign(repo, plain(), clock)
    (outside.at / "of").write_text(mark_of(repo.find("latest").content))
    outside.was = outside.facts()
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / os.fsdecode(STAGE)).symlink_to(outside.at)
    source = Source(repo, snapshot=repo.find("latest"))

    for resume, error in ((True, Refused), (False, NotEmpty)):
        with pytest.raises(error):
            restore([source], tmp_path / "t", progress=Silent(), resume=resume)
    source.close()

    outside.demand_untouched()


def test_keys_of_a_bucket_reach_out_of_no_directory(
    repo: Repository, tmp_path: Path, clock: SimClock, outside: Outside
) -> None:
    keys = [b"../outside/shadow", b"/etc/x", b"a/../../outside/cron.d/", b"a//b", b"a/\0/b", STAGE]
    about = Object(version=None, etag="e", latest=True)
    nodes = [node(key, Type.OBJECT, object=about, xattrs=()) for key in sorted(keys)]
    sign(repo, [*nodes, link(b"x", outside.at), folder(b"x/cron.d")], clock, kind="bucket")

    bring_back(repo, tmp_path / "t", view=as_files())

    outside.demand_untouched()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outside", "t"]


@pytest.fixture
def glass(tmp_path: Path, clock: SimClock) -> Iterator[Callable[[list[Node]], None]]:
    """Restores by the stand-alone reader."""
    secret = tmp_path / "secret"
    secret.write_text("open sesame\n")

    def one(nodes: list[Node], target: Path = tmp_path / "t") -> None:
        vault = tmp_path / "vault"
        repo = create_repository(DirectoryStore(vault), "open sesame", clock=clock, kdf=FAST)
        sign(repo, nodes, clock)
        subprocess.run(
            [sys.executable, "-I", READER, vault, secret, target],
            capture_output=True,
            timeout=60,
            cwd="/",
            check=False,
        )
        shutil.rmtree(vault)

    yield one


def test_break_glass_reaches_out_of_no_target(
    glass: Callable[[list[Node]], None], tmp_path: Path, outside: Outside
) -> None:
    for what in random.Random(8).sample(NAMES, len(NAMES)):
        glass(listings(outside.at)[what])
        assert outside.facts() == outside.was, what
        shutil.rmtree(tmp_path / "t", ignore_errors=True)


def test_break_glass_shows_nothing_to_others_before_it_has_its_own_mode(
    tmp_path: Path, clock: SimClock
) -> None:
    """A file that only its directory protects: the directory gets its mode at the end."""
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    (tmp_path / "secret").write_text("open sesame\n")
    vault = tmp_path / "vault"
    repo = create_repository(DirectoryStore(vault), "open sesame", clock=clock, kdf=FAST)
    own = {"uid": 0, "gid": 0}
    private = node(b"private", Type.DIRECTORY, **own | {"mode": 0o700})
    held = [node(b"private/f", **own | {"mode": 0o644})]
    sign(repo, [private, *held, *(node(b"private/%03d" % n, **own) for n in range(300))], clock)
    program = f"""
import os, runpy, sys
sys.argv = ["x"]
m = runpy.run_path({str(READER)!r})
was = m["write"]
def write(*a):
    found = [f"{{p}} {{os.stat(p).st_mode:o}}" for p in (".", "private", "private/f") if os.path.exists(p)]
    assert all(one.endswith(("0700", "0600", "0644")) for one in found), found
    assert not os.stat(".").st_mode & 0o077, found
    assert not os.stat("private").st_mode & 0o077, found
    return was(*a)
m["restore"].__globals__["write"] = write
sys.exit(m["main"]({str(vault)!r}, {str(tmp_path / "secret")!r}, {str(tmp_path / "t")!r}))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        umask=0o022,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "t" / "private" / "f").read_bytes() == b"data of private/f"


def test_break_glass_stands_in_its_target_whatever_becomes_of_the_name(
    tmp_path: Path, clock: SimClock, outside: Outside
) -> None:
    (tmp_path / "secret").write_text("open sesame\n")
    vault, target = tmp_path / "vault", tmp_path / "t"
    repo = create_repository(DirectoryStore(vault), "open sesame", clock=clock, kdf=FAST)
    sign(repo, plain(), clock)
    program = f"""
import os, runpy, sys
sys.argv = ["x"]
m = runpy.run_path({str(READER)!r})
was = m["write"]
def write(*a):
    if not os.path.islink({str(target)!r}):
        os.rename({str(target)!r}, {str(target) + ".moved"!r})
        os.symlink({str(outside.at)!r}, {str(target)!r})
    return was(*a)
m["restore"].__globals__["write"] = write
sys.exit(m["main"]({str(vault)!r}, {str(tmp_path / "secret")!r}, {str(target)!r}))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    outside.demand_untouched()
    assert (tmp_path / "t.moved" / "cron.d" / "sub" / "000").read_bytes().startswith(b"data of")


def test_break_glass_refuses_a_target_that_others_may_write_in(
    tmp_path: Path, clock: SimClock
) -> None:
    (tmp_path / "secret").write_text("open sesame\n")
    vault, target = tmp_path / "vault", tmp_path / "t"
    repo = create_repository(DirectoryStore(vault), "open sesame", clock=clock, kdf=FAST)
    sign(repo, plain(), clock)
    target.mkdir()
    os.chown(target, NOBODY, NOBODY)

    done = subprocess.run(
        [sys.executable, "-I", READER, vault, tmp_path / "secret", target],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (1, f"error: {target} is open to others\n")


@pytest.mark.parametrize(
    "planted",
    [
        link(b"log", b"outside/cron.d"),
        link(b"postgresql.auto.conf", b"outside/new"),
        link(b"recovery.signal", b"outside/shadow"),
        node(b"hard", hard=b"PG_VERSION"),
        node(b"pipe", Type.FIFO),
    ],
    ids=lambda one: os.fsdecode(one.path),
)
def test_a_clean_room_is_not_made_from_a_base_backup_with_links(
    repo: Repository, clock: SimClock, planted: Node
) -> None:
    """Root settles the data directory: it moves, writes and removes files there by their names."""
    with tempfile.TemporaryDirectory(prefix="zb-") as made:
        base = Path(made)
        outside = Outside(base / "outside")
        target = bytes(base) + b"/" + planted.target if planted.type is Type.LINK else b""
        forged = [node(b"PG_VERSION"), replace(planted, target=target), folder(b"z")]
        sign(repo, forged, clock, kind="postgres")
        (base / "room").mkdir()

        with pytest.raises(Damage, match="a base backup lists"):
            restore_database(
                repo,
                repo.find("latest"),
                Target(),
                base / "room",
                clock=clock,
                progress=Silent(),
                closed=True,
            )

        outside.demand_untouched()
