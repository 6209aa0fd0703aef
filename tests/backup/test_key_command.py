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
    person.says("list", before=("--host-key", key), code=2)
    target = person.base / "t"
    person.says("restore", "latest", "--target", target, before=("--host-key", key), code=2)
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


def talks(person: Person, *argv: str, before: tuple[str, ...] = ()) -> tuple[int, str]:
    """What a person sees, both streams."""
    words = [*before, *argv, "--repo", person.url]
    words += [] if before else ["--password-file", str(person.password)]
    done = CliRunner().invoke(app, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize(
    "argv",
    [
        ("key", "revoke", "WANG", "--confirm", "NAME"),
        ("key", "revoke", "WANG"),
        ("key", "add", "--new-password-file", "FILE"),
        ("key", "add", "--host", "NEW", "--name", "web-2"),
        ("key", "rotate", "--confirm", "NAME"),
        ("key", "rotate"),
        ("key", "escrow"),
        ("forget", "1", "--confirm", "NAME"),
        ("gc", "--confirm", "NAME"),
        ("repair", "--confirm", "NAME"),
        ("verify",),
    ],
)
def test_a_host_key_is_refused_with_the_reason_and_writes_nothing(
    person: Person, argv: tuple[str, ...]
) -> None:
    key, second = person.base / "web-1.key", person.base / "second"
    second.write_text("battery staple\n")
    person.says("key", "add", "--host", key, "--name", "web-1")
    person.says("key", "add", "--new-password-file", second, "--name", "wang")
    (told,) = person.says("key", "list")["repositories"].values()
    (wang,) = [m["id"] for m in told["members"] if m["name"] == "wang"]
    person.says("run", "--files", person.base / "source")
    stand_ins = {"WANG": wang, "NAME": person.name, "FILE": second, "NEW": person.base / "new"}
    argv = tuple(str(stand_ins.get(a, a)) for a in argv)
    before = sorted((person.base / "repo").rglob("*"))

    code, said = talks(person, *argv, before=("--host-key", str(key)))
    assert code == 2
    assert "this host may write and not read" in said
    assert "--confirm" not in said, "nobody is told how to do what is refused"
    assert sorted((person.base / "repo").rglob("*")) == before
    assert not (person.base / "new").exists()


def test_nobody_is_told_how_to_revoke_whom_there_is_not(person: Person) -> None:
    for who in ("", "nobody"):
        code, said = talks(person, "key", "revoke", who)
        assert (code, "no recipient" in said, "--confirm" in said) == (2, True, False)


def test_a_revocation_that_changes_nothing_says_so(person: Person) -> None:
    person.says("key", "add", "--host", person.base / "web-1.key", "--name", "web-1")
    (told,) = person.says("key", "list")["repositories"].values()
    (host,) = [m["id"] for m in told["members"] if m["name"] == "web-1"]
    for _ in range(2):
        person.says("run", "--files", person.base / "source")
    code, said = talks(person, "key", "revoke", host, "--until", "99", "--confirm", person.name)
    assert (code, "the newest snapshot is 2" in said) == (2, True)
    person.says(
        "run", "--files", person.base / "source", before=("--host-key", person.base / "web-1.key")
    )

    act = ("key", "revoke", host, "--confirm", person.name)
    assert f"{person.name}: revoked: {host}" in talks(person, *act)[1]
    code, said = talks(person, *act)
    assert (code, "was revoked already, until snapshot 3; nothing was changed" in said) == (0, True)
    assert "revoked again, for less" in talks(person, *act, "--until", "1")[1]
    (told,) = person.says("key", "list")["repositories"].values()
    assert [m["revoked"]["until"] for m in told["members"] if m["name"] == "web-1"] == [1]


def test_names_cannot_look_like_another_line_of_the_list(person: Person) -> None:
    second = person.base / "second"
    second.write_text("battery staple\n")
    person.says("key", "add", "--new-password-file", second, "--name", "wang\nroot\x1b[2J")
    code, said = talks(person, "key", "list")
    assert (code, len(said.splitlines())) == (0, 2 + said.count("note:"))
    assert "\x1b" not in said
    assert "wang\\nroot\\x1b[2J" in said


@pytest.mark.parametrize("argv", [("--new-password-file", "second"), ("--host", "web.key")])
def test_a_name_that_is_not_text_is_a_wrong_request(person: Person, argv: tuple[str, str]) -> None:
    (person.base / "second").write_text("battery staple\n")
    flag, file = argv
    before = sorted(person.base.rglob("*"))
    code, said = talks(person, "key", "add", flag, str(person.base / file), "--name", "b\udcff")
    assert (code, "not text in UTF-8" in said) == (2, True)
    assert sorted(person.base.rglob("*")) == before


def test_what_cannot_be_read_among_the_revocations_is_listed(person: Person) -> None:
    left = person.base / "repo" / "revoked" / ("0" * 63 + "1")
    left.parent.mkdir()
    left.write_text("junk\n")
    code, said = talks(person, "key", "list")
    assert (code, f"revoked/{left.name}" in said, "DAMAGED" in said) == (1, True, True)
    person.says("run", "--files", person.base / "source")
    code, said = talks(person, "key", "rotate", "--confirm", person.url)
    assert (code, "whom it let out came along" in said) == (1, True)
    person.says("verify", code=1)
    person.says("repair", "--confirm", person.url)
    person.says("verify")
    assert not left.exists()


def test_what_is_there_already_is_a_wrong_request(person: Person) -> None:
    file = person.base / "mine.key"
    assert CliRunner().invoke(app, ["key", "new", str(file)]).exit_code == 0
    assert CliRunner().invoke(app, ["key", "new", str(file)]).exit_code == 2
    person.says("key", "add", "--host", file, "--name", "web-1", code=2)
    person.says("init", code=2)
