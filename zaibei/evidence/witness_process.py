"""Run a site's witness: `python -P -m zaibei.evidence.witness_process FOLDER --name … --log-key … --listen … --certificate …`.

For a service manager: it makes its key where it runs, the first time, and shows the public part as `witness.pub`. Its
key and what it saw lie together, so a witness that lost its memory has lost its name too.
"""

import argparse
import ssl
import sys
from http.server import ThreadingHTTPServer
from pathlib import Path

from zaibei.evidence.witness_server import Desk, server
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Usage, ZaibeiError
from zaibei.kernel.state import write_atomic


def listening(
    desk: Desk, listen: str, *, certificate: Path | None = None, key: Path | None = None
) -> ThreadingHTTPServer:
    """Bound to HOST:PORT; https with a certificate, whose file may hold its key too. Raises Usage."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise Usage(f"not an address to listen on: {listen!a}", hint="HOST:PORT")
    tls = None
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        tls.load_cert_chain(certificate, key)
    try:
        return server(desk, host=host.strip("[]"), port=int(port), tls=tls)
    except OSError as taken:
        raise Usage(f"cannot listen on {listen}: {taken}", hint="choose another port") from taken


def main(argv: list[str]) -> int:
    asked = argparse.ArgumentParser(prog="zaibei.evidence.witness_process")
    asked.add_argument("folder", type=Path)
    asked.add_argument("--name", required=True)
    asked.add_argument("--log-key", type=Path, required=True)
    asked.add_argument("--listen", required=True)
    asked.add_argument("--certificate", type=Path, required=True)
    given = asked.parse_args(argv)
    try:
        desk = Desk.create(given.folder, SystemClock(), name=given.name)
        origin = desk.watch(given.log_key.read_bytes())
        write_atomic(given.folder / "witness.pub", desk.public)
        with listening(desk, given.listen, certificate=given.certificate) as made:
            print(f"witness {desk.name} of {origin} at {given.listen}", flush=True)
            made.serve_forever()
    except ZaibeiError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
