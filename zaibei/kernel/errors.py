"""Every error a person can meet, and the exit code it ends with.

    ZaibeiError                 1   something that was asked for is not true
    ├── Usage                   2   the request itself is wrong: flag, file, name
    │   └── BadStack            2   stack.yaml, with file and line
    ├── Invalid                 3   the measurement cannot be trusted; never shown as a pass
    ├── Refused                 4   a safety rule says no; the hint says what would make it yes
    │   └── Busy                4   somebody else holds it (a drill is running)
    ├── Missing                 5   a package, program or kernel feature is not here
    ├── Unreachable             6   a store, member or site did not answer (retryable)
    ├── NoSpace                 7   a disk is full
    ├── Damage                  8   data is not what it was: checksum, signature, gap
    ├── ToolFailed              9   a program we started ended badly; its last words are in the message
    └── Unexpected             70   a defect of zaibei: nothing is known of what was asked; a file holds the details

Messages are lower-case and without a full stop. They say what happened and to what; `hint` says what
to do now. `retryable` says whether the same call may succeed later without anybody doing anything.
"""

from typing import ClassVar


class ZaibeiError(Exception):
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hints: tuple[str, ...] = (hint,) if isinstance(hint, str) else hint

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"hint: {h}" for h in self.hints)])


def in_a_line(error: Exception) -> str:
    """For a field of a document or a list of several: the message, its hints in brackets."""
    if not isinstance(error, ZaibeiError):
        return str(error)
    hints = "; ".join(error.hints)
    return f"{error.message} ({hints})" if hints else error.message


class Usage(ZaibeiError):
    exit_code = 2


class BadStack(Usage):
    """One or more faults of stack.yaml, each `file:line: what` in the message."""


class Invalid(ZaibeiError):
    exit_code = 3


class Refused(ZaibeiError):
    exit_code = 4


class Busy(Refused):
    pass


class Missing(ZaibeiError):
    exit_code = 5


class Unreachable(ZaibeiError):
    exit_code = 6
    retryable = True


class NoSpace(ZaibeiError):
    exit_code = 7


class Damage(ZaibeiError):
    exit_code = 8


class ToolFailed(ZaibeiError):
    exit_code = 9


class Unexpected(ZaibeiError):
    """EX_SOFTWARE: no exit code of a verdict, so that a crash is never read as one."""

    exit_code = 70
