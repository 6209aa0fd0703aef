from collections.abc import Iterator

import pytest

from infra.data.loopback import Loopback, postgres


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with postgres({"fsync": "off"}) as running:
        yield running
