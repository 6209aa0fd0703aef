import socket
from pathlib import Path

import pytest

from infra.objectstore.s3 import Patience, open_store
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

        with pytest.raises(Unreachable):
            store.create("key", b"data")
        with pytest.raises(Unreachable):
            store.read("key")
