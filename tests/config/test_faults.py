"""Each way a stack file can be wrong: refused with its line and a hint."""

from pathlib import Path

import pytest

from zaibei.config import check, load, sample
from zaibei.config._fault import SHOWN_LIMIT
from zaibei.kernel.errors import BadStack


def line_of(text: str, needle: str) -> int:
    """1-based line of the only line of `text` with `needle`."""
    (found,) = [i for i, line in enumerate(text.splitlines(), 1) if needle in line]
    return found


def only(faults, what: str):
    """The one fault; it says `what` and has a hint."""
    assert len(faults) == 1, [f.what for f in faults]
    (fault,) = faults
    assert what in fault.what, fault
    assert fault.hint, f"no hint: {fault}"
    return fault


POPULATION = "    - name: population\n"
BACKUP = "    vaults: [site-b, site-c]"
H1 = "    rto: 60s  # 租约 30s + 提升与切换 / a lost writer's lease of 30 s, then promotion and routing\n    rpo: 0s\n"


@pytest.mark.parametrize(
    ("old", "new", "what", "hint"),
    [
        (
            "on_site_loss: degrade",
            "on_site_los: degrade",
            "unknown key 'on_site_los'",
            "did you mean on_site_loss?",
        ),
        (
            "on_site_loss: degrade",
            "on_site_loss: degraded",
            "not one of degrade, block",
            "did you mean degrade?",
        ),
        (
            "    slo_success: 0.999",
            "    slo_sucess: 0.999\n    slo_success: 0.999",
            "unknown key 'slo_sucess' in services[0]",
            "slo_success",
        ),
        ("every: 15min\n", "every: 15\n", "data.backup.every: 15 has no unit", "write 15s"),
        (
            "every: 15min\n",
            "every: 15 minutes\n",
            "not a duration: '15 minutes'",
            "ms, s, min, h, d, w",
        ),
        ("every: 15min\n", "every: 0s\n", "must be longer than zero", "How often"),
        ("every: 15min\n", "every: 1e9d\n", "not a duration", "min"),
        ("keep: 35d", f"keep: {'9' * 30}d", "longer than a century", "kept"),
        ("keep: 35d", f"keep: {'9' * 400}d", "longer than a century", "kept"),
        ("rpo: 5min", "rpo: -5min", "-5min is smaller than zero", "0s is the least"),
        ("rpo: 5min", "rpo: -5", "cannot be below zero", "write 5s"),
        ("rpo: 5min", "rpo: [5min]", "a duration is text", "a number and one of"),
        ("name: demo-city", "name: Demo City", "name: not in the form", "small letters"),
        (
            "    peak_rps: 40 ",
            "    peak_rps: '40' ",
            "peak_rps: expected a number",
            "without quotes",
        ),
        ("    peak_rps: 40 ", "    peak_rps: .nan ", "services[0].peak_rps", "Requests a second"),
        ("    slo_success: 0.999", "    slo_success: 1.1", "less than or equal to 1", "Share"),
        (
            "    surge_factor: 10 ",
            "    surge_factor: 0.5 ",
            "surge_factor 0.5 is less than 1",
            "how many times",
        ),
        (
            "entry: [site-a, site-b]",
            "entry: [site-a, site-d]",
            "site site-d is not declared under sites",
            "did you mean site-",
        ),
        (BACKUP, "    vaults: [site-b, citey-c]", "site citey-c is not declared", "site-c"),
        (
            "role: same-city, owner: duty-cloud}",
            "role: same-city, owner: duty-clod}",
            "owner duty-clod is not declared under people",
            "did you mean duty-cloud?",
        ),
        (
            "site-power-loss, every: 30d, owner: duty-cloud",
            "site-power-loss, every: 30d, owner: nobody",
            "owner nobody is not declared",
            "duty-cloud",
        ),
        (
            "needed: 1, people: [duty-cloud, head-security]",
            "needed: 3, people: [duty-cloud, head-security]",
            "fence-*: 3 must sign, but only 2 may",
            "lower `needed`",
        ),
        (
            "needed: 1, people: [duty-cloud, head-security]",
            "needed: 0, people: [duty-cloud, head-security]",
            "approvals[2].needed",
            "signatures",
        ),
        (
            "needed: 1, people: [duty-cloud, head-security]",
            "needed: 1, people: [duty-cloud, duty-cloud]",
            "two entries of one list are named duty-cloud",
            "another name",
        ),
        (
            "people: [duty-data, head-security,",
            "people: [duty-dat, head-security,",
            "person duty-dat is not declared under people",
            "did you mean duty-data?",
        ),
        (
            "    - name: geo-images\n",
            "    - name: population\n",
            "two assets are named population",
            "another name",
        ),
        (
            "scenario: primary-crash",
            "scenario: site-partition",
            "two drills are named site-partition",
            "another name",
        ),
        ("max_age: 1h", "max_age: 5min", "max_age 5min is shorter than every 15min", "stale"),
        ("keep: 35d", "keep: 5min", "keep 5min is shorter than every 15min", "gone"),
        (
            "name: 政务外网, zone: extranet, sites: [site-a, site-b, site-c]",
            "name: 政务外网, zone: extranet, sites: [site-a]",
            "site-b is an entry, but it is on no extranet",
            "add it",
        ),
        (
            "personal_data: false\n    - name: economy",
            "personal_data: 'no'\n    - name: economy",
            "expected true or false",
            "without quotes",
        ),
        ("title: 健康码业务库 health code", "title: ''", "at least 1 character", "call"),
    ],
)
def test_one_slip_is_one_fault_with_its_line_and_a_hint(
    faults_after, stack_file: Path, old: str, new: str, what: str, hint: str
) -> None:
    fault = only_where_it_matters(faults_after((old, new)))
    assert what in fault.what
    assert hint in fault.hint
    changed = [
        i
        for i, (a, b) in enumerate(
            zip(stack_file.read_text().splitlines(), sample().splitlines(), strict=False), 1
        )
        if a != b
    ]
    # Where a value is inherited, the fault is told at the line that has it.
    assert fault.line in range(changed[0] - 1, changed[0] + 4), (fault, changed[0])


def only_where_it_matters(faults):
    """All five databases inherit one policy: a fault of it is told for each, at one line."""
    assert len({(f.line, f.hint) for f in faults}) == 1, faults
    return faults[0]


def test_of_two_assets_with_one_name_the_later_is_told(faults_after, stack_file: Path) -> None:
    fault = only(
        faults_after((POPULATION, "    - name: economy\n")), "two assets are named economy"
    )
    lines = [
        i for i, t in enumerate(stack_file.read_text().splitlines(), 1) if "name: economy" in t
    ]
    assert len(lines) == 2
    assert fault.line == lines[1]


def test_of_two_sites_with_one_name_the_later_is_told_before_all_that_then_dangles(
    faults_after, stack_file: Path
) -> None:
    faults = faults_after(("name: site-b, city", "name: site-a, city"))
    assert faults[0].what == "two sites are named site-a"
    assert faults[0].line == line_of(stack_file.read_text(), "role: same-city")
    assert all("site site-b is not declared" in f.what for f in faults[1:])


def test_a_site_that_cannot_be_read_is_not_missed_by_those_who_name_it(faults_after) -> None:
    fault = only(faults_after(("role: same-city", "role: samecity")), "'samecity' is not one of")
    assert fault.hint == "did you mean same-city?"


def test_every_asset_has_an_owner(faults_after) -> None:
    only(
        faults_after(("      owner: duty-health\n      grade", "      grade")),
        "databases[4].owner is missing",
    )
    only(
        faults_after(("    owner: duty-health\n    channels", "    channels")),
        "services[0].owner is missing",
    )
    fault = only(
        faults_after((", role: same-city, owner: duty-cloud", ", role: same-city")),
        "sites[1].owner is missing",
    )
    assert "首问责任" in fault.hint


def test_a_literal_secret_is_refused_and_not_repeated(faults_after) -> None:
    swap = ("# secrets:\n", "secrets:\n  backup-passphrase: hunter2\n")
    fault = only(faults_after(swap), "secrets.backup-passphrase: a secret itself")
    assert "hunter2" not in fault.what + fault.hint
    assert "{env: NAME}" in fault.hint


@pytest.mark.parametrize(
    "ref",
    [
        "{}",
        "{env: A, file: /b}",
        "{env: lower}",
        "{file: relative}",
        "{command: []}",
        "{value: hunter2}",
    ],
)
def test_a_reference_is_exactly_one_of_three(faults_after, ref: str) -> None:
    (fault,) = faults_after(("# secrets:\n", f"secrets:\n  a: {ref}\n"))
    assert fault.what.startswith("secrets.a")
    assert fault.hint
    assert "hunter2" not in fault.what + fault.hint


def test_a_private_key_and_a_password_in_a_url_are_refused(faults_after) -> None:
    key = (
        "duty engineer of the network}",
        'duty engineer of the network, public_key: "-----BEGIN PRIVATE KEY-----"}',
    )
    assert "never the private one" in only(faults_after(key), "people[2].public_key").hint
    url = ("    ladder_max: L6", "    endpoints: [https://u:hunter2@host/]\n    ladder_max: L6")
    assert "hunter2" not in only(faults_after(url), "services[0].endpoints[0]").what


def test_one_run_tells_everything_there_is_to_mend(faults_after, stack_file: Path) -> None:
    faults = faults_after(
        ("on_site_loss: degrade", "on_sight_loss: degrade"),  # unknown key
        (
            "      grade: 核心\n      personal_data: true",
            "      grade: 最高\n      personal_data: true",
        ),  # wrong kind
        ("entry: [site-a, site-b]", "entry: [site-a, site-z]"),  # dangling
        ("surge_factor: 10 ", "surge_factor: 0.1 "),  # impossible
        ("name: demo-city\n", "name: demo-city\nname: again\n"),  # twice
    )
    assert [f.what.split(":")[0] for f in faults] == [
        "'name' again",
        "unknown key 'on_sight_loss'",
        "data.databases[0].grade",
        "site site-z is not declared under sites",
        "health-code",
    ]
    text = stack_file.read_text()
    wanted = ("name: again", "on_sight_loss", "grade: 最高", "site-z", "surge_factor")
    assert [f.line for f in faults] == [line_of(text, w) for w in wanted]


def test_a_fault_after_a_dropped_entry_is_still_told_at_its_own_line(
    faults_after, stack_file: Path
) -> None:
    faults = faults_after(
        ("title: 人口基础信息库 population", "title: ''"),
        (
            "title: 健康码业务库 health code\n      owner: duty-health",
            "title: x\n      owner: nobody-here",
        ),
    )
    assert [f.line for f in faults] == [
        line_of(stack_file.read_text(), "title: ''"),
        line_of(stack_file.read_text(), "nobody-here"),
    ]


def test_load_puts_every_fault_on_a_line_of_its_own_and_hints_name_lines(
    faults_after, stack_file: Path
) -> None:
    faults_after(
        ("on_site_loss: degrade", "on_site_los: degrade"), ("surge_factor: 10 ", "surge_factor: 0 ")
    )
    with pytest.raises(BadStack) as caught:
        load(stack_file)
    message, hints = caught.value.message, caught.value.hints
    text = stack_file.read_text()
    first, second = line_of(text, "on_site_los:"), line_of(text, "surge_factor")
    assert message.splitlines() == [
        f"{stack_file}:{first}: unknown key 'on_site_los'",
        f"{stack_file}:{second}: health-code: surge_factor 0 is less than 1: less than the ordinary peak",
    ]
    assert hints[0] == f"line {first}: did you mean on_site_loss?"
    assert hints[1].startswith(f"line {second}: ")


def test_a_file_of_another_kind_does_not_scroll_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "stack.yaml"
    path.write_text("\n".join(f"key{i}: 1" for i in range(SHOWN_LIMIT + 50)))
    with pytest.raises(BadStack) as caught:
        load(path)
    lines = caught.value.message.splitlines()
    assert len(lines) == SHOWN_LIMIT + 1
    assert lines[-1] == f"and {len(check(path).faults) - SHOWN_LIMIT} more"
