"""`zaibei backup key` as a person uses it: from a lost laptop to a new root, and the words in three safes."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zaibei.cli.backup import app


class Person:
    """At a terminal, with one repository."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.url = f"file://{base}/repo"
        self.password = base / "password"
        self.password.write_text("correct horse\n")
        (base / "source").mkdir()
        (base / "source" / "f").write_bytes(b"payload" * 500)

    def says(self, *argv: str | Path, before: tuple[str | Path, ...] = (), code: int = 0) -> Any:
        """The JSON of a command."""
        words = [*map(str, before), *map(str, argv), "--repo", self.url, "--json"]
        if not before:
            words += ["--password-file", str(self.password)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == code, (words, done.output, done.exception)
        return json.loads(done.stdout) if done.stdout.strip() else {}

    @property
    def name(self) -> str:
        (only,) = self.says("key", "list")["repositories"]
        return str(only)

    def restores(self, *before: str | Path, to: str) -> bytes:
        target = self.base / to
        self.says("restore", "latest", "--target", target, before=before)
        return (target / "source" / "f").read_bytes()


@pytest.fixture
def person(tmp_path: Path) -> Person:
    one = Person(tmp_path)
    one.says("init")
    return one


def test_a_lost_key_is_revoked_and_the_root_rotates(person: Person) -> None:
    mine, lost = person.base / "mine.key", person.base / "lost.key"
    runner = CliRunner()
    for file, curve in ((mine, "x25519"), (lost, "sm2")):
        made = runner.invoke(app, ["key", "new", str(file), "--curve", curve, "--json"])
        public = json.loads(made.stdout)["public"]
        person.says("key", "add", "--public", public, "--name", file.stem)
    person.says("run", "--files", person.base / "source")
    assert person.restores("--identity-file", mine, to="t1") == b"payload" * 500

    (who,) = person.says("key", "list")["repositories"].values()
    gone = next(m["id"] for m in who["members"] if m["name"] == "lost")
    assert person.says("key", "revoke", gone, code=2)["done"] is False
    person.says("key", "revoke", gone, "--confirm", person.name)
    assert person.says("key", "rotate", code=2)["done"] is False
    told = person.says("key", "rotate", "--why", "lost", "--confirm", person.name)
    (after,) = told["repositories"].values()
    assert (after["epoch"], after["left"], after["dropped"]) == (2, 0, [])

    assert person.restores("--identity-file", mine, to="t2") == b"payload" * 500
    person.says("list", before=("--identity-file", lost), code=2)
    person.says("list")
    assert person.says("verify", "--level", "full")


def test_three_of_five_words_open_it(person: Person) -> None:
    person.says("run", "--files", person.base / "source")
    (shares,) = person.says("key", "escrow")["repositories"].values()
    words = person.base / "words"
    words.write_text("# from the safes\n" + "\n".join(shares[1:4]) + "\n")
    words.chmod(0o600)
    assert person.restores("--shares-file", words, to="t") == b"payload" * 500
    words.write_text("\n".join(shares[:2]))
    person.says("list", before=("--shares-file", words), code=2)


def test_a_host_writes_and_cannot_read(person: Person) -> None:
    key = person.base / "web-1.key"
    person.says("key", "add", "--host", key, "--name", "web-1")
    person.says("run", "--files", person.base / "source", before=("--host-key", key))
    person.says("list", before=("--host-key", key), code=1)
    target = person.base / "t"
    person.says("restore", "latest", "--target", target, before=("--host-key", key), code=1)
    person.says("restore", "latest", "--target", person.base / "t2")
    assert (person.base / "t2" / "source" / "f").read_bytes() == b"payload" * 500


@pytest.mark.parametrize(
    "argv",
    [
        ("key", "add"),
        ("key", "add", "--public", "zaibei-public:x25519:00"),
        ("key", "add", "--public", "nonsense"),
        ("key", "add", "--host", "/nowhere/x"),
        ("key", "escrow", "--shares", "2", "--threshold", "3"),
        ("key", "revoke", "nobody"),
    ],
)
def test_a_wrong_request_ends_with_2(person: Person, argv: tuple[str, ...]) -> None:
    person.says(*argv, code=2)


def test_a_key_file_that_others_can_read_is_refused(person: Person) -> None:
    file = person.base / "mine.key"
    CliRunner().invoke(app, ["key", "new", str(file)])
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    person.says("list", before=("--identity-file", file), code=2)


def test_a_damaged_key_is_listed_and_says_what_to_do(person: Person) -> None:
    second = person.base / "second"
    second.write_text("battery staple\n")
    person.says("key", "add", "--new-password-file", second, "--name", "wang")
    (told,) = person.says("key", "list")["repositories"].values()
    assert (told["others"], {m["state"] for m in told["members"]}) == ([], {"sound"})
    (object_,) = [m["object"] for m in told["members"] if m["name"] == "wang"]
    file = person.base / "repo" / object_
    raw = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(raw.replace(b'"wang"', b'"w\x1b[2J"')[:-1])

    (told,) = person.says("key", "list", code=1)["repositories"].values()
    assert [m["name"] for m in told["members"]] == [""]
    (other,) = told["others"]
    assert (other["object"], other["state"], other["kind"]) == (object_, "damaged", "passphrase")
    argv = ["key", "list", "--repo", person.url, "--password-file", str(person.password)]
    done = CliRunner().invoke(app, argv)
    assert done.exit_code == 1
    assert object_ in done.output and "DAMAGED" in done.output and "key add" in done.output
    assert "\x1b" not in done.output, "what nobody vouches for does not move the cursor"
