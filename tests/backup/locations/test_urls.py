"""What a store is called, and what its URL must not say."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from backup.crypto.keyring import Kdf
from backup.locations.urls import open_bucket, open_deleter, open_url, place_of
from backup.repository.init import create_repository
from infra.objectstore.directory import DirectoryStore
from infra.objectstore.s3 import open_store
from infra.sites import Secret, StoreAccess
from zaibei.cli.backup import app
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Refused, Usage

FAST = Kdf(memory_kib=64, iterations=1, lanes=1)


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("secret")
    for who in ("S3", "S3_DELETER", "BUCKET"):
        monkeypatch.setenv(f"ZAIBEI_{who}_KEY", "key")
        monkeypatch.setenv(f"ZAIBEI_{who}_SECRET_FILE", str(tmp_path / "secret"))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3+https://h:8333/b", "h:8333/b"),
        ("s3+https://h:8333/b/", "h:8333/b"),
        ("s3+https://h:8333/b/p", "h:8333/b/p"),
        ("s3+https://h:8333/b/p/", "h:8333/b/p"),
        ("s3+https://h:8333/b/p/q", "h:8333/b/p/q"),
    ],
)
def test_two_repositories_below_one_bucket_have_two_names(url: str, name: str) -> None:
    """What this machine remembers of a vault, status.json and --confirm go by the name. Under one name a copy
    that lags looked rolled back, and one was confirmed where the other was meant."""
    assert open_url(url).name == open_deleter(url).name == name


def test_a_vault_of_the_stack_is_known_by_its_site_and_bucket(tmp_path: Path) -> None:
    """Its prefix is always the same. Under another name its status would begin anew beside the old one, whose
    last success is then too old for ever."""
    access = StoreAccess(
        endpoint="https://h:8333",
        region="r",
        keys={"writer": ("key", Secret(file=tmp_path / "secret"))},
    )
    store = open_store(
        access, ca_file=None, bucket="zaibei-vault", role="writer", prefix="backup/", site="site-b"
    )
    assert store.name == "site-b/zaibei-vault"


WITH_A_LOGIN = (
    "s3+https://u:hunter2@h/b/p",
    "s3+http://u:hunter2@h:8333/b",
    "s3+https://hunter2@h/b",
    "s3+https://u:hunt/hunter2@h/b",
    "s3+https://u:hunt#hunter2@h/b",
    "s3+https://u:hunter2@[h/b",
    "s3://u:hunter2@h/b",
    "https://u:hunter2@h/b",
    "file://u:hunter2@h/b",
    "u:hunter2@h/b",
)


@pytest.mark.parametrize("url", WITH_A_LOGIN)
@pytest.mark.parametrize("use", [open_url, open_deleter, open_bucket, place_of])
def test_no_user_and_no_password_in_a_url(use: Callable[[str], object], url: str) -> None:
    with pytest.raises(Usage, match="takes no user and no password") as refused:
        use(url)
    assert "hunter2" not in str(refused.value)
    assert "hint: export ZAIBEI_S3_KEY" in str(refused.value)
    assert "ZAIBEI_S3_SECRET_FILE" in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        ("list", "--repo"),
        ("init", "--probe", "--repo"),
        ("schedule", "add", "nightly", "--every", "1h", "--files", "/etc", "--repo"),
        ("run", "--repo", "VAULT", "--bucket"),
    ],
)
@pytest.mark.parametrize("url", WITH_A_LOGIN[:2])
def test_a_password_in_a_url_is_refused_and_stored_nowhere(
    words: tuple[str, ...], url: str, tmp_path: Path, state: Path
) -> None:
    (tmp_path / "pw").write_text("correct horse\n")
    store = DirectoryStore(tmp_path / "vault")
    create_repository(store, "correct horse", clock=SystemClock(), kdf=FAST)
    given = [f"file://{tmp_path}/vault" if w == "VAULT" else w for w in words]
    done = CliRunner().invoke(app, [*given, url, "--password-file", str(tmp_path / "pw"), "--json"])
    assert done.exit_code == 2, done.output
    assert "takes no user and no password" in done.output
    assert "hunter2" not in done.output
    assert not [f for f in state.rglob("*") if f.is_file() and b"hunter2" in f.read_bytes()]


@pytest.mark.parametrize("url", ["file:///srv/a@b", "file:/srv/a@b", "s3+https://h/b/p@q"])
def test_an_at_sign_elsewhere_is_a_name(url: str) -> None:
    place_of(url)


@pytest.mark.parametrize("use", [open_url, open_deleter, open_bucket])
def test_a_secret_file_that_is_not_there_is_named_with_its_variable(
    use: Callable[[str], object], tmp_path: Path
) -> None:
    (tmp_path / "secret").unlink()
    with pytest.raises(Usage, match="secret: no secret key can be read: No such file") as wrong:
        use("s3+https://h/b")
    who = {open_deleter: "S3_DELETER", open_bucket: "BUCKET"}.get(use, "S3")
    assert f"hint: ZAIBEI_{who}_SECRET_FILE names" in str(wrong.value)


@pytest.mark.parametrize("bucket", ["b c", "b:c", "桶", "b" * 256])
def test_a_name_that_no_bucket_can_have_is_said_in_one_line(bucket: str) -> None:
    with pytest.raises(Usage, match="not a bucket's name") as wrong:
        open_url(f"s3+https://h/{bucket}/p")
    assert "\n" not in wrong.value.message


@pytest.mark.parametrize(
    ("code", "hinted"),
    [("AccessDenied", True), ("InvalidAccessKeyId", True), ("RequestTimeTooSkewed", False)],
)
def test_a_key_that_is_refused_is_named_by_its_variables(code: str, hinted: bool) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Not on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            for use, who in ((open_url, "S3"), (open_deleter, "S3_DELETER")):
                with pytest.raises(Refused, match=code) as refused:
                    use(f"s3+http://127.0.0.1:{server.server_port}/b").read("config")
                said = str(refused.value)
                assert hinted == (f"ZAIBEI_{who}_KEY" in said)
                assert hinted == (f"ZAIBEI_{who}_SECRET_FILE" in said)
        finally:
            server.shutdown()
            serving.join(10)
