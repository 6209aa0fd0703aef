"""The process that runs one play through ansible-runner. Started by `runbooks.play`, never by people.

The first line of stdin is the request; after that stdin says only one thing: when it ends, the engine is
gone, and so must be everything that was started here. Events go to stdout, a JSON line each.
"""

import hashlib
import json
import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from zaibei.kernel.tree import hold_together, kill_below

_KEPT = ("task", "host", "play")


def main() -> int:
    request = json.loads(sys.stdin.readline())
    variables = extravars(Path(request["private_data_dir"]))
    hold_together(then=lambda: variables.unlink(missing_ok=True))
    events: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    writer = threading.Thread(target=_write, args=(events,))
    writer.start()

    # Here, not at the top: the watch above must stand before anything slow happens.
    import ansible_runner  # noqa: PLC0415

    def keep(event: dict[str, Any]) -> bool:
        # No work in the handler: a slow one makes pexpect time out and the run end as failed.
        # The first event comes after Ansible has read its variables; the secrets are on disk no longer.
        variables.unlink(missing_ok=True)
        events.put(event)
        return True

    runner = ansible_runner.run(
        private_data_dir=request["private_data_dir"],
        playbook=request["playbook"],
        inventory=request["inventory"],
        limit=request["limit"],
        ident=request["ident"],
        event_handler=keep,
        quiet=True,
        settings={"pexpect_timeout": 30, "idle_timeout": 0},
    )
    stats = runner.stats or {}
    events.put(
        {
            "end": True,
            "status": runner.status,
            "rc": runner.rc,
            "ok": sorted(stats.get("ok", {})),
            "failed": sorted(stats.get("failures", {})),
            "unreachable": sorted(stats.get("dark", {})),
        }
    )
    events.put(None)
    writer.join()
    # ssh masters and the like: a step that is over leaves nothing behind.
    kill_below(os.getpid())
    return 0


def extravars(private: Path) -> Path:
    """Where ansible-runner looks for the variables of a play, secrets among them."""
    return private / "env" / "extravars"


def _write(events: "SimpleQueue[dict[str, Any] | None]") -> None:
    while (event := events.get()) is not None:
        print(json.dumps(event if "end" in event else _short(event)), flush=True)


def _short(event: dict[str, Any]) -> dict[str, Any]:
    """What the journal keeps: who, what, how it ended, and the hash of the whole event."""
    whole = json.dumps(event, sort_keys=True, default=str).encode()
    data = event.get("event_data") or {}
    said = (data.get("res") or {}).get("msg") if isinstance(data.get("res"), dict) else None
    short = {
        "event": event.get("event"),
        "counter": event.get("counter"),
        "sha256": hashlib.sha256(whole).hexdigest(),
        **{k: data[k] for k in _KEPT if k in data},
    }
    if said and event.get("event") in ("runner_on_failed", "runner_on_unreachable"):
        short["said"] = str(said)[:500]
    return short


if __name__ == "__main__":
    sys.exit(main())
