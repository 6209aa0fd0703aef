"""One slot of one job as a Temporal workflow. Deterministic: it names an activity and waits.

Imports nothing of ours: Temporal's sandbox reloads this module for every workflow.
"""

from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy, SearchAttributeKey

ACTIVITY = "backup-slot"
NAME = "zaibei-backup-slot"
ATTEMPTS_MAX = 6  # a worker that dies costs one
_SCHEDULED = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")


@workflow.defn(name=NAME)
class BackupSlot:
    """`order`: job (as in jobs.json), timeout_s, heartbeat_s, and slot where no schedule gives one."""

    @workflow.run
    async def run(self, order: dict[str, Any]) -> dict[str, Any]:
        given = order.get("slot")
        # The time the schedule meant, not the one at which a worker was free: the slot's name is made of it.
        at = (
            datetime.fromisoformat(given)
            if given
            else workflow.info().typed_search_attributes.get(_SCHEDULED)
        )
        slot = (at or workflow.info().start_time).replace(microsecond=0)
        done: dict[str, Any] = await workflow.execute_activity(
            ACTIVITY,
            args=[order["job"], slot.isoformat()],
            start_to_close_timeout=timedelta(seconds=order["timeout_s"]),
            heartbeat_timeout=timedelta(seconds=order["heartbeat_s"]),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=1),
                backoff_coefficient=4,
                maximum_interval=timedelta(minutes=10),
                maximum_attempts=ATTEMPTS_MAX,
            ),
        )
        return done
