"""Objectives that the declared topology cannot keep are refused, each with the reason."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zaibei.config
from zaibei.config import DEFAULT, check, load, sample
from zaibei.config._promises import (
    DETECTION_FLOOR,
    FLOOR_DOC,
    faults,
    voters,
    why_no_automatic_city_takeover,
)
from zaibei.config.model import Hazard, Role, Site, Stack, Takeover

SAMPLE = load(Path(zaibei.config.__file__).parent / "templates" / f"{DEFAULT}.yaml")
SITE_B = "  - {name: site-b, city: city-1, role: same-city, owner: duty-cloud}\n"


@pytest.fixture
def stack() -> Stack:
    return SAMPLE


def site(name: str, city: str, role: Role, *, witness: bool = False) -> Site:
    return Site(name=name, city=city, role=role, hosts=(name,), owner="duty", witness=witness)


def whats(stack: Stack) -> str:
    return "\n".join(f.what for f in faults(stack))


def test_the_samples_promise_what_they_can_keep(stack: Stack) -> None:
    assert faults(stack) == []


def test_rpo_0_with_one_synchronous_site_is_refused(stack: Stack) -> None:
    alone = replace(stack, sites=tuple(s for s in stack.sites if s.name != "site-b"))
    assert "population: rpo 0s for H1 cannot be met: only site-a holds a synchronous copy" in whats(
        alone
    )
    assert "health-code: rpo 0s for H1 cannot be met" in whats(alone)


def test_automatic_takeover_with_nobody_to_take_over_is_refused(stack: Stack) -> None:
    alone = replace(stack, sites=tuple(s for s in stack.sites if s.name != "site-b"))
    assert "takeover automatic for H1 cannot happen: only site-a can hold the writer" in whats(
        alone
    )


def test_automatic_takeover_with_two_voters_is_refused(stack: Stack) -> None:
    a, b, c = stack.sites
    blind = replace(stack, sites=(a, b, replace(c, witness=False)))
    assert len(voters(blind)) == 2
    assert "of 2 voting sites the loss of one leaves no majority" in whats(blind)


def test_a_site_of_role_witness_votes(stack: Stack) -> None:
    a, b, c = stack.sites
    w = site("site-w", "city-3", Role.WITNESS, witness=True)
    assert "majority" not in whats(replace(stack, sites=(a, b, replace(c, witness=False), w)))


def automatic_city(stack: Stack) -> Stack:
    def change(objective):
        if objective.city is None:
            return objective
        return replace(objective, city=replace(objective.city, takeover=Takeover.AUTOMATIC))

    return replace(
        stack,
        databases=tuple(
            replace(d, objectives=tuple(change(o) for o in d.objectives)) for d in stack.databases
        ),
    )


def test_automatic_takeover_of_a_city_without_a_witness_in_a_third_is_refused(stack: Stack) -> None:
    said = whats(automatic_city(stack))
    assert "population: automatic takeover of a lost city cannot happen" in said
    assert "with city-1 gone only city-2 is left" in said


def test_a_witness_in_a_third_city_makes_it_possible(stack: Stack) -> None:
    third = site("site-w", "city-3", Role.WITNESS, witness=True)
    assert faults(automatic_city(replace(stack, sites=(*stack.sites, third)))) == []


def test_a_witness_alone_elsewhere_cannot_take_over(stack: Stack) -> None:
    a, b, _ = stack.sites
    third = site("site-w", "city-3", Role.WITNESS, witness=True)
    reason = why_no_automatic_city_takeover(replace(stack, sites=(a, b, third)), "city-1")
    assert reason == "no remote site outside city-1 could take over"


def test_an_rto_below_the_lease_is_refused_with_the_number_and_where_it_is_explained(
    faults_after,
) -> None:
    found = faults_after(("    rto: 60s  # 租约", "    rto: 29s  # 租约"))
    assert len(found) == 6  # five databases and the service that writes to one; no bucket
    assert {f.line for f in found} == {found[0].line}
    assert (
        "rto 29s for H1 cannot be met: the lease of a lost writer lasts up to 30s" in found[0].what
    )
    assert FLOOR_DOC in found[0].hint


def test_the_guide_that_the_hint_cites_has_the_place() -> None:
    path, anchor = FLOOR_DOC.split("#")
    guide = (Path(__file__).parents[2] / path).read_text()
    heading = anchor.replace("-", " ")
    assert any(
        line.lower().strip("#? ") == heading for line in guide.splitlines() if line.startswith("#")
    )
    assert f"{DETECTION_FLOOR.total_seconds():g} s" in guide


@pytest.mark.parametrize(("text", "refused"), [("29.9s", True), ("30s", False)])
def test_the_floor_itself_is_allowed(faults_after, text: str, refused: bool) -> None:
    assert bool(faults_after(("    rto: 60s  # 租约", f"    rto: {text}  # 租约"))) is refused


def test_an_attack_is_replicated_so_rpo_0_for_h3_is_refused_for_databases(faults_after) -> None:
    found = faults_after(("    rto: 4h\n    rpo: 15min", "    rto: 4h\n    rpo: 0s"))
    assert len(found) == 5
    assert all("an attack is replicated" in f.what for f in found)


def test_rpo_0_for_a_lost_city_is_refused(faults_after) -> None:
    found = faults_after(("      rpo: 60s", "      rpo: 0s"))
    assert "rpo 0s for the loss of city-1 cannot be met" in found[0].what


def test_a_city_objective_without_any_copy_elsewhere_is_refused(stack: Stack) -> None:
    a, b, c = stack.sites
    near = replace(c, city="city-1", role=Role.SAME_CITY)
    assert "every copy is in city-1" in whats(replace(stack, sites=(a, b, near)))


@pytest.mark.parametrize("vaults", ["[site-a]", "[ site-a ]"])
def test_backups_all_at_the_site_they_protect_are_refused(faults_after, vaults: str) -> None:
    found = faults_after(("vaults: [site-b, site-c]", f"vaults: {vaults}"))
    assert "all its backups are at site-a, where it runs" in found[0].what
    assert "site-b, site-c" in found[0].hint


def test_a_vault_beside_the_only_copy_is_refused(stack: Stack) -> None:
    a, *_ = stack.sites
    only = replace(
        stack,
        sites=(a,),
        databases=tuple(
            replace(d, backup=replace(d.backup, vaults=("site-a",))) for d in stack.databases
        ),
    )
    assert "the vault is at site-a, where the only copy of the data is" in whats(only)


def test_one_vault_elsewhere_is_enough(faults_after) -> None:
    assert faults_after(("vaults: [site-b, site-c]", "vaults: [site-a, site-c]")) == ()


def test_a_database_without_a_policy_is_refused(stack_file: Path) -> None:
    text = sample()
    start, end = text.index("  # 每个数据库的备份策略"), text.index("  databases:\n")
    stack_file.write_text(text[:start] + text[end:])
    found = check(stack_file).faults
    assert [f.what for f in found][:2] == [
        "population has no backup policy",
        "legal_entity has no backup policy",
    ]


def test_a_bucket_with_rpo_0_at_one_site_is_refused(faults_after) -> None:
    old = "    - name: geo-images\n      owner: duty-data\n      grade: 重要\n      sites: [site-a, site-b]"
    (fault,) = faults_after((old, old.replace(", site-b", "")))
    assert "geo-images: rpo 0s for H1 cannot be met: it is written to site-a only" in fault.what


def test_a_bucket_without_any_second_place_is_refused(stack: Stack) -> None:
    bucket = replace(stack.buckets[0], sites=("site-a",), copies_to=())
    assert "geo-images is at site-a only" in whats(replace(stack, buckets=(bucket,)))


def test_a_bucket_copied_to_where_it_is_written_is_refused(stack: Stack) -> None:
    bucket = replace(stack.buckets[0], copies_to=("site-b",))
    assert "geo-images is written to site-b and copied there as well" in whats(
        replace(stack, buckets=(bucket,))
    )


def test_an_asset_that_promises_nothing_is_refused(stack: Stack) -> None:
    mute = replace(stack.databases[0], objectives=())
    assert whats(replace(stack, databases=(mute,))) == "population has no objective for any hazard"
    bucket, service = (replace(x, objectives=()) for x in (stack.buckets[0], stack.services[0]))
    assert "geo-images has no objective" in whats(replace(stack, buckets=(bucket,)))
    assert "health-code has no objective" in whats(replace(stack, services=(service,)))


def test_a_witness_site_has_no_door_no_vault_and_no_bucket(faults_after) -> None:
    witness = "  - {name: site-w, city: city-3, role: witness, owner: duty-cloud}\n"
    found = faults_after(
        (SITE_B, SITE_B + witness),
        ("entry: [site-a, site-b]", "entry: [site-a, site-b, site-w]"),
        ("vaults: [site-b, site-c]", "vaults: [site-b, site-w]"),
    )
    whats = [f.what for f in found if "witness" in f.what]
    assert "site-w is a witness: it only votes and has no service behind a door" in whats
    assert "site-w is a witness: it only votes and has no store for a vault" in whats


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (
            "city: city-1, role: same-city",
            "city: city-9, role: same-city",
            "site-b is same-city, but no production site is in city-9",
        ),
        (
            "city: city-2, role: remote",
            "city: city-1, role: remote",
            "site-c is remote, but production is in city-1 too",
        ),
        (
            "city: city-1, role: production",
            "city: city-1, role: same-city",
            "no site has role production",
        ),
    ],
)
def test_roles_fit_the_map(faults_after, old: str, new: str, what: str) -> None:
    assert what in [f.what for f in faults_after((old, new))]


roles = st.sampled_from(list(Role))
sites = st.lists(
    st.builds(
        site, st.just("x"), st.sampled_from(["c1", "c2", "c3"]), roles, witness=st.booleans()
    ),
    min_size=1,
    max_size=5,
).map(
    lambda many: tuple(
        replace(s, name=f"s{i}", witness=s.witness or s.role is Role.WITNESS)
        for i, s in enumerate(many)
    )
)


@given(sites=sites)
def test_whatever_is_let_through_can_lose_any_one_site_and_keep_a_majority_and_every_write(
    sites,
) -> None:
    stack = replace(SAMPLE, sites=sites)
    about_h1 = [f for f in faults(stack) if "H1" in f.what]
    voting = voters(stack)
    copies = [s for s in sites if s.role in (Role.PRODUCTION, Role.SAME_CITY)]
    survives = all(
        len([v for v in voting if v is not lost]) * 2 > len(voting)
        and any(s is not lost for s in copies)
        for lost in sites
    )
    promised = [o for d in stack.databases for o in d.objectives if o.hazard is Hazard.H1]
    assert all(o.rpo == timedelta(0) and o.takeover is Takeover.AUTOMATIC for o in promised)
    assert bool(about_h1) is not survives
