"""The tools side by side, each as its users run it: its own defaults, encryption on, the password from a file.

restic: repository version 2 and compression `auto`, as `restic init` makes it. borg: `repokey-blake2` and lz4,
its default. Nothing is tuned for or against anybody. Each has a cache directory of its own, as at home.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from zaibei.kernel.errors import ZaibeiError
from zaibei.kernel.process import run


class Phase(StrEnum):
    FIRST = "first"
    UNCHANGED = "unchanged"
    RESTORE = "restore"
    CHECK = "check"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one tool works in one round."""

    home: Path  # caches and state
    repository: Path
    password: Path
    source: Path
    restored: Path


class Tool(Protocol):
    @property
    def name(self) -> str: ...

    def version(self) -> str | None:
        """As it says itself; None when it is not on this machine."""

    def init(self, at: Place) -> Sequence[str]: ...

    def command(self, phase: Phase, at: Place) -> Sequence[str]: ...

    def env(self, at: Place) -> Mapping[str, str]: ...

    def came_back(self, at: Place) -> Path:
        """Where the source is, after a restore into `at.restored`."""


@dataclass(frozen=True, slots=True)
class Zaibei:
    suite: str

    @property
    def name(self) -> str:
        return f"zaibei {self.suite}"

    def version(self) -> str | None:
        return _said([*_ZAIBEI, "version"])

    def init(self, at: Place) -> Sequence[str]:
        return [*_ZAIBEI, "backup", "init", "--suite", self.suite, *_where(at)]

    def command(self, phase: Phase, at: Place) -> Sequence[str]:
        does = {
            Phase.FIRST: ["run", "--files", str(at.source)],
            Phase.UNCHANGED: ["run", "--files", str(at.source)],
            Phase.RESTORE: ["restore", "latest", "--target", str(at.restored)],
            Phase.CHECK: ["verify", "--level", "full"],
        }[phase]
        return [*_ZAIBEI, "backup", *does, *_where(at)]

    def env(self, at: Place) -> Mapping[str, str]:
        env = {**os.environ, "HOME": str(at.home), "ZAIBEI_STATE": str(at.home / "state")}
        # As installed: bytecode is compiled once, by the first command, and kept.
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        return {**env, "PYTHONPYCACHEPREFIX": str(at.password.parent / "bytecode")}

    def came_back(self, at: Place) -> Path:
        return at.restored / at.source.name


class Restic:
    name = "restic"

    def version(self) -> str | None:
        return _said(["restic", "version"])

    def init(self, at: Place) -> Sequence[str]:
        return ["restic", "init"]

    def command(self, phase: Phase, at: Place) -> Sequence[str]:
        return {
            Phase.FIRST: ["restic", "backup", str(at.source)],
            Phase.UNCHANGED: ["restic", "backup", str(at.source)],
            Phase.RESTORE: ["restic", "restore", "latest", "--target", str(at.restored)],
            Phase.CHECK: ["restic", "check", "--read-data"],
        }[phase]

    def env(self, at: Place) -> Mapping[str, str]:
        return {
            **os.environ,
            "HOME": str(at.home),
            "XDG_CACHE_HOME": str(at.home / ".cache"),
            "RESTIC_REPOSITORY": str(at.repository),
            "RESTIC_PASSWORD_FILE": str(at.password),
        }

    def came_back(self, at: Place) -> Path:
        return at.restored / at.source.absolute().relative_to("/")


class Borg:
    name = "borg"

    def version(self) -> str | None:
        return _said(["borg", "--version"])

    def init(self, at: Place) -> Sequence[str]:
        return ["borg", "init", "--encryption", "repokey-blake2"]

    def command(self, phase: Phase, at: Place) -> Sequence[str]:
        return {
            Phase.FIRST: ["borg", "create", "::first", str(at.source)],
            Phase.UNCHANGED: ["borg", "create", "::second", str(at.source)],
            # borg restores into the directory where it stands.
            Phase.RESTORE: ["env", "-C", str(at.restored), "borg", "extract", "::second"],
            Phase.CHECK: ["borg", "check", "--verify-data"],
        }[phase]

    def env(self, at: Place) -> Mapping[str, str]:
        return {
            **os.environ,
            "HOME": str(at.home),
            "BORG_BASE_DIR": str(at.home),
            "BORG_REPO": str(at.repository),
            "BORG_PASSCOMMAND": f"cat {at.password}",
        }

    def came_back(self, at: Place) -> Path:
        return at.restored / at.source.absolute().relative_to("/")


ALL: tuple[Tool, ...] = (Zaibei("intl"), Zaibei("sm"), Restic(), Borg())
_ZAIBEI = (sys.executable, "-P", "-m", "zaibei.cli.main")


def _where(at: Place) -> list[str]:
    return ["--repo", at.repository.absolute().as_uri(), "--password-file", str(at.password)]


def _said(argv: Sequence[str]) -> str | None:
    try:
        return run(argv).strip()
    except ZaibeiError:
        return None
