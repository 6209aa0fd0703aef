"""Run a witness: sign the heads of known logs over HTTP, each only when it continues the last one seen.

The protocol is C2SP tlog-witness: `POST /add-checkpoint` with the size of the last head that the asker
knows to be seen here, a consistency proof from it, and the new head. One key, and for each log a folder
with its pinned key and its last head. A log whose key was not brought here by people is unknown.
"""

import base64
import ssl
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from zaibei.evidence import keys, note, tree
from zaibei.evidence.witness import Witness, origin_of
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Busy, Damage, Refused, Usage
from zaibei.kernel.log import logger
from zaibei.kernel.state import write_atomic

PATH = "/add-checkpoint"
SIZE_TYPE = "text/x.tlog.size"
MAX_BODY_BYTES = 64 << 10
MAX_PROOF = 63  # hashes; a tree of 2^63 needs no more
_WAIT_S = 10  # for the rest of a request
_say = logger(__name__)


class Desk:
    """A witness's folder: `name`, its key, and a folder for each log it watches."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        """Raises Usage when there is no witness in `directory`."""
        self._dir, self._clock = directory, clock
        if not (directory / "name").is_file():
            raise Usage(
                f"no witness here: {directory}",
                hint=f"zaibei evidence witness init {directory} --name NAME",
            )
        self.name = (directory / "name").read_text().strip()

    @classmethod
    def create(cls, directory: Path, clock: Clock, *, name: str) -> "Desk":
        """Make the key once. Raises Usage for another name than it has."""
        if not name or not all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
            raise Usage(f"not a name for a witness: {name!a}", hint="letters, digits, - and _")
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (directory / "name").exists():
            keys.make_ed25519_once(directory)
            write_atomic(directory / "name", f"{name}\n")
        self = cls(directory, clock)
        if self.name != name:
            raise Usage(f"the witness in {directory} is called {self.name}")
        return self

    @property
    def public(self) -> bytes:
        return keys.public_pem(keys.ed25519_private(self._dir).public_key())

    def watch(self, log_key: bytes) -> str:
        """Pin a log's Ed25519 key, brought here by people. Returns the origin it will answer for."""
        keys.load_ed25519(log_key)
        origin = origin_of(log_key)
        self._witness(origin, log_key)
        return origin

    def logs(self) -> dict[str, Witness]:
        """By origin."""
        pinned = sorted((self._dir / "logs").glob("*/log.pub"))
        return {
            origin: self._witness(origin, key)
            for path in pinned
            if (origin := origin_of(key := path.read_bytes()))
        }

    def _witness(self, origin: str, log_key: bytes) -> Witness:
        folder = self._dir / "logs" / origin.rpartition(":")[2]
        return Witness(
            folder, name=self.name, log_key=log_key, clock=self._clock, key_directory=self._dir
        )

    def answer(self, body: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body for one request. Nothing that is asked raises."""
        try:
            old, proof, checkpoint = parse_request(body)
            head = note.parse_checkpoint(note.parse(checkpoint).text)
        except Damage as bad:
            return 400, "text/plain", f"{bad.message}\n".encode()
        watching = self.logs().get(head.origin)
        if watching is None:
            return 404, "text/plain", b"this log is not watched here\n"
        try:
            return self._add(watching, head, checkpoint, old, proof)
        except Busy:
            return 503, "text/plain", b"another request is being answered\n"
        except Damage as bad:
            return 403, "text/plain", f"{bad.message}\n".encode()
        except Refused as no:
            _say.error(
                "evidence.witness_refused", origin=head.origin, size=head.size, why=no.message
            )
            return 422, "text/plain", f"{no.message}\n".encode()

    def _add(
        self,
        watching: Witness,
        head: note.Checkpoint,
        checkpoint: bytes,
        old: int,
        proof: Sequence[bytes],
    ) -> tuple[int, str, bytes]:
        if old > head.size:
            return 400, "text/plain", b"the old size is larger than the new one\n"
        watching.check(checkpoint)  # before anything is said about what was seen
        last = watching.last()
        seen = last.size if last else 0
        if old != seen or (last and head.size == seen and head.root != last.root):
            return 409, SIZE_TYPE, f"{seen}\n".encode()
        line = watching.cosign(checkpoint, proof)
        return 200, "text/plain; charset=utf-8", str(line).encode()


def parse_request(body: bytes) -> tuple[int, list[bytes], bytes]:
    """`old SIZE`, lines of base64, a blank line, the checkpoint. Raises Damage."""
    front, blank, checkpoint = body.partition(b"\n\n")
    lines = front.split(b"\n")
    word, _, size = lines[0].partition(b" ")
    good = word == b"old" and size.isdigit() and len(size) <= 19 and str(int(size)).encode() == size
    if not blank or not good or len(lines) - 1 > MAX_PROOF:
        raise Damage("not a request to add a checkpoint")
    try:
        proof = [base64.b64decode(line, validate=True) for line in lines[1:]]
    except ValueError as bad:
        raise Damage("a line of the proof is not base64") from bad
    if any(len(h) != len(tree.EMPTY_ROOT) for h in proof):
        raise Damage("a line of the proof is no hash")
    return int(size), proof, checkpoint


def encode_request(old: int, proof: Sequence[bytes], checkpoint: bytes) -> bytes:
    lines = [f"old {old}", *(base64.b64encode(h).decode() for h in proof), "", ""]
    return "\n".join(lines).encode() + checkpoint


def server(
    desk: Desk, *, host: str, port: int, tls: ssl.SSLContext | None = None
) -> ThreadingHTTPServer:
    """Bound and ready; `serve_forever` answers."""

    class Handler(BaseHTTPRequestHandler):
        timeout = _WAIT_S

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if self.path != PATH:
                self._reply(404, "text/plain", b"POST /add-checkpoint\n")
            elif not length.isdigit() or int(length) > MAX_BODY_BYTES:
                self._reply(413, "text/plain", b"a request has a length, of at most 64 KiB\n")
            else:
                self._reply(*desk.answer(self.rfile.read(int(length))))

        def _reply(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name there)
            """What matters is logged where it is decided; a request line is the asker's text."""

    made = ThreadingHTTPServer((host, port), Handler, bind_and_activate=False)
    made.daemon_threads = True
    made.server_bind()
    made.server_activate()
    if tls is not None:
        # The handshake is the handler thread's: a caller that connects and is silent blocks nobody.
        made.socket = tls.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
    return made
