"""What of a snapshot can give rights on the machine that restores it is counted, named, and left out if that is asked."""

import json
import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backup.crypto.keyring import Kdf
from backup.format.snapshot import Content
from backup.format.tree import Node, Type
from backup.repository.init import create_repository
from backup.sources.fanout import Fanout
from backup.writer.writer import Writer
from infra.objectstore.directory import DirectoryStore
from zaibei.cli.backup import app
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.progress import Silent

pytestmark = [
    pytest.mark.attack,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root gives rights away"),
]
CAPABLE = b"\x01\0\0\x02\x80\0\0\0" + b"\0" * 12  # cap_setuid, effective


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    """Of a host that is somebody else's by now."""
    clock = SystemClock()
    fast = Kdf(memory_kib=64, iterations=1, lanes=1)
    (tmp_path / "pw").write_text("correct horse\n")
    (tmp_path / "pw").chmod(0o600)
    repo = create_repository(
        DirectoryStore(tmp_path / "vault"), "correct horse", clock=clock, kdf=fast
    )
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
    nodes = [
        Node(path=b"dev", type=Type.BLOCK, mode=0o666, mtime_ns=0, rdev=(8, 0)),
        Node(path=b"group", type=Type.DIRECTORY, mode=0o2775, mtime_ns=0),
        Node(path=b"group/plain", type=Type.FILE, mode=0o644, mtime_ns=0),
        Node(
            path=b"ping",
            type=Type.FILE,
            mode=0o755,
            mtime_ns=0,
            xattrs=((b"security.capability", CAPABLE), (b"user.grade", b"3")),
        ),
        Node(path=b"sh", type=Type.FILE, mode=0o6755, mtime_ns=0),
    ]
    with Fanout([Writer(repo)], Silent()) as out:
        for node in nodes:
            out.add(node, [b"#!"] if node.type is Type.FILE else [])
        out.commit(content)
    return tmp_path / "vault"


def restored(vault: Path, *more: str) -> tuple[int, str]:
    target, password = vault.parent / "t", vault.parent / "pw"
    where = ("--repo", f"file://{vault}", "--password-file", str(password))
    done = CliRunner().invoke(app, ["restore", "latest", "--target", str(target), *where, *more])
    return done.exit_code, done.stdout


def test_what_can_give_rights_is_counted_and_named(vault: Path) -> None:
    code, said = restored(vault)

    assert code == 0
    assert "PRIVILEGED: 3 entries that can give rights on this machine, restored:" in said
    assert "PRIVILEGED: 'sh': setuid setgid, owner 0:0" in said
    assert "PRIVILEGED: 'ping': file capabilities" in said
    assert "PRIVILEGED: 'dev': block device 8:0" in said
    assert "plain" not in said and "'group'" not in said
    assert stat.S_IMODE((vault.parent / "t" / "sh").stat().st_mode) == 0o6755


def test_no_special_leaves_out_what_can_give_rights_and_says_so(vault: Path) -> None:
    code, said = restored(vault, "--no-special", "--json")

    told, target = json.loads(said), vault.parent / "t"
    assert (code, told["privileged_count"], told["complete"]) == (0, 3, True)
    assert stat.S_IMODE((target / "sh").stat().st_mode) == 0o755
    assert os.listxattr(target / "ping") == ["user.grade"]
    assert not (target / "dev").exists()
    assert stat.S_IMODE((target / "group").stat().st_mode) == 0o2775, "it gives nobody anything"
    assert (target / "group" / "plain").read_bytes() == b"#!"


def test_nothing_is_said_where_nothing_gives_rights(vault: Path) -> None:
    assert "PRIVILEGED" not in restored(vault, "--include", "plain")[1]
