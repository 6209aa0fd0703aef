"""Other programs on the same machine: what they make, remove and hold is neither our trace nor our leftover.

Each story runs in network and mount namespaces of its own, so that the machine's are not touched.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.lab import cgroup, leftovers
from zaibei.kernel.process import end, start

pytestmark = [
    pytest.mark.attack,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: links, mounts and cgroups"),
]
_HEAD = """
import os, sys
from pathlib import Path
from infra.faults.trace import differences, trace
from infra.lab import cgroup, leftovers, network
from infra.lab.plan import Host, LabPlan
from zaibei.config.model import Role
from zaibei.kernel.process import run, start, end
state = Path(sys.argv[1])
os.environ["ZAIBEI_STATE"] = str(state)
root = state / "lab"
host = Host(name="nowhere-n", role=Role.PRODUCTION, address="10.77.0.98", folder=root / "sites" / "nowhere-n")
lab = LabPlan(stack="three", root=root, hosts=(host,))
run(["mount", "-t", "tmpfs", "none", "/run"])
elsewhere = state.parent / "elsewhere"
elsewhere.mkdir()
"""


def _alone(story: str, tmp_path: Path) -> str:
    state = tmp_path / "state"
    state.mkdir()
    told = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, "-P", "-c", _HEAD + story, str(state)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_what_a_neighbour_makes_and_removes_during_a_drill_is_no_trace_of_it(
    tmp_path: Path,
) -> None:
    told = _alone(
        """
group = cgroup.top() / f"neighbour-{os.getpid()}"
run(["ip", "link", "add", "old0", "type", "veth", "peer", "name", "old1"])
run(["nft", "add", "table", "ip", "old"])
before = trace(lab)
run(["ip", "link", "del", "old0"])
run(["nft", "delete", "table", "ip", "old"])
run(["ip", "link", "add", "x0", "type", "veth", "peer", "name", "x1"])
run(["ip", "link", "add", "docker0", "type", "bridge"])
run(["tc", "qdisc", "add", "dev", "x0", "root", "tbf", "rate", "1mbit", "burst", "32kbit", "latency", "1s"])
run(["nft", "add", "table", "ip", "docker"])
run(["ip", "netns", "add", "neighbour"])
run(["mount", "-t", "tmpfs", "none", elsewhere])
(state.parent / "image").write_bytes(bytes(1 << 20))
loop = run(["losetup", "-f", "--show", state.parent / "image"]).strip()
group.mkdir()
try:
    print(differences(before, trace(lab)))
finally:
    group.rmdir()
    run(["losetup", "-d", loop])
""",
        tmp_path,
    )
    assert told == "[]\n"


def test_what_a_drill_leaves_of_its_own_is_named(tmp_path: Path) -> None:
    told = _alone(
        """
before = trace(lab)
run(["ip", "link", "add", "zb-x", "type", "bridge"])
run(["ip", "netns", "add", host.namespace])
run(["nsenter", f"--net=/run/netns/{host.namespace}", "nft", "add", "table", "ip", "cut"])
(root / "m").mkdir(parents=True)
run(["mount", "-t", "tmpfs", "none", root / "m"])
helper = start(["sleep", "61"])
print("\\n".join(differences(before, trace(lab))))
end(helper)
""",
        tmp_path,
    )
    for mine in (
        "+ link machine zb-x",
        "+ namespace zb-nowhere-n",
        "+ nft zb-nowhere-n table ip cut {",
        f"+ mount {tmp_path}/state/lab/m",
    ):
        assert mine in told
    assert "sleep 61" in told


def test_the_lab_of_another_state_folder_is_not_ours_to_take_down(tmp_path: Path) -> None:
    told = _alone(
        """
from infra.lab.plan import OPERATOR_LINK
other = state.parent / "other-state"
run(["ip", "link", "add", OPERATOR_LINK, "type", "bridge"])
run(["ip", "link", "set", OPERATOR_LINK, "alias", str(other)])
run(["ip", "netns", "add", "zb-wan"])
print(leftovers.elsewhere(state))
print([f for f in leftovers.find(state) if "zb-" in f])
print([f for f in leftovers.find(other) if "zb-" in f])
""",
        tmp_path,
    )
    other = tmp_path / "other-state"
    assert told.splitlines() == [str(other), "[]", "['link zb-op', 'namespace zb-wan']"]


def test_a_running_site_of_another_state_folder_is_not_found_among_ours(tmp_path: Path) -> None:
    group = cgroup.top() / "zaibei-lab" / f"nowhere-{os.getpid()}"
    group.mkdir(parents=True)
    site = start(["sleep", "60"])
    try:
        os.setxattr(group, "trusted.zaibei-state", os.fsencode(tmp_path / "other"))
        (group / "cgroup.procs").write_text(str(site.pid))

        assert not [f for f in leftovers.find(tmp_path / "mine") if group.name in f]
        assert f"process {site.pid} of {group.name}" in leftovers.find(tmp_path / "other")
    finally:
        end(site)
        group.rmdir()
