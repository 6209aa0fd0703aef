"""Make the lab's sites witnesses of the operator's evidence log: they get its key, and theirs are declared.

A lab that is made new has new witnesses, and the log states so. One that is there keeps them: a site that then shows
another key has lost its memory, or is not that site, and is refused.
"""

from pathlib import Path

from infra.lab.plan import PORTS, Host, LabPlan
from zaibei.evidence import Evidence, default_dir
from zaibei.evidence.remote_witness import RemoteWitness, declare, declared, withdraw
from zaibei.evidence.witness_list import record_declared
from zaibei.kernel.clock import Clock


def log_key(clock: Clock) -> str:
    """Of the operator's log, made here the first time."""
    return Evidence.open(default_dir(), clock).keys.ed25519.decode()


def key_file(lab: LabPlan, host: Host) -> Path:
    """Where role `witness` brings a site's public key."""
    return folder(lab) / f"{host.name}.pub"


def folder(lab: LabPlan) -> Path:
    return lab.root / "witnesses"


def url(host: Host) -> str:
    return f"https://{host.address}:{PORTS['witness']}"


def declare_all(lab: LabPlan, *, ca: Path, fresh: bool, clock: Clock) -> None:
    """Safe to repeat. `fresh`: the sites were made new, so those of an earlier lab are gone.

    Raises Refused for another key than was declared, and when a witness has seen another history.
    """
    evidence = Evidence.open(default_dir(), clock)
    where = evidence.directory
    if fresh:
        ours = {url(host) for host in lab.hosts}
        withdraw(where, [w.name for w in declared(where) if w.url in ours])
    for host in lab.hosts:
        public = key_file(lab, host).read_bytes()
        declare(where, RemoteWitness(name=host.name, url=url(host), public=public, ca=str(ca)))
    record_declared(evidence)
