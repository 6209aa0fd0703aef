"""A witness over real HTTP on loopback: it signs what continues, and refuses a rollback and a fork."""

import random
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.evidence.conftest import shell
from tests.evidence.test_cli import zaibei
from tests.failover.conftest import make_pki
from zaibei.evidence import Evidence, Findings, Kind, pack, verify
from zaibei.evidence.keys import fingerprint
from zaibei.evidence.remote_witness import FILE, RemoteWitness, declare, declared, withdraw
from zaibei.evidence.witness_list import record_declared
from zaibei.evidence.witness_server import Desk, encode_request, server
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage, Refused, Usage

pytestmark = pytest.mark.attack


@contextmanager
def serving(desk: Desk, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    made = server(desk, host="127.0.0.1", port=0, tls=tls)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{made.server_address[1]}"
    finally:
        made.shutdown()
        made.server_close()
        thread.join(timeout=10)


class Site:
    """A log here and a witness there."""

    def __init__(self, root: Path) -> None:
        self.root, self.clock = root, SimClock()
        self.where = root / "evidence"
        self.log = Evidence.open(self.where, self.clock)
        self.desk = Desk.create(root / "witness", self.clock, name="site-b")
        self.desk.watch(self.log.keys.ed25519)

    def declare(self, url: str, public: bytes | None = None, ca: Path | None = None) -> Evidence:
        one = RemoteWitness(
            name="site-b", url=url, public=public or self.desk.public, ca=str(ca) if ca else None
        )
        declare(self.where, one)
        self.log = Evidence.open(self.where, self.clock)
        return self.log

    def seen(self) -> int | None:
        last = self.desk.logs()[self.log.head().origin].last()
        return last.size if last else None

    def record(self, n: int) -> None:
        self.log.record(Kind.ACTION, {"n": n})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_declared_witness_is_asked_after_each_record_and_named_in_a_pack_by_both_verifiers(
    site: Site,
) -> None:
    with serving(site.desk) as url:
        site.declare(url)
        for n in range(3):
            site.record(n)
            assert site.seen() == n + 1
        made = pack(
            site.log, entries=[2], artefacts_dir=site.root, dest=site.root / "pack", title="t"
        )
    given = [*map(fingerprint, site.log.keys.files().values()), fingerprint(site.desk.public)]
    assert verify(made, trusted_fingerprints=given).witnesses == ("site-b",)
    flags = [f for value in given for f in ("--fingerprint", value)]
    assert "cosigned by urn:zaibei:witness:site-b" in shell(made, *flags).stdout


def test_a_log_put_back_as_it_was_is_refused_by_the_witness(site: Site) -> None:
    with serving(site.desk) as url:
        site.declare(url)
        site.record(0)
        shutil.copytree(site.where, site.root / "saved")
        site.record(1)
        site.record(2)
        shutil.rmtree(site.where)
        shutil.move(site.root / "saved", site.where)
        site.log = Evidence.open(site.where, site.clock)
        with pytest.raises(Refused, match="it saw 3 entries, the log has 2"):
            site.record(7)
        site.log = Evidence.open(site.where, site.clock)
        with pytest.raises(Refused, match="the first 3 entries are not the ones it saw"):
            site.record(8)  # as long as the true one: a fork
        with pytest.raises(Refused, match="the first 4 entries are not the ones it saw"):
            site.record(9)  # longer than it
        assert site.seen() == 3


def test_a_log_that_the_witness_does_not_know_gets_no_line_and_goes_on(site: Site) -> None:
    shutil.rmtree(site.root / "witness" / "logs")
    with serving(site.desk) as url:
        site.declare(url)
        site.record(0)
        assert b"witness:site-b" not in site.log.checkpoint()
        assert zaibei("witness", "ask", "--evidence", site.where).returncode == 6


def test_a_witness_that_is_away_stops_no_record(site: Site) -> None:
    with serving(site.desk) as url:
        pass
    site.declare(url)
    site.record(0)
    assert site.log.head().size == 1
    assert site.seen() is None


def test_an_answer_by_another_key_at_the_witnesss_address_is_refused(site: Site) -> None:
    other = Desk.create(site.root / "other", site.clock, name="site-b")
    other.watch(site.log.keys.ed25519)
    with serving(other) as url:
        site.declare(url)
        with pytest.raises(Damage, match="signed by another key"):
            site.record(0)


def test_a_declared_key_is_not_replaced_by_declaring_it_again(site: Site) -> None:
    other = Desk.create(site.root / "other", site.clock, name="site-b")
    site.declare("http://127.0.0.1:1")
    with pytest.raises(Refused, match="declared with another key"):
        site.declare("http://127.0.0.1:2", public=other.public)
    site.declare("http://127.0.0.1:3")
    assert [w.url for w in declared(site.where)] == ["http://127.0.0.1:3"]
    (site.where / FILE).write_text('[{"name": 1}]')
    with pytest.raises(Damage, match="does not list witnesses"):
        Evidence.open(site.where, site.clock)


@pytest.mark.parametrize("url", ["ftp://x", "file:///etc/passwd", "http://user:pw@host:1", "x"])
def test_what_is_no_address_of_a_witness_is_not_declared(site: Site, url: str) -> None:
    with pytest.raises(Usage, match="not the URL of a witness"):
        site.declare(url)


def test_a_line_that_a_witness_gave_to_a_head_stays_while_it_is_away(site: Site) -> None:
    with serving(site.desk) as url:
        site.declare(url)
        site.record(0)
    assert verify_pack(site, "away").unknown_witnesses == (fingerprint(site.desk.public),)
    site.record(1)
    assert verify_pack(site, "grown").unknown_witnesses == ()


def test_a_declared_witness_that_did_not_sign_is_noted_by_both_verifiers(site: Site) -> None:
    with serving(site.desk) as url:
        site.declare(url)
        assert record_declared(site.log)
        assert record_declared(site.log) is None
        assert _said(site, "signed") == []
    site.record(1)
    assert _said(site, "away") == [
        "witness site-b, declared in entry 0, did not sign the checkpoint"
    ]
    withdraw(site.where, ["site-b"])
    assert record_declared(site.log)
    site.log = Evidence.open(site.where, site.clock)
    assert _said(site, "withdrawn") == []


def test_a_witness_with_another_key_is_noted_by_both_verifiers(site: Site) -> None:
    with serving(site.desk) as url:
        site.declare(url)
        record_declared(site.log)
        withdraw(site.where, ["site-b"])
    lost = Desk.create(site.root / "new", site.clock, name="site-b")
    lost.watch(site.log.keys.ed25519)
    with serving(lost) as url:
        site.declare(url, public=lost.public)
        record_declared(site.log)
        assert _said(site, "replaced") == ["witness site-b has another key since entry 1"]


@pytest.mark.parametrize(
    "predicate",
    [
        {},
        {"declared": [{"name": "site-b"}]},
        {"declared": [{"fingerprint": "0" * 63, "name": "site-b"}]},
        {"declared": [{"fingerprint": "0" * 64, "name": "a],b"}]},
        {"declared": [{"fingerprint": "0" * 64, "name": "site-b", "url": "x"}]},
        {"declared": [], "more": 1},
    ],
)
def test_a_list_of_witnesses_in_another_form_is_noted_by_both_verifiers(
    site: Site, predicate: dict[str, object]
) -> None:
    site.log.record(Kind.WITNESSES, {"declared": [{"fingerprint": "1" * 64, "name": "site-b"}]})
    site.log.record(Kind.WITNESSES, predicate)
    assert _said(site, "odd") == ["witnesses 1: not in a form that can be compared; read it"]


def verify_pack(site: Site, name: str) -> Findings:
    made = pack(site.log, entries=[0], artefacts_dir=site.root, dest=site.root / name, title="t")
    return verify(made)


def _said(site: Site, name: str) -> list[str]:
    """What both verifiers say of declared witnesses, in the same words."""
    found = verify_pack(site, name)
    assert found.ok, found.problems
    script = shell(site.root / name)
    assert script.returncode == 0, script.stderr
    lines = [line.removeprefix("note: ") for line in script.stdout.splitlines()]
    mine = [note for note in found.notes if note.startswith(("witness ", "witnesses "))]
    assert [line for line in lines if line.startswith(("witness ", "witnesses "))] == mine
    return mine


def _other_log(site: Site) -> bytes:
    return Evidence.open(site.root / "another", site.clock).checkpoint()


def _unsigned(site: Site) -> bytes:
    """Without the line of the log's own key; the SM2 line is not one that a witness checks."""
    lines = site.log.checkpoint().splitlines(keepends=True)
    return b"".join([*lines[:4], lines[-1].replace(b"A", b"B")])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (lambda s: b"", 400),
        (lambda s: b"old -1\n\n" + s.log.checkpoint(), 400),
        (lambda s: b"old 01\n\n" + s.log.checkpoint(), 400),
        (lambda s: b"old " + b"9" * 40 + b"\n\n" + s.log.checkpoint(), 400),
        (lambda s: b"old 0\nAAAA\n\n" + s.log.checkpoint(), 400),
        (lambda s: b"old 0\n" + b"A" * 43 + b"=\n" * 1 + b"\n" + s.log.checkpoint()[:-5], 400),
        (lambda s: encode_request(5, [], s.log.checkpoint()), 400),
        (lambda s: encode_request(0, [], _other_log(s)), 404),
        (lambda s: encode_request(0, [], _unsigned(s)), 403),
        (lambda s: encode_request(1, [], s.log.checkpoint()), 409),
        (lambda s: encode_request(0, [], s.log.checkpoint()), 200),
    ],
)
def test_each_request_has_the_answer_of_the_protocol(
    site: Site, body: Callable[[Site], bytes], status: int
) -> None:
    site.record(0)
    got, _, text = site.desk.answer(body(site))
    assert (got, site.seen() is not None) == (status, status == 200)
    assert b"Traceback" not in text


def test_a_wrong_proof_signs_nothing_and_the_old_head_is_kept(site: Site) -> None:
    for n in range(3):
        site.record(n)
    assert site.desk.answer(encode_request(0, [], site.log.checkpoint()))[0] == 200
    for n in range(2):
        site.record(n)
    proof = site.log.prove_consistency(3)
    forged = [bytes(32), *proof[1:]]
    assert site.desk.answer(encode_request(3, forged, site.log.checkpoint()))[0] == 422
    assert site.seen() == 3
    assert site.desk.answer(encode_request(3, proof, site.log.checkpoint()))[0] == 200


def test_no_bytes_that_are_sent_end_a_witness(site: Site) -> None:
    site.record(0)
    honest = encode_request(0, [], site.log.checkpoint())
    rng = random.Random(11)
    for _ in range(150):
        spoilt = bytearray(honest)
        for _ in range(rng.randint(1, 4)):
            spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
        if bytes(spoilt) != honest:
            assert site.desk.answer(bytes(spoilt))[0] in {400, 403, 404, 409, 200}
    assert site.desk.answer(honest)[0] in {200, 409}


def test_a_witness_over_tls_is_asked_with_the_ca_that_was_declared(site: Site) -> None:
    pki = make_pki(site.root)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pki.cert, pki.key)
    with serving(site.desk, tls) as url:
        site.declare(url)
        site.record(0)
        assert site.seen() is None  # its certificate is not of a known CA: as if it were away
        site.declare(url, ca=pki.ca)
        site.record(1)
        assert site.seen() == 2


def test_the_commands_make_run_declare_and_ask_a_witness(tmp_path: Path) -> None:
    evidence, there = tmp_path / "evidence", tmp_path / "witness"
    assert zaibei("init", "--evidence", evidence).returncode == 0
    made = zaibei("witness", "init", there, "--name", "site-c")
    assert made.returncode == 0, made.stderr
    assert zaibei("witness", "watch", there, evidence / "keys" / "ed25519.pub").returncode == 0
    command = [sys.executable, "-P", "-m", "zaibei.cli.main", "evidence", "witness", "serve"]
    with subprocess.Popen(
        [*command, there, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            url = running.stdout.readline().split()[-1]
            where = ["--evidence", evidence]
            key = ["--key", there / "witness.pub"]
            added = zaibei("witness", "add", "site-c", "--url", url, *key, *where)
            assert added.stdout.split()[0] == made.stdout.split()[0], added.stderr
            asked = zaibei("witness", "ask", *where)
            assert (asked.returncode, asked.stdout) == (0, "cosigned by site-c\n"), asked.stderr
        finally:
            running.terminate()
            running.wait(timeout=10)
    kept = zaibei("witness", "ask", *where)
    assert kept.stdout == "cosigned by site-c\n", "it signed this head when it was there"
    assert zaibei("schedule", *where).returncode == 0
    away = zaibei("witness", "ask", *where)
    assert away.returncode == 6
    assert "no answer from site-c" in away.stderr
