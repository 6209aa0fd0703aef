"""What stands in for an option that was not given: a variable of the environment, or this machine's stack."""

import os
from pathlib import Path
from typing import Any

from zaibei.cli.console import talk
from zaibei.kernel.errors import Usage

PASSWORD_FILE = "ZAIBEI_PASSWORD_FILE"


def of_the_stack() -> list[Any]:
    """The vaults of this machine's stack. Raises Usage when there is none: then a --repo was forgotten."""
    from backup.locations import stack  # noqa: PLC0415

    need_stack(
        "no --repo", "--repo file:///DIR or s3+https://HOST/BUCKET/PREFIX; or export ZAIBEI_REPO"
    )
    return stack.stack_stores()


def need_stack(lacking: str, hint: str) -> None:
    """Raises Usage: what is `lacking` would be taken from a stack, and this machine has none."""
    from infra.sites import access_file  # noqa: PLC0415

    if not access_file().exists():
        raise Usage(f"{lacking}, and this machine has no stack to take it from", hint=hint)


def secret_of(password_file: Path | None) -> str:
    """What opens the repositories that are named. Raises Usage when nothing says it."""
    from backup.locations import urls  # noqa: PLC0415

    if password_file is not None:
        return passphrase_of(password_file)
    if command := os.environ.get(urls.PASSWORD_COMMAND):
        return urls.passphrase_of_command(command)
    raise Usage(
        "no --password-file",
        hint=f"its first line is the passphrase; or export {PASSWORD_FILE} or {urls.PASSWORD_COMMAND}",
    )


def passphrase_of(file: Path) -> str:
    """Said and not refused when others can read it: a cluster hands out its secrets so, and the backup must run."""
    from backup.locations.stack import passphrase  # noqa: PLC0415

    said = passphrase(file)
    if file.stat().st_mode & 0o077:
        talk.print(
            f"note: {file} can be read by others: chmod 600 {file}", markup=False, soft_wrap=True
        )
    return said


def standby() -> tuple[str, str]:
    """Any reader of the stack, as the role that may copy and not write."""
    from backup.locations.stack import standby  # noqa: PLC0415

    need_source()
    return standby()


def need_source() -> None:
    """Raises Usage: without a source the stack's databases are meant, and this machine has no stack."""
    need_stack("nothing to back up", "--files PATH, --postgres CONNINFO or --bucket URL")


def writer_doors() -> tuple[str, str]:
    """The writer of the stack, whoever it is now."""
    from backup.locations.stack import writer_doors  # noqa: PLC0415

    need_stack("no --postgres", '--postgres "host=… user=zaibei_backup"')
    return writer_doors()
