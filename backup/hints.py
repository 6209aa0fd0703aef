"""What to do now, for every finding and error of backups: the commands, in one place.

They are read at 3 a.m.; a test parses each with the command line."""

from typing import Final

HEAL: Final = "zaibei backup heal --from OTHER-REPOSITORY"
REPAIR: Final = "zaibei backup repair"
CLEAR = "zaibei backup gc --clear-damaged, as who may delete"
KEY = "remove that object, as who may delete; then zaibei backup key add"
CLEAR_INDEX: Final = "zaibei backup repair: the packs themselves say what it named"
MEND_KEY: Final = (
    "remove that object, as who may delete; then let its owner in again: zaibei backup key add"
)
MEND_REVOCATION: Final = (
    "if `zaibei backup key list` shows somebody as let in whom you let out, `key revoke` first;"
    " then zaibei backup repair --confirm NAME removes it, as who may delete"
)
MEND_STRAY: Final = "zaibei backup repair --confirm NAME removes it, as who may delete"
REMOVE_STRAY_BY_HAND: Final = "or look at it, and remove it by hand"
STRAY_STATES: Final = (
    "zaibei backup repair states that the number is lost, and the next run goes on after it"
)
CLEAR_UNREADABLE: Final = (
    "whoever may delete takes it away, while no other gc runs: zaibei backup gc --clear-damaged"
)
MEND_SNAPSHOTS: Final = (
    "zaibei backup heal takes it from the other vault; repair states what is lost"
)
# Nothing is ever overwritten, so a damaged copy stands in the way of a whole one.
CLEAR_COPY: Final = (
    "zaibei backup repair --confirm NAME removes it, as who may delete (a lock holds it to its end); then"
    " zaibei backup key rotate --resume --confirm NAME"
)
COPY_HAS_ORIGINAL: Final = (
    "zaibei backup repair --confirm NAME removes it, as who may delete (a lock holds it to its end); the copy is"
    " read in its place"
)
HEAL_COPY: Final = "its original does not open either: zaibei backup heal --from OTHER-REPOSITORY"
