"""Clients of a drill: they write like citizens, from outside every site, and keep the ledger.

`Traffic` is the face; `answer` says what an answer means, `doors` which door to knock at.
"""

from failover.clients.endpoints import Door
from failover.clients.traffic import Counts, Limits, Put, Rates, Traffic

__all__ = ["Counts", "Door", "Limits", "Put", "Rates", "Traffic"]
