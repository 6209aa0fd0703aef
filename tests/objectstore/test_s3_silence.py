"""A store that says nothing: unreachable, with the reason that tells who has to look."""

import socket
import ssl
from pathlib import Path

import pytest
from botocore.exceptions import (
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.exceptions import NewConnectionError

from infra.objectstore.s3 import Patience, open_store
from infra.objectstore.silence import no_connection
from infra.sites import Secret, StoreAccess
from zaibei.kernel.errors import Unreachable


def test_a_store_that_nobody_listens_for_is_unreachable_and_not_a_refusal(tmp_path: Path) -> None:
    """A mirror degrades over an unreachable store; over a refusal it must not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: a connection is refused at once
        secret = tmp_path / "secret"
        secret.write_text("s")
        access = StoreAccess(
            endpoint=f"https://127.0.0.1:{taken.getsockname()[1]}",
            region="r",
            keys={"business": ("k", Secret(file=secret))},
        )
        store = open_store(
            access, ca_file=None, bucket="b", role="business", patience=Patience(attempts=1)
        )

        with pytest.raises(Unreachable, match="key: connection refused"):
            store.create("key", b"data")
        with pytest.raises(Unreachable):
            store.read("key")


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "no such host"),
        (OSError(113, "No route to host"), "no route to host"),
        (ConnectionResetError(104, "Connection reset by peer"), "the connection broke"),
        (ssl.SSLError(1, "wrong version number"), "no TLS came about"),
        (TimeoutError("timed out"), "no answer in time"),
    ],
)
def test_the_reason_is_found_below_what_two_libraries_wrapped_around_it(
    inner: OSError, said: str
) -> None:
    urllib3 = NewConnectionError(None, "Failed to establish a new connection")  # type: ignore[arg-type]
    urllib3.__cause__ = inner
    silent = no_connection("s3/b: config", EndpointConnectionError(endpoint_url="u", error=urllib3))
    assert silent.message.startswith(f"s3/b: config: {said}")
    assert silent.hints


def test_a_certificate_of_another_ca_is_told_as_that() -> None:
    inner = ssl.SSLCertVerificationError(1, "certificate verify failed")
    inner.verify_message = "self-signed certificate in certificate chain"
    silent = no_connection("s3/b", SSLError(endpoint_url="u", error=inner))
    assert "its certificate is not trusted: self-signed" in silent.message
    assert "ZAIBEI_S3_CA_FILE" in silent.hints[0]


@pytest.mark.parametrize(
    "error", [ReadTimeoutError(endpoint_url="u"), ConnectTimeoutError(endpoint_url="u")]
)
def test_silence_is_told_as_no_answer_in_time(error: Exception) -> None:
    assert "no answer in time" in no_connection("s3/b", error).message
