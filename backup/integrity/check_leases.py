"""Checks heartbeats and leases. No backup depends on them, but a vault that changes them changes
other objects too.
"""

from functools import partial

from backup.crypto import signed
from backup.integrity.report import Report
from backup.repository import leases
from backup.repository.repository import Repository
from backup.repository.vault import retry
from backup.writer import heartbeats
from infra.objectstore.contract import NotThere
from zaibei.kernel.errors import Damage


def check(repo: Repository, out: Report) -> None:
    _beats(repo, out)
    _leases(repo, out)


def _beats(repo: Repository, out: Report) -> None:
    for stat in repo.listed(heartbeats.PREFIX):
        with out.collecting(stat.key, by_content=True):
            try:
                sound = retry(repo.clock, partial(repo.store.read, stat.key)) == heartbeats.BODY
            except NotThere:
                continue  # swept meanwhile
            if not sound:
                raise Damage(f"{repo.name}: {stat.key} has other bytes")


def _leases(repo: Repository, out: Report) -> None:
    """Also those of epochs that are over, and of hosts: each is signed by somebody of ours, for its own place."""
    who = repo.keys.authority
    signers = (*(r.signer for r in reversed(who.reigns)), *who.hosts)
    for stat in repo.listed(leases.PREFIX):
        try:
            body, signature = signed.parse(repo.read(stat.key), what=stat.key)
            if not any(_signed(body, signature, s, what=stat.key) for s in signers):
                raise Damage(f"{repo.name}: {stat.key}: the signature does not fit")
            if stat.key != _place(body):
                raise Damage(f"{repo.name}: {stat.key}: a lease of another place")
        except Damage as bad:
            if isinstance(bad.__cause__, NotThere):
                continue  # swept meanwhile
            found = out.found(stat.key, bad, by_content=True)
            found.lost = "no data: it says only who is at a slot of the schedule"
            found.mend = "zaibei backup gc takes it 30 days after the slot's last lease"


def _signed(body: signed.Body, signature: bytes, signer: bytes, *, what: str) -> bool:
    try:
        signed.check("lease", body, signature, signer, what=what)
    except Damage:
        return False
    return True


def _place(body: signed.Body) -> str:
    if "of" in body:
        return f"{body['of']}.end"
    return f"{body.get('slot')}{str(body.get('token')).zfill(4)}"
