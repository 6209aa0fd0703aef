"""The world itself: a tool that finds faults in others must have none of its own that matter."""

import random

import pytest

from failover.simulated import plan_of, simulate
from infra.sim.hosts import Hosts
from infra.sim.lease import Register
from infra.sim.member import Member, NotWriter, Sabotage, Said
from zaibei.kernel.clock import SimClock


def test_the_same_seed_is_the_same_world_to_the_last_write() -> None:
    first, again = (simulate(plan_of(3, sabotage=Sabotage.NO_FENCE)) for _ in range(2))

    assert first.ops == again.ops
    assert first.trace == again.trace
    assert first.truth == again.truth


def test_another_seed_is_another_world() -> None:
    assert simulate(plan_of(3)).ops != simulate(plan_of(4)).ops


@pytest.fixture
def hosts() -> Hosts:
    return Hosts(("a", "b"), SimClock(), random.Random(1))


def member(hosts: Hosts, name: str = "a") -> Member:
    return Member(name=name, hosts=hosts, fsync_s=(0.5, 0.5), replication_s=(0.0, 0.0))


def test_what_was_not_on_disk_is_gone_with_the_power(hosts: Hosts) -> None:
    writer = member(hosts)
    writer.promote(1)
    said: list[Said] = []
    writer.insert("kept", "00", said.append)
    hosts.run_until(0.6)
    writer.insert("gone", "00", said.append)
    hosts.run_until(0.7)
    writer.lose_power()

    assert [r.op_id for r in writer.rows()] == ["kept"]
    assert len(said) == 1, "the other was never acknowledged"


def test_a_crash_of_the_process_alone_loses_nothing_that_was_written(hosts: Hosts) -> None:
    writer = member(hosts)
    writer.promote(1)
    writer.insert("kept", "00", lambda _: None)
    writer.crash()

    assert [r.op_id for r in writer.rows()] == ["kept"]


def test_a_commit_waits_for_the_copy_that_was_promised(hosts: Hosts) -> None:
    writer = member(hosts)
    writer.promote(1)
    writer.sync_with = "b"
    said: list[Said] = []
    writer.insert("one", "00", said.append)
    hosts.run_until(5.0)

    assert not said


def test_a_member_that_does_not_write_says_so(hosts: Hosts) -> None:
    said: list[Said] = []
    member(hosts).insert("one", "00", said.append)

    assert said == [NotWriter()]


def test_a_frozen_host_does_late_and_in_order_what_it_missed(hosts: Hosts) -> None:
    done: list[int] = []
    hosts.freeze("a")
    for n in range(3):
        hosts.after(1.0 + n, "a", lambda n=n: done.append(n))  # type: ignore[misc]
    hosts.run_until(10.0)
    assert not done

    hosts.thaw("a")
    hosts.run_until(10.0)
    assert done == [0, 1, 2]


def test_a_host_without_power_never_does_what_it_meant_to(hosts: Hosts) -> None:
    done: list[str] = []
    hosts.after(1.0, "a", lambda: done.append("too late"))
    hosts.power_off("a")
    hosts.power_on("a")
    hosts.run_until(10.0)

    assert not done


def test_messages_of_one_link_arrive_in_order(hosts: Hosts) -> None:
    heard: list[int] = []
    for n in range(50):
        hosts.send("a", "b", lambda n=n: heard.append(n))  # type: ignore[misc]
    hosts.run_until(1.0)

    assert heard == list(range(50))


def test_a_cut_swallows_what_is_on_its_way(hosts: Hosts) -> None:
    heard: list[str] = []
    hosts.send("a", "b", lambda: heard.append("a"))
    hosts.send("b", "a", lambda: heard.append("b"))
    hosts.cut([("a", "b")])
    hosts.run_until(1.0)

    assert heard == ["b"]


def test_the_lease_is_one_holders_until_its_time_is_up() -> None:
    register = Register(ttl_s=2.0)

    assert register.acquire("a", 0.0) == 1
    assert register.acquire("b", 1.9) is None
    assert register.acquire("b", 2.0) == 2, "and the epoch grows"


def test_a_proof_changed_by_somebody_else_cannot_be_changed_unseen() -> None:
    register = Register(ttl_s=2.0)
    version = register.view(0.0).sync_version

    assert register.set_sync(("a", "b"), version=version) is not None
    assert register.set_sync(("b",), version=version) is None
    assert register.view(0.0).sync == ("a", "b")
