"""Where a paged S3 listing can lose keys, and what to ask about them. Pure.

SeaweedFS 4.48 walks a versioned bucket by its internal names: the key `a` is stored as `a.versions`, and
the folder of `a/b` as `a`. So it meets `a-b` and `a.b` before `a`, and `a/b` before both `a` and `a-b`. The
end of a page is told as a key, and what sorts before that key but is met after it is never shown. Measured:
with pages of 1 to 5 keys 1 to 5 of 12 such keys were missing; a listing of one page was always whole.
"""

from collections.abc import Iterator


def suspects(last: str) -> list[str]:
    """Keys that a page ending at `last` may have left out: what `last` begins with, up to a low character.

    For `packs/ab/0123` these are `packs` and `packs/ab`; for a name without `/`, `-` or `.` there are none.
    """
    return [last[:n] for n in range(1, len(last)) if last[n] <= "/" and last[n - 1] != "/"]


def upsets(name: str, folder: str) -> bool:
    """Whether `name` sorts before what is in `folder` and yet is met after it."""
    return (
        name.startswith(folder)
        and name[len(folder) : len(folder) + 1] not in ("", "/")
        and (name[len(folder)] < "/")
    )


def is_folder_of(folder: str, key: str) -> bool:
    return key.startswith(folder + "/")


def strictly_rising(keys: list[str], after: str | None) -> Iterator[str]:
    """The keys that do not sort after the one before them; for a sound listing none."""
    before = None if after is None else after.encode()
    for key in keys:
        if before is not None and key.encode() <= before:
            yield key
        before = key.encode()
