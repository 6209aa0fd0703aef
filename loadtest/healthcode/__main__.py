"""`python -P -m loadtest.healthcode [--env FILE]`: serve until told to end."""

import argparse
import os
import sys
from pathlib import Path

import uvicorn

from loadtest.healthcode.settings import read, read_file
from zaibei.kernel.errors import ZaibeiError

_GRACE_S = 5  # for requests inside when told to end
_KEEP_ALIVE_S = 65  # longer than the router keeps a connection: the router closes first
_BACKLOG = 512


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="loadtest.healthcode", description="The reference service."
    )
    parser.add_argument("--env", type=Path, help="file of NAME=value lines")
    file = parser.parse_args().env
    if file is not None:
        # Into the environment, and not only here: further workers read it there.
        os.environ.update({k: v for k, v in read_file(file).items() if k not in os.environ})
    settings = read(os.environ)
    uvicorn.run(
        "loadtest.healthcode.app:create",
        factory=True,
        host=settings.listen,
        port=settings.port,
        workers=settings.workers,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        loop="uvloop",
        http="httptools",
        access_log=False,  # a line a request would cost more than the request
        log_level="warning",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        backlog=_BACKLOG,
    )


if __name__ == "__main__":
    try:
        main()
    except ZaibeiError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
