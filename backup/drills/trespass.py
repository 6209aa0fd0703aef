"""Try everything that one account of a site can read against every door of the stack.

A program of its own, for the ransomware drill: it runs on the site as the account that faces the internet, is told
addresses on stdin, and finds keys, passwords and sockets by looking. Every attempt is one that harms nothing if it is
let in: to be let in is the finding. It counts per door: managed, refused, or never reached.
"""

import json
import os
import random
import re
import socket
import ssl
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from zaibei.kernel.clock import Clock, SystemClock

MANAGED, REFUSED, UNREACHED = "managed", "refused", "unreached"
PLACES: Final = (
    "/etc/zaibei",
    "/var/lib/zaibei",
    "/run",
    "/tmp",
    "/root",
    "/home",
    "/etc/ssl/private",
    "/opt/zaibei",
    "/proc",
)
_NOT_WORTH: Final = ("/opt/zaibei/venv", "/opt/zaibei/code", "/proc/sys", "/proc/bus", "/proc/irq")
FILES_MAX: Final = 20_000
FILE_BYTES_MAX: Final = 64 << 10
WORDS_MAX: Final = 60
_WORD_MAX: Final = 130
_LIKELY: Final = 4
_WORD: Final = re.compile(r"[A-Za-z0-9_+/-]{16,128}")
_USERS: Final = ("postgres", "replicator", "rewind", "zaibei_loader", "zaibei_backup", "zaibei_app")
_ROLES: Final = ("admin", "writer", "deleter", "auditor", "business")
_WITHIN_S: Final = 3.0
_OK_BELOW: Final = 400
_NO_SUCH: Final = "zaibei-no-such-thing"
_H2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@dataclass(slots=True, kw_only=True)
class Loot:
    """What the account can read."""

    files: int = 0
    keys: list[Path] = field(default_factory=list)  # a private key with its certificate
    words: list[str] = field(default_factory=list)  # whatever could be a password
    sockets: list[Path] = field(default_factory=list)


def look(places: tuple[str, ...] = PLACES) -> Loot:
    found, words, likely = Loot(), dict[str, None](), dict[str, None]()
    for path in _below(places):
        try:
            mode = path.lstat().st_mode
            if stat.S_ISSOCK(mode):
                found.sockets.append(path)
                continue
            environment = path.name == "environ" and path.parts[1] == "proc"
            if not stat.S_ISREG(mode) or (path.parts[1] == "proc" and not environment):
                continue
            with path.open("rb") as opened:
                text = opened.read(FILE_BYTES_MAX).decode(errors="replace")
        except OSError:
            continue
        found.files += 1
        if "PRIVATE KEY-----" in text and "BEGIN CERTIFICATE" in text:
            found.keys.append(path)
        if path.suffix in (".crt", ".pem", ".log", ".pub"):
            continue
        if len(text) <= _WORD_MAX:  # a file that is a password and nothing else
            likely |= dict.fromkeys(_WORD.findall(text))
        elif len(words) < WORDS_MAX:
            words |= dict.fromkeys(_WORD.findall(text))
    found.words = list(likely | words)[:WORDS_MAX]
    return found


def _below(places: tuple[str, ...]) -> Iterator[Path]:
    seen = 0
    for place in places:
        for folder, inside, files in os.walk(place):
            if folder.startswith(_NOT_WORTH):
                inside.clear()
                continue
            if place == "/proc":  # processes, and of each no more than its own files
                inside[:] = [d for d in inside if d.isdigit()] if folder == "/proc" else []
            for name in files:
                seen += 1
                if seen > FILES_MAX:
                    return
                yield Path(folder, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thief:
    loot: Loot
    rng: random.Random
    scratch: Path

    def word(self) -> str:
        """Rather one of the first: what lay in a file of its own."""
        words = self.loot.words or [""]
        return self.rng.choice(words[:_LIKELY] if self.rng.random() < 0.5 else words)

    def tls(self) -> ssl.SSLContext:
        """With one of the keys, or with none. Who the server is does not matter to a thief."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
        if self.loot.keys and self.rng.random() < 0.8:
            made.load_cert_chain(self.rng.choice(self.loot.keys))
        return made

    def ask(self, door: dict[str, Any], method: str, path: str, body: Any = None) -> int:
        """Status of an answer over https. Raises OSError."""
        link = HTTPSConnection(door["address"], door["port"], timeout=_WITHIN_S, context=self.tls())
        try:
            data = None if body is None else json.dumps(body).encode()
            link.request(method, path, body=data, headers={"Content-Type": "application/json"})
            return link.getresponse().status
        finally:
            link.close()


def _grpc(thief: Thief, door: dict[str, Any]) -> str:
    """Whoever gets past the handshake of such a door may call what is behind it."""
    where = (door["address"], door["port"])
    tls = thief.tls()
    tls.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(where, timeout=_WITHIN_S) as plain,
        tls.wrap_socket(plain) as link,
    ):
        link.sendall(_H2)
        return MANAGED if link.recv(9) else REFUSED


def _https(thief: Thief, door: dict[str, Any]) -> str:
    method, path = thief.rng.choice(
        [
            ("GET", "/"),
            ("GET", "/dir/status"),
            ("GET", "/status"),
            ("GET", "/metrics"),
            ("GET", f"/col/delete?collection={_NO_SUCH}"),
            ("GET", "/buckets/"),
            ("DELETE", f"/buckets/{_NO_SUCH}?recursive=true"),
        ]
    )
    return _word(thief.ask(door, method, path))


def _s3(thief: Thief, door: dict[str, Any]) -> str:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    from infra.objectstore.s3 import Patience, client  # noqa: PLC0415

    second = timedelta(seconds=_WITHIN_S)
    s3 = client(
        endpoint=f"https://{door['address']}:{door['port']}",
        region="zaibei",
        key=f"zb{thief.rng.choice(_ROLES)}",
        secret=thief.word() or "x",
        ca_file=Path(door["ca_file"]),
        patience=Patience(connect=second, read=second, attempts=1),
    )
    bucket = door["bucket"]
    tries: list[Callable[[], Any]] = [
        lambda: s3.list_object_versions(Bucket=bucket, MaxKeys=1),
        lambda: s3.delete_object(Bucket=bucket, Key=_NO_SUCH, BypassGovernanceRetention=True),
        lambda: s3.delete_bucket(Bucket=_NO_SUCH),
        s3.list_buckets,
    ]
    try:
        thief.rng.choice(tries)()
    except ClientError as no:
        status = int(no.response["ResponseMetadata"].get("HTTPStatusCode", 0))
        return REFUSED if status in (401, 403) else MANAGED
    except BotoCoreError as silent:
        raise OSError(str(silent)) from silent
    finally:
        s3.close()
    return MANAGED


def _etcd(thief: Thief, door: dict[str, Any]) -> str:
    path, body = thief.rng.choice(
        [
            ("kv/range", {"key": "Lw==", "range_end": "MA=="}),
            (
                "auth/authenticate",
                {"name": thief.rng.choice(["root", "patroni"]), "password": thief.word()},
            ),
            ("maintenance/status", {}),
            ("cluster/member/list", {}),
        ]
    )
    return _word(thief.ask(door, "POST", f"/v3/{path}", body))


def _patroni(thief: Thief, door: dict[str, Any]) -> str:
    method, path, body = thief.rng.choice(
        [
            ("PATCH", "/config", {}),
            ("POST", "/switchover", {"leader": _NO_SUCH, "candidate": _NO_SUCH}),
            ("POST", "/failover", {"candidate": _NO_SUCH}),
            ("DELETE", "/switchover", None),
        ]
    )
    # Anything but a no to the person, also "there is no such member", is a yes to the person.
    return REFUSED if thief.ask(door, method, path, body) in (401, 403) else MANAGED


def _postgres(thief: Thief, door: dict[str, Any]) -> str:
    import psycopg  # noqa: PLC0415
    from psycopg.errors import InsufficientPrivilege  # noqa: PLC0415

    user = thief.rng.choice(_USERS)
    database = thief.rng.choice(["health_code", "population", "postgres"])
    where = (
        f"host={door['address']} port={door['port']} user={user} dbname={database} sslmode=require"
    )
    if thief.loot.keys:
        # libpq wants the key readable by its owner alone, and it is: it is a copy.
        key = thief.scratch / "key.pem"
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_bytes(thief.rng.choice(thief.loot.keys).read_bytes())
        where += f" sslcert={key} sslkey={key}"
    try:
        with psycopg.connect(where, password=thief.word(), connect_timeout=3) as db:
            if (user, database) != ("zaibei_app", "health_code"):
                return MANAGED
            # This account's own duty is to add rows: it may not take any away.
            try:
                db.execute("DELETE FROM sample_registration WHERE idempotency_key = 'no such key'")
            except InsufficientPrivilege:
                return REFUSED
            finally:
                db.rollback()
            return MANAGED
    except psycopg.OperationalError as no:
        said = str(no)
        if "FATAL" in said or "SSL" in said:
            return REFUSED
        raise OSError(said) from no


def _unix(thief: Thief, door: dict[str, Any]) -> str:
    path = thief.rng.choice(thief.loot.sockets)
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(_WITHIN_S)
        try:
            link.connect(str(path))
        except PermissionError:
            return REFUSED
        except OSError as gone:
            raise OSError(f"{path}: {gone}") from gone
    return MANAGED


KINDS: Final[dict[str, Callable[[Thief, dict[str, Any]], str]]] = {
    "grpc": _grpc,
    "https": _https,
    "s3": _s3,
    "etcd": _etcd,
    "patroni": _patroni,
    "postgres": _postgres,
    "unix": _unix,
}


def _word(status: int) -> str:
    return MANAGED if status < _OK_BELOW else REFUSED


def trespass(
    thief: Thief,
    doors: list[dict[str, Any]],
    *,
    duration: timedelta,
    per_second: float,
    clock: Clock,
) -> dict[str, dict[str, int]]:
    """Every door in turn, in random order, until the time is over."""
    tally: dict[str, Counter[str]] = {d["door"]: Counter() for d in doors}
    begun, done = clock.monotonic(), 0
    order: list[dict[str, Any]] = []
    while clock.monotonic() - begun < duration.total_seconds():
        if not order:
            order = thief.rng.sample(doors, len(doors))
        door = order.pop()
        tally[door["door"]][attempt(thief, door)] += 1
        done += 1
        ahead = begun + done / per_second - clock.monotonic()
        clock.sleep(timedelta(seconds=max(0.0, ahead)))
    return {name: dict(counts) for name, counts in tally.items()}


def attempt(thief: Thief, door: dict[str, Any]) -> str:
    if door["kind"] == "unix" and not thief.loot.sockets:
        return UNREACHED
    try:
        return KINDS[door["kind"]](thief, door)
    except (ssl.SSLError, ConnectionResetError, BrokenPipeError, HTTPException):
        return REFUSED  # it answered, by ending the handshake
    except (OSError, ValueError):
        return UNREACHED


def main() -> None:
    told = json.load(sys.stdin)
    loot = look()
    with TemporaryDirectory() as scratch:
        thief = Thief(loot=loot, rng=random.Random(told["seed"]), scratch=Path(scratch))
        found = trespass(
            thief,
            told["doors"],
            duration=timedelta(seconds=told["duration_s"]),
            per_second=told["per_second"],
            clock=SystemClock(),
        )
    loot_said = {
        "files": loot.files,
        "keys": [str(k) for k in loot.keys],
        "words": len(loot.words),
        "sockets": [str(s) for s in loot.sockets],
    }
    json.dump({"doors": found, "loot": loot_said}, sys.stdout)


if __name__ == "__main__":
    main()
