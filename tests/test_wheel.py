"""The wheel as a stranger gets it: one name in site-packages, everything in it, and it works from there."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUITE = ("backup", "failover", "infra", "loadtest", "monitors", "runbooks")
SITE_PACKAGES = Path(sysconfig.get_paths()["purelib"])
MINUTE_S = 60
# As it was when tests were collected: a command that runs in this process drops what names a mirror's CA.
ENVIRONMENT = dict(os.environ)


@dataclass(frozen=True)
class Installed:
    wheel: Path
    target: Path

    def python(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """An interpreter that knows the wheel and the dependencies, and nothing of the repository.

        -S: the environment's own site-packages has a .pth that leads back here; as a plain entry of
        PYTHONPATH it gives the dependencies alone. -P: nor is the working directory looked at.
        """
        path = os.pathsep.join(map(str, (self.target, SITE_PACKAGES)))
        return subprocess.run(
            [sys.executable, "-P", "-S", *arguments],
            cwd=cwd,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(cwd),
                "LC_ALL": "C.UTF-8",
                "COLUMNS": "100",
                "PYTHONPATH": path,
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            check=False,
            text=True,
            timeout=MINUTE_S,
        )

    def zaibei(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """As the console script of the wheel calls it."""
        return self.python(
            "-c",
            "import sys; from zaibei.cli.main import run; sys.exit(run())",
            *arguments,
            cwd=cwd,
        )


def uv(*arguments: str | Path) -> None:
    own = ROOT / ".tools/bin/uv"
    program = str(own) if own.exists() else shutil.which("uv")
    assert program, "no uv: `make setup` puts it under .tools"
    done = subprocess.run(
        [program, *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
        text=True,
        timeout=2 * MINUTE_S,
    )
    if done.returncode:
        pytest.fail(
            f"uv {arguments[0]} failed; a build needs hatchling, from uv's cache or a package index:\n"
            f"{done.stderr[-2000:]}",
            pytrace=False,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    built, target = (tmp_path_factory.mktemp(name) for name in ("dist", "site"))
    uv("build", "-q", "--wheel", "--out-dir", built)
    wheels = list(built.glob("*.whl"))
    assert len(wheels) == 1, wheels
    uv(
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--python",
        sys.executable,
        "--target",
        target,
        wheels[0],
    )
    return Installed(wheels[0], target)


def test_the_wheel_leaves_one_name_in_site_packages(installed: Installed) -> None:
    names = {n.split("/")[0] for n in zipfile.ZipFile(installed.wheel).namelist()}

    assert {n for n in names if not n.endswith(".dist-info")} == {"zaibei"}
    assert len(names) == 2, names


def test_everything_that_is_in_the_repository_is_in_the_wheel(installed: Installed) -> None:
    """Roles, scenarios, alerts, templates, runbooks, scripts: whatever a package holds."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", "zaibei", *SUITE],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=MINUTE_S,
    ).stdout.decode()
    held = {n for n in listed.split("\0") if n and (ROOT / n).is_file()}
    packed = set(zipfile.ZipFile(installed.wheel).namelist())

    missing = [
        n for n in held if (n if n.startswith("zaibei/") else f"zaibei/_suite/{n}") not in packed
    ]
    assert not missing
    for needed in (
        "infra/ansible/roles/python_env/files/make-venv.sh",
        "infra/ansible/roles/python_env/files/requirements.txt",
        "failover/scenarios/site-power-loss.yml",
        "monitors/alerts/writers.rules.yml",
        "runbooks/library/fence-site.yml",
        "zaibei/config/templates/two-places-three-centres.yaml",
        "zaibei/evidence/packed/verify.sh",
        "zaibei/reports/templates/drill.html.j2",
    ):
        assert needed in held, "moved: name its new place here"


def test_nothing_is_in_the_wheel_that_runs_have_left_behind(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()

    assert not [n for n in names if "__pycache__" in n or "/tests/" in n or n.endswith(".pyc")]


def test_the_packages_come_from_the_wheel(installed: Installed, tmp_path: Path) -> None:
    code = f"""
import importlib
import zaibei
for name in {("zaibei", *SUITE)!r}:
    print(name, importlib.import_module(name).__file__)
"""
    done = installed.python("-c", code, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    home = installed.target / "zaibei"
    assert found == {
        "zaibei": f"{home}/__init__.py",
        **{name: f"{home}/_suite/{name}/__init__.py" for name in SUITE},
    }


def test_help_is_given_without_the_repository(installed: Installed, tmp_path: Path) -> None:
    done = installed.zaibei("--help", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "drill" in done.stdout
    assert "backup" in done.stdout


def test_a_sample_stack_made_by_the_wheel_is_valid_to_it(
    installed: Installed, tmp_path: Path
) -> None:
    made = installed.zaibei("init", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "stack.yaml").is_file()

    checked = installed.zaibei("stack", "validate", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_wrong_stack_is_refused_by_the_wheel_too(installed: Installed, tmp_path: Path) -> None:
    """Else the test above would also pass with a command that looks at nothing."""
    (tmp_path / "stack.yaml").write_text("sites: none\n")

    assert installed.zaibei("stack", "validate", cwd=tmp_path).returncode == 2


def test_the_console_script_is_the_one_that_is_promised(installed: Installed) -> None:
    (points,) = installed.target.glob("zaibei-*.dist-info/entry_points.txt")

    assert "zaibei = zaibei.cli.main:run" in points.read_text()
    assert os.access(installed.target / "bin/zaibei", os.X_OK)
