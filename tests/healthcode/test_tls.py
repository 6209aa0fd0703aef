"""As on a site: TLS and a password to the database, https to the citizens."""

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest

from infra.data.loopback import Loopback

HBA = """\
hostnossl all zaibei_app 127.0.0.1/32 reject
hostssl all zaibei_app 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
local all all trust
"""


@pytest.mark.integration
async def test_the_service_speaks_tls_on_both_sides_and_knows_its_password(
    server: Loopback, tmp_path: Path, start
) -> None:
    subprocess.run(  # noqa: ASYNC221
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "server.key",
            "-out",
            "server.crt",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    for name in ("server.key", "server.crt"):
        target = server.data / name
        target.write_bytes((tmp_path / name).read_bytes())
        target.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(target, "postgres", "postgres")
    hba = server.data / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(HBA)
    certificate, key = str(tmp_path / "server.crt"), str(tmp_path / "server.key")
    try:
        with start(tmp_path, db_ca_file=certificate, tls_cert=certificate, tls_key=key) as url:
            trusting = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=certificate))
            async with aiohttp.ClientSession(connector=trusting) as http:
                service = start.service(url.replace("http:", "https:"), http)
                service.setting("ssl", "on")
                await start.up(service)
                assert (await service.register("over-tls"))[0] == 201
    finally:
        hba.write_text(before)
