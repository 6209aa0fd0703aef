"""What an answer means. Pure, and mean: whatever is not said in the exact words is INFO.

An acknowledgement that is taken on trust would hide a loss; a failure that is taken on trust would
hide a write that is there. Only two sentences of the service are believed, and one of our own: that
the request was never sent.
"""

from dataclasses import dataclass

import orjson

from failover.ledger.format import Outcome

BODY_MAX = 65_536  # bytes of an answer that are read
_SAID = 120  # characters of an odd answer that are kept for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request at one door."""

    outcome: Outcome
    status: int | None  # None: no connection, no answer in time, or cut off
    detail: str
    epoch: int | None = None
    copies: int | None = None


def classify(*, op_id: str, status: int, body: bytes) -> Attempt:
    """A whole answer of the service to `POST /sample/register`."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        words = body[:_SAID].decode(errors="replace")
        return Attempt(outcome=Outcome.INFO, status=status, detail=f"{status} not JSON: {words!r}")
    if status in (200, 201):
        epoch, copies = said.get("epoch"), said.get("copies")
        if said.get("key") == op_id and _whole(epoch) and _whole(copies):
            return Attempt(
                outcome=Outcome.OK,
                status=status,
                detail=str(status),
                epoch=epoch,
                copies=copies,
            )
        # An acknowledgement of somebody else's write, or of nobody's.
        return Attempt(
            outcome=Outcome.INFO,
            status=status,
            detail=f"{status} malformed: {orjson.dumps(said)[:_SAID].decode()}",
        )
    if status == 503 and said.get("applied") is False:
        return Attempt(outcome=Outcome.FAIL, status=status, detail="503 not applied")
    return Attempt(outcome=Outcome.INFO, status=status, detail=f"{status}")


def broken(error: BaseException, *, may_have_left: bool) -> Attempt:
    """No whole answer. `may_have_left`: the request was handed to the socket."""
    said = f"{type(error).__name__}: {error}".rstrip(": ")[:_SAID]
    if may_have_left:
        return Attempt(outcome=Outcome.INFO, status=None, detail=said)
    return Attempt(outcome=Outcome.FAIL, status=None, detail=f"never sent: {said}")


def together(first: Attempt, second: Attempt) -> Outcome:
    """Two requests with one id: one acknowledgement is enough, one doubt is enough.

    A second request that was certainly not applied says nothing about the first.
    """
    for outcome in (Outcome.OK, Outcome.INFO):
        if outcome in (first.outcome, second.outcome):
            return outcome
    return Outcome.FAIL


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
