"""A stack of three sites, declared by hand: what the lab's plan is made from."""

import pytest

from zaibei.config.model import Role, Site, SiteLoss, Stack


def three_sites(*names: str) -> Stack:
    roles = (Role.PRODUCTION, Role.SAME_CITY, Role.REMOTE)
    return Stack(
        name="three",
        title="three",
        on_site_loss=SiteLoss.DEGRADE,
        sites=tuple(
            Site(name=n, city=f"city-{i // 2}", role=roles[min(i, 2)], hosts=(n,))
            for i, n in enumerate(names or ("site-a", "site-b", "site-c"))
        ),
        databases=(),
        buckets=(),
        networks=(),
        entry=(),
        services=(),
        approvals=(),
        calendar=(),
        digest="0" * 64,
    )


@pytest.fixture
def stack_of_three() -> Stack:
    return three_sites()
