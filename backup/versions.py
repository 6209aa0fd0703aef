"""Removing what cannot be read under a name, version by version: what lies below may be whole."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from backup.vault import retry
from infra.objectstore.contract import Locked, NotThere, ObjectStore
from zaibei.kernel.errors import Refused

if TYPE_CHECKING:
    from backup.repository import Repository

_MOST: Final = 16  # of one name, removed in one go


def remove_damaged(
    repo: "Repository",
    deleter: ObjectStore,
    key: str,
    *,
    damaged: Callable[[], bool],
    stays: Callable[[], str | None] = lambda: None,
) -> str | None:
    """Until what is read under the name is whole. Why it was not removed, or None. `damaged` and `stays` look anew each
    time: somebody else may be at it."""
    for _ in range(_MOST):
        try:
            # The version before the look: a whole one that comes meanwhile is another version, and stays.
            version = retry(repo.clock, lambda: repo.store.stat(key)).version
            if not damaged():
                return None
            if (why := stays()) is not None:
                return why
            retry(repo.clock, lambda version=version: deleter.remove(key, version=version))  # type: ignore[misc]
        except NotThere:
            return None
        except (Locked, Refused) as no:
            return no.message
    return f"{_MOST} damaged versions of it were removed, and there are more"
