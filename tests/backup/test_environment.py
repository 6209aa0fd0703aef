"""What other tools are told by variables changes no answer of ours; what we are told must mean something."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from infra.lab.loopback_store import LoopbackSite, loopback
from infra.objectstore.s3 import connect
from zaibei.kernel import environment
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.process import run

pytestmark = pytest.mark.integration


@dataclass
class Host:
    """A machine whose operator set the variables of the manual, and maybe others."""

    home: Path
    repo: str
    own: dict[str, str] = field(default_factory=dict)

    def zaibei(
        self, *words: str, code: int | None = None, **variables: str
    ) -> "tuple[dict[str, object], str]":
        done = subprocess.run(
            [sys.executable, "-P", "-m", "zaibei.cli.main", "backup", *words, "--json"],
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), **self.own, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        told = json.loads(done.stdout)
        assert isinstance(told, dict)
        if code is not None:
            assert done.returncode == code, (told, done.stderr)
        return told, done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSite]:
    with loopback(tmp_path_factory.mktemp("s3"), clock=SystemClock()) as one:
        admin = connect(one.access, ca_file=one.ca_file, role="admin")
        admin.create_bucket(Bucket="zaibei-vault", ObjectLockEnabledForBucket=True)
        admin.create_bucket(Bucket="unlocked")
        yield one


@pytest.fixture(scope="module")
def host(site: LoopbackSite, tmp_path_factory: pytest.TempPathFactory) -> Host:
    home = tmp_path_factory.mktemp("home")
    (home / "pw").write_text("correct horse\n")
    (home / "pw").chmod(0o600)
    (home / "src").mkdir()
    (home / "src" / "file").write_text("text")
    key, secret = site.access.keys["admin"]
    (home / "secret").write_text(secret.reveal() + "\n")
    place = site.access.endpoint.removeprefix("https://")
    one = Host(
        home,
        f"s3+https://{place}/zaibei-vault/p",
        {
            "ZAIBEI_STATE": str(home / "state"),
            "ZAIBEI_REPO": f"s3+https://{place}/zaibei-vault/p",
            "ZAIBEI_PASSWORD_FILE": str(home / "pw"),
            "ZAIBEI_S3_KEY": key,
            "ZAIBEI_S3_SECRET_FILE": str(home / "secret"),
            "ZAIBEI_S3_CA_FILE": str(site.ca_file),
        },
    )
    one.zaibei("init", code=0)
    one.zaibei("run", "--files", str(home / "src"), code=0)
    return one


HOSTILE = {
    "AWS_PROFILE": "nonexistent",
    "AWS_DEFAULT_PROFILE": "nonexistent",
    "AWS_CONFIG_FILE": "/etc/passwd",
    "AWS_SHARED_CREDENTIALS_FILE": "/etc/passwd",
    "AWS_DEFAULT_REGION": "nowhere in world",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "maybe",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "maybe",
    "AWS_DEFAULTS_MODE": "bogus",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_MAX_ATTEMPTS": "abc",
    "AWS_RETRY_MODE": "foo",
    "AWS_CA_BUNDLE": "/nonexistent",
    "AWS_DATA_PATH": "/nonexistent",
    "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "bogus",
    "AWS_S3_USE_ARN_REGION": "bogus",
    "AWS_ACCESS_KEY_ID": "theirs",
    "AWS_SECRET_ACCESS_KEY": "theirs",
    "AWS_SESSION_TOKEN": "theirs",
    "AWS_SIGV4A_SIGNING_REGION_SET": "*",
    "AWS_AUTH_SCHEME_PREFERENCE": "bogus",
    "AWS_SDK_UA_APP_ID": "x" * 60,
    "BOTOCORE_EXPERIMENTAL__PLUGINS": "theirs=nonexistent.module",
    "BOTO_DISABLE_CRT": "maybe",
    "HTTPS_PROXY": "http://127.0.0.1:1",
    "https_proxy": "http://127.0.0.1:1",
    "ALL_PROXY": "socks5://127.0.0.1:1",
    "NO_PROXY": "nothing",
    "SSL_CERT_FILE": "/nonexistent",
    "SSL_CERT_DIR": "/nonexistent",
    "REQUESTS_CA_BUNDLE": "/nonexistent",
    "CURL_CA_BUNDLE": "/nonexistent",
    "SSLKEYLOGFILE": "/nonexistent/keys",
    "OPENSSL_CONF": "/nonexistent",
    "PGSERVICE": "nonexistent",
    "PGOPTIONS": "-c default_transaction_read_only=on",
    "PYTHONWARNINGS": "error",
    "TZ": "Nowhere/Here",
    "LC_ALL": "xx_XX",
    "GIT_DIR": "/nonexistent",
    "ANSIBLE_CONFIG": "/nonexistent",
}


@pytest.mark.attack
def test_the_settings_of_other_tools_change_no_answer(host: Host) -> None:
    (host.home / ".aws").mkdir(exist_ok=True)
    (host.home / ".aws" / "config").write_text("[default]\nregion = bogus region\ns3 = x\n[[[")
    (host.home / ".aws" / "credentials").write_text("no ini at all")
    clean, _ = host.zaibei("list", code=0)

    assert host.zaibei("list", code=0, **HOSTILE)[0] == clean
    assert not (host.home / "keys").exists()


@pytest.mark.parametrize("name", ["AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_DEFAULTS_MODE"])
def test_each_that_once_ended_in_a_traceback_changes_nothing_by_itself(
    host: Host, name: str
) -> None:
    host.zaibei("list", code=0, **{name: HOSTILE[name]})


@pytest.mark.parametrize(
    ("variable", "value", "says", "hint"),
    [
        ("AWS_REGION", "nowhere in world", "AWS_REGION='nowhere in world'", "eu-central-1"),
        ("ZAIBEI_S3_REGION", "a b", "ZAIBEI_S3_REGION='a b'", "eu-central-1"),
        ("ZAIBEI_S3_ADDRESSING", "vritual", "ZAIBEI_S3_ADDRESSING=vritual", "virtual"),
        ("ZAIBEI_S3_PROXY", "u:hunter2@h", "ZAIBEI_S3_PROXY: not the URL", "http://HOST:PORT"),
        ("ZAIBEI_S3_CA_FILE", "/nonexistent", "/nonexistent: no CA", "ZAIBEI_S3_CA_FILE names"),
        ("ZAIBEI_S3_CA_FILE", "/etc/passwd", "no certificate in it", "ZAIBEI_S3_CA_FILE names"),
        ("ZAIBEI_S3_CA_FILE", "/", "/: no CA", "ZAIBEI_S3_CA_FILE names"),
        ("ZAIBEI_S3_KEY", "key\nsecret", "ZAIBEI_S3_KEY: not an access key", "the key id alone"),
        ("ZAIBEI_S3_SECRET_FILE", "/etc/passwd", "/etc/passwd: no secret key", "_SECRET_FILE"),
        ("ZAIBEI_S3_SESSION_TOKEN_FILE", "/nonexistent", "no session token", "_TOKEN_FILE names"),
        ("ZAIBEI_S3_SECRETFILE", "x", "ZAIBEI_S3_SECRETFILE: no such", "ZAIBEI_S3_SECRET_FILE?"),
        ("ZAIBEI_LOG", "verbos", "ZAIBEI_LOG=verbos", "debug, info, warning, error"),
        ("ZAIBEI_LOG", "inof", "ZAIBEI_LOG=inof", "did you mean info?"),
        ("ZAIBEI_REPOS", "x", "ZAIBEI_REPOS: no such variable", "did you mean ZAIBEI_REPO?"),
    ],
)
def test_a_variable_of_ours_that_means_nothing_is_named(
    host: Host, variable: str, value: str, says: str, hint: str
) -> None:
    told, said = host.zaibei("list", code=2, **{variable: value})

    error = told["error"]
    assert isinstance(error, dict)
    assert says in error["message"]
    assert hint in " ".join(error["hints"])
    assert "hunter2" not in said


def test_a_name_that_begins_like_ours_and_is_none_is_noted(host: Host) -> None:
    """A secret of a stack.yaml may be called so: no error, but a word."""
    assert (
        "note: ZAIBEI_VAULT_TOKEN is no" in host.zaibei("list", code=0, ZAIBEI_VAULT_TOKEN="x")[1]
    )


def test_the_passphrase_may_come_from_a_command(host: Host) -> None:
    command = f"cat '{host.home}/pw'"
    own = {k: v for k, v in host.own.items() if k != "ZAIBEI_PASSWORD_FILE"}
    one = Host(host.home, host.repo, own)

    assert one.zaibei("list", code=0, ZAIBEI_PASSWORD_COMMAND=command)[0]["repositories"]
    told, _ = one.zaibei("list", code=2, ZAIBEI_PASSWORD_COMMAND="true")
    assert "first line of its output is empty" in str(told)
    assert "ZAIBEI_PASSWORD_FILE or ZAIBEI_PASSWORD_COMMAND" in str(one.zaibei("list", code=2)[0])


def test_a_key_file_goes_before_the_password_that_the_environment_names(host: Host) -> None:
    """A passphrase in the profile must not forbid to open with another key."""
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "zaibei.cli.main", "backup"),
            *("--identity-file", str(host.home / "none"), "list"),
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(host.home), **host.own},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "which one" not in done.stderr


def test_without_a_repository_or_a_source_that_is_said_and_no_lab(host: Host) -> None:
    own = {k: v for k, v in host.own.items() if k != "ZAIBEI_REPO"}
    none = Host(host.home, host.repo, own)
    for words, lacking in (
        (("list",), "no --repo"),
        (("run", "--files", "/etc/hostname"), "no --repo"),
        (("init",), "no --repo"),
        (("run", "--repo", host.repo), "nothing to back up"),
        (("schedule", "add", "n", "--every", "1h", "--repo", host.repo), "nothing to back up"),
        (("point", "n", "--repo", host.repo), "no --postgres"),
    ):
        told, said = none.zaibei(*words, code=2)
        assert lacking in str(told), told
        assert "lab" not in str(told) + said


def test_a_stack_with_sites_of_other_names_is_an_error_and_no_traceback(
    host: Host, site: LoopbackSite, tmp_path: Path
) -> None:
    key, secret = site.access.keys["admin"]
    store = {
        "endpoint": site.access.endpoint,
        "region": "r",
        "keys": {"writer": [key, {"file": str(secret.file)}]},
    }
    urls = ("patroni_url", "etcd_url", "entry_url", "exporter_url")
    ports = ("postgres_port", "primary_port", "replica_port")
    access = {
        "stack": "st-mary",
        "operator_address": "127.0.0.1",
        "passwords": {},
        **dict.fromkeys(("ca_file", "client_cert", "client_key", "ssh_key"), "x"),
        "ssh_known_hosts": "x",
        "sites": [
            {"name": n, "address": "127.0.0.1", "store": store}
            | dict.fromkeys(urls, "https://127.0.0.1:1")
            | dict.fromkeys(ports, 1)
            for n in ("east", "west")
        ],
    }
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "access.json").write_text(json.dumps(access))
    own = {k: v for k, v in host.own.items() if k != "ZAIBEI_REPO"} | {
        "ZAIBEI_STATE": str(tmp_path)
    }
    other = Host(host.home, host.repo, own)

    for words in (("list",), ("init",), ("run",), ("verify",), ("gc",)):
        told, _ = other.zaibei(*words, code=2)
        assert "st-mary" in str(told) and "east, west" in str(told), told


def test_a_lock_on_a_bucket_without_object_lock_is_refused_before_anything_is_read(
    host: Host,
) -> None:
    repo = host.repo.replace("zaibei-vault", "unlocked")
    host.zaibei("init", "--repo", repo, code=0)

    told, _ = host.zaibei(
        *("run", "--files", str(host.home / "src"), "--retain", "1d", "--repo", repo), code=2
    )

    assert "bucket unlocked was made without Object Lock" in str(told)
    assert host.zaibei("list", "--repo", repo, code=0)[0]


def test_what_speaks_no_s3_is_said_so(host: Host) -> None:
    """A login page before the store, or another service on its port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><p>Please <b>log in")

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Not on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            told, _ = host.zaibei("list", "--repo", f"s3+http://127.0.0.1:{server.server_port}/b")
        finally:
            server.shutdown()
            serving.join(10)
    assert "does not speak S3" in str(told)


@pytest.mark.parametrize("style", ["path", "virtual"])
def test_the_bucket_goes_where_the_addressing_says_and_the_token_along(
    host: Host, tmp_path: Path, style: str
) -> None:
    asked: list[tuple[str, str, str]] = []

    class Proxy(BaseHTTPRequestHandler):
        """A forward proxy that answers itself: it sees the host that was meant."""

        def do_GET(self) -> None:
            token = self.headers.get("x-amz-security-token", "")
            asked.append((self.path, self.headers["Host"], token))
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Not on stderr."""

    (tmp_path / "token").write_text("temporary\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            host.zaibei(
                *("list", "--repo", "s3+http://store.invalid/some-bucket/p"),
                ZAIBEI_S3_PROXY=f"http://127.0.0.1:{server.server_port}",
                ZAIBEI_S3_ADDRESSING=style,
                ZAIBEI_S3_SESSION_TOKEN_FILE=str(tmp_path / "token"),
            )
        finally:
            server.shutdown()
            serving.join(10)
    path, name, token = asked[0]
    assert token == "temporary"
    assert name == ("some-bucket.store.invalid" if style == "virtual" else "store.invalid")
    assert ("/some-bucket/p/config" in path) == (style == "path")


def test_a_child_gets_no_settings_of_other_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PGPASSFILE", "/srv/pass")

    got = run([sys.executable, "-c", "import os; print('\\n'.join(os.environ))"]).split()

    assert set(got) & set(HOSTILE) <= {"TZ", "LC_ALL"}
    assert environment.child()["LC_ALL"] == "C.UTF-8"
    pg = environment.postgres("secret")
    assert (pg["PGPASSFILE"], pg["PGPASSWORD"]) == ("/srv/pass", "secret")
    assert [n for n in pg if n.startswith("PG")] == ["PGPASSFILE", "PGPASSWORD"]


def test_every_variable_of_ours_is_in_the_manual() -> None:
    manual = Path(__file__).parents[2] / "docs" / "reference" / "environment.md"
    assert [n for n in environment.OURS if f"`{n}`" not in manual.read_text()] == []
