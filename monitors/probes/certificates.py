"""When the certificate that an endpoint really shows expires.

It is read without judging it: a probe that verifies would go blind on the day the certificate expires.
"""

import socket
import ssl
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from zaibei.kernel.errors import Damage, Unreachable


def shown(url: str, *, client_cert: Path, client_key: Path, deadline: timedelta) -> datetime:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    look = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    look.check_hostname = False
    look.verify_mode = ssl.CERT_NONE
    look.load_cert_chain(client_cert, client_key)
    try:
        with (
            socket.create_connection((host, port), timeout=deadline.total_seconds()) as plain,
            look.wrap_socket(plain, server_hostname=host) as link,
        ):
            der = link.getpeercert(binary_form=True)
    except OSError as gone:
        raise Unreachable(f"{host}:{port}: {gone}") from gone
    if der is None:
        raise Damage(f"{host}:{port}: showed no certificate")
    return x509.load_der_x509_certificate(der).not_valid_after_utc


def on_disk(path: Path) -> datetime:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except OSError as gone:
        raise Unreachable(f"{path}: {gone.strerror}") from gone
    except ValueError as garbled:
        raise Damage(f"{path}: not a PEM certificate") from garbled
