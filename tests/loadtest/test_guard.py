import ipaddress

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loadtest.guard import ABSOLUTE, LAB_NETWORK, Caps, NotOurs, door, why_not_address, why_not_caps

LAB = ("10.77.0.11", "10.77.0.12", "10.77.0.13")


def _is_ours(address: str) -> bool:
    """Told another way than the guard tells it."""
    ip = ipaddress.ip_address(address)
    return address in (*LAB, "::1") or (ip.version == 4 and address.startswith("127."))


@settings(deadline=None, max_examples=60)
@given(st.ip_addresses().map(str))
def test_no_address_but_loopback_and_the_declared_lab_is_loaded(address: str) -> None:
    assume(not address.startswith("::ffff:"))
    assert (why_not_address(address, declared=LAB) is None) == _is_ours(address)


@settings(deadline=None, max_examples=60)
@given(st.ip_addresses(v=4).map(str))
def test_an_ipv4_address_in_ipv6_clothes_is_judged_by_what_it_reaches(address: str) -> None:
    assert (why_not_address(f"::ffff:{address}", declared=LAB) is None) == _is_ours(address)


@settings(deadline=None, max_examples=60)
@given(st.ip_addresses(network=str(LAB_NETWORK)).map(str))
def test_the_labs_range_is_not_enough_the_stack_must_declare_the_address(address: str) -> None:
    assert why_not_address(address, declared=()) is not None


@settings(deadline=None, max_examples=60)
@given(st.lists(st.ip_addresses().map(str), min_size=1, max_size=4))
def test_one_foreign_address_behind_a_name_refuses_the_name(addresses: list[str]) -> None:
    foreign = any(why_not_address(a, declared=LAB) for a in addresses)
    if not foreign:
        assert door("https://entry:8443", addresses=addresses, declared=LAB).address in addresses
        return
    with pytest.raises(NotOurs):
        door("https://entry:8443", addresses=addresses, declared=LAB)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_no_text_is_a_door_unless_it_is_a_plain_base_url(text: str) -> None:
    try:
        made = door(text, addresses=["127.0.0.1"], declared=())
    except NotOurs:
        return
    assert made.host
    assert not set(made.host) & set("\r\n @/")


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@127.0.0.1:8443",
        "https://127.0.0.1:8443/path",
        "https://127.0.0.1:8443/?next=x",
        "ftp://127.0.0.1",
        "https://127.0.0.1:99999",
        "https://127.0.0.1%0d%0aX:1",
        "",
    ],
)
def test_a_door_is_scheme_host_and_port(url: str) -> None:
    with pytest.raises(NotOurs):
        door(url, addresses=["127.0.0.1"], declared=())


def test_plain_http_leaves_this_machine_for_nobody() -> None:
    assert door("http://localhost:80", addresses=["127.0.0.1"], declared=LAB).port == 80
    with pytest.raises(NotOurs, match="loopback only"):
        door("http://10.77.0.11:80", addresses=["10.77.0.11"], declared=LAB)


def test_the_refusal_says_what_would_be_allowed() -> None:
    with pytest.raises(NotOurs) as refused:
        door("https://example.org", addresses=["192.0.2.10"], declared=LAB)

    assert refused.value.exit_code == 4
    assert "192.0.2.10 is neither loopback nor a declared lab address" in refused.value.message
    assert any("proof of ownership" in hint for hint in refused.value.hints)


def test_a_name_that_resolves_to_nothing_is_refused() -> None:
    with pytest.raises(NotOurs, match="resolves to nothing"):
        door("https://nowhere", addresses=[], declared=LAB)


def test_the_resolved_address_is_pinned_and_the_name_kept_for_tls() -> None:
    made = door("https://entry.lab:8443/", addresses=["10.77.0.11"], declared=LAB)

    assert (made.host, made.address, made.port, made.tls) == ("entry.lab", "10.77.0.11", 8443, True)


caps = st.builds(
    Caps,
    arrivals_rps=st.floats(1, 10_000),
    requests_rps=st.integers(1, 20_000),
    duration_s=st.floats(1, 20_000),
    in_flight=st.integers(1, 10_000),
)


@settings(deadline=None, max_examples=60)
@given(caps, st.floats(0, 20_000), st.floats(0, 20_000))
def test_nothing_above_a_cap_and_no_cap_above_the_absolute_ones(
    own: Caps, peak: float, length: float
) -> None:
    if why_not_caps(peak_rps=peak, duration_s=length, caps=own) is None:
        assert peak <= own.arrivals_rps <= ABSOLUTE.arrivals_rps
        assert length <= own.duration_s <= ABSOLUTE.duration_s
        assert own.requests_rps <= ABSOLUTE.requests_rps
        assert own.in_flight <= ABSOLUTE.in_flight
