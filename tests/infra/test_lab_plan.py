import dataclasses
from pathlib import Path

import pytest

from infra.lab.plan import PREFIX, plan
from zaibei.config.model import Site, Stack
from zaibei.kernel.errors import Usage


def test_each_site_has_an_address_a_disk_and_a_cable_of_its_own(stack_of_three: Stack) -> None:
    lab = plan(stack_of_three, Path("/state"))

    assert [h.address for h in lab.hosts] == ["10.77.0.11", "10.77.0.12", "10.77.0.13"]
    assert len({h.image for h in lab.hosts} | {h.console for h in lab.hosts}) == 6
    assert all(h.wan_link.startswith(PREFIX) and len(h.wan_link) <= 15 for h in lab.hosts)
    assert all(h.folder.is_relative_to(lab.root) for h in lab.hosts)


def test_what_is_kept_between_labs_is_not_below_what_down_removes(stack_of_three: Stack) -> None:
    lab = plan(stack_of_three, Path("/state"))

    assert not lab.layers.is_relative_to(lab.root)
    assert not lab.lock.is_relative_to(lab.root)


def test_a_site_name_that_no_network_link_can_have_is_refused(stack_of_three: Stack) -> None:
    first = stack_of_three.sites[0]
    long = dataclasses.replace(first, name="a-site-with-a-long-name")

    with pytest.raises(Usage, match="too long"):
        plan(dataclasses.replace(stack_of_three, sites=(long,)), Path("/state"))


def test_a_machine_carries_a_bounded_number_of_sites(stack_of_three: Stack) -> None:
    many = tuple(
        Site(name=f"s{i}", city="c", role=stack_of_three.sites[0].role, hosts=()) for i in range(7)
    )

    with pytest.raises(Usage, match="at most 6 sites"):
        plan(dataclasses.replace(stack_of_three, sites=many), Path("/state"))


def test_an_unknown_site_is_answered_with_the_known_ones(stack_of_three: Stack) -> None:
    with pytest.raises(Usage) as refused:
        plan(stack_of_three, Path("/state")).host("site-z")

    assert "site-a, site-b, site-c" in str(refused.value)
