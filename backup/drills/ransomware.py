"""The ransomware drill: takes snapshots, attacks the vault with the writer's stolen keys, restores
all of them.

It starts its own store on loopback and removes it afterwards: no vault that matters is touched. It
proves the store's locks, the provisioned identities and the `as of` view together.
"""

import hashlib
import json
import random
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backup.format import snapshot
from backup.integrity.verify import verify
from backup.locations.stack import BUCKET, PREFIX
from backup.locations.urls import WRITER
from backup.repository.init import create_repository
from backup.repository.reader import Reader
from backup.repository.repository import Repository, open_repository
from backup.restore.files import restore_files
from backup.sources.files import backup_files
from backup.writer import object_lock
from backup.writer.pack_health import Level
from backup.writer.writer import Writer
from infra.lab.loopback_store import LoopbackSite, loopback
from infra.objectstore.asof import AsOf, as_of
from infra.objectstore.s3 import S3Store, connect, open_store
from zaibei.kernel import process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import ToolFailed, Usage, ZaibeiError
from zaibei.kernel.progress import Progress, Silent

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DURATION: Final = timedelta(minutes=10)
PER_SECOND: Final = 50.0
SNAPSHOTS: Final = 4
RETAIN: Final = timedelta(days=1)
FILES: Final = 24
FILE_BYTES_MAX: Final = 200_000
PACK_BYTES: Final = 256 << 10  # small: many objects to attack
APART: Final = timedelta(seconds=1.1)  # a store tells its time in whole seconds
AFTER: Final = timedelta(seconds=120)  # how long the attacker may take to come to its end
FOLDER_MAX: Final = 72  # a Unix socket's path has 107 bytes, and the store's own ends in 35 more
Truth = dict[str, str]  # path -> digest
Kept = dict[tuple[str, str], datetime | None]  # key and version -> locked until


@dataclass(frozen=True, slots=True, kw_only=True)
class Drilled:
    """What the attacker managed, and what came of it."""

    attacked: timedelta
    attempts: int
    attacks: dict[str, dict[str, int]]  # managed, refused, failed
    versions_before: int
    versions_lost: tuple[str, ...]
    locks_shortened: tuple[str, ...]
    now: str  # what the vault says of itself when it is opened without `as of`
    damage: tuple[str, ...]  # what a full verify found in the vault as of before
    snapshots: int
    restored: int  # of these, bit by bit

    @property
    def held(self) -> bool:
        """Nothing that was committed was lost, and there was an attack to hold against."""
        return (
            self.attempts > 0
            and self.restored == self.snapshots > 0
            and not (self.versions_lost or self.locks_shortened or self.damage)
        )


def drill(
    workdir: Path,
    *,
    duration: timedelta = DURATION,
    per_second: float = PER_SECOND,
    seed: int = 1,
    stolen: str = WRITER,
    locked: bool = True,
    clock: Clock,
    progress: Progress,
) -> Drilled:
    """`stolen` and `locked` are there to show that this drill can be lost: with the administrator's keys and
    no lock it is. Raises ToolFailed when the store or the attacker could not run: then nothing was drilled."""
    rng = random.Random(seed)
    with _scratch(workdir) as folder, loopback(folder / "store", clock=clock) as site:
        admin = connect(site.access, ca_file=site.ca_file, role="admin")
        admin.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
        passphrase = secrets.token_urlsafe(16)
        progress.step("backing up")
        truths = _back_up(site, passphrase, folder / "source", locked=locked, clock=clock, rng=rng)
        clock.sleep(APART)
        before = _store(site, WRITER).now()
        clock.sleep(APART)
        kept = _kept(admin)
        progress.step(f"attacking for {duration.total_seconds():.0f} s")
        begun = clock.monotonic()
        attacks = _attack(site, stolen, duration=duration, per_second=per_second, seed=seed)
        attacked = timedelta(seconds=clock.monotonic() - begun)
        progress.step("restoring every snapshot as of before")
        lost, shortened = _missing(admin, kept)
        # The auditor's eyes: an identity that could not have repaired anything on the way.
        past = as_of(_store(site, "auditor"), before)
        damage, restored = _come_back(past, passphrase, truths, folder / "back", clock=clock)
        return Drilled(
            attacked=attacked,
            attempts=sum(sum(counts.values()) for counts in attacks.values()),
            attacks=attacks,
            versions_before=len(kept),
            versions_lost=lost,
            locks_shortened=shortened,
            now=_now(site, passphrase, clock=clock),
            damage=damage,
            snapshots=len(truths),
            restored=restored,
        )


def _store(site: LoopbackSite, role: str) -> S3Store:
    return open_store(
        site.access, ca_file=site.ca_file, bucket=BUCKET, role=role, prefix=PREFIX, site=site.name
    )


def _back_up(
    site: LoopbackSite,
    passphrase: str,
    source: Path,
    *,
    locked: bool,
    clock: Clock,
    rng: random.Random,
) -> list[Truth]:
    """Several snapshots of a tree that changes; what each must restore to, oldest first."""
    store = _store(site, WRITER)
    repo = create_repository(store, passphrase, clock=clock)
    source.mkdir()
    truths: list[Truth] = []
    for _ in range(SNAPSHOTS):
        for n in rng.sample(range(FILES), FILES // 2):
            (source / f"file-{n}").write_bytes(rng.randbytes(rng.randrange(FILE_BYTES_MAX)))
        lock = object_lock.lock(store, RETAIN, clock=clock) if locked else None
        writer = Writer(repo, lock=lock, pack_bytes=PACK_BYTES)
        # Not by `job`: a drill must not tell the monitors of a backup.
        (outcome,) = backup_files([source], [writer], clock=clock, progress=Silent())
        if outcome.snapshot is None:
            raise ToolFailed(f"the drill could not back up: {outcome.error}")
        truths.append(_digests(source))
    return truths


def _digests(base: Path) -> Truth:
    return {
        str(p.relative_to(base)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(base.rglob("*"))
        if p.is_file()
    }


def _kept(admin: "S3Client") -> Kept:
    kept: Kept = {}
    for page in admin.get_paginator("list_object_versions").paginate(Bucket=BUCKET):
        for v in page.get("Versions", []):
            head = admin.head_object(Bucket=BUCKET, Key=v["Key"], VersionId=v["VersionId"])
            kept[v["Key"], v["VersionId"]] = head.get("ObjectLockRetainUntilDate")
    return kept


def _missing(admin: "S3Client", kept: Kept) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Versions that are gone, and versions whose lock is not what it was or more."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    lost, shortened = [], []
    for (key, version), until in kept.items():
        try:
            head = admin.head_object(Bucket=BUCKET, Key=key, VersionId=version)
        except ClientError:
            lost.append(key)
            continue
        now = head.get("ObjectLockRetainUntilDate")
        compliance = head.get("ObjectLockMode") == "COMPLIANCE"
        if until is not None and (now is None or now < until or not compliance):
            shortened.append(key)
    return tuple(lost), tuple(shortened)


def _attack(
    site: LoopbackSite, stolen: str, *, duration: timedelta, per_second: float, seed: int
) -> dict[str, dict[str, int]]:
    key, secret = site.access.keys[stolen]
    told = {
        "endpoint": site.access.endpoint,
        "region": site.access.region,
        "key": key,
        "secret": secret.reveal(),
        "ca_file": str(site.ca_file),
        "bucket": BUCKET,
        "prefix": PREFIX,
        "seed": seed,
        "duration_s": duration.total_seconds(),
        "per_second": per_second,
    }
    said = process.run(
        [sys.executable, "-P", "-m", "backup.drills.attacker"],
        stdin=json.dumps(told).encode(),
        deadline=duration + AFTER,
    )
    found: dict[str, dict[str, int]] = json.loads(said)
    return found


def _come_back(
    past: AsOf, passphrase: str, truths: list[Truth], target: Path, *, clock: Clock
) -> tuple[tuple[str, ...], int]:
    restored, damage = 0, []
    try:
        repo = open_repository(past, passphrase, clock=clock)
        damage += verify(repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage
        with Reader(repo, damaged=lambda _key, _bad: None) as reader:
            for sequence, truth in enumerate(truths, snapshot.FIRST):
                into = target / str(sequence)
                restore_files(reader, repo.snapshot(sequence), into, progress=Silent())
                restored += _digests(into / "source") == truth
    except ZaibeiError as bad:  # the worst answer of a drill is an answer
        damage.append(bad.message)
    return tuple(damage), restored


def _now(site: LoopbackSite, passphrase: str, *, clock: Clock) -> str:
    """How the vault looks to somebody who does not know of the attack."""
    try:
        repo: Repository = open_repository(_store(site, WRITER), passphrase, clock=clock)
        return f"opens; {len(repo.snapshots())} snapshots"
    except ZaibeiError as bad:
        return bad.message


@contextmanager
def _scratch(workdir: Path) -> Iterator[Path]:
    folder = workdir / f"ransomware-{secrets.token_hex(4)}"
    if len(str(folder.absolute())) > FOLDER_MAX:
        raise Usage(
            f"{workdir}: too long a path for the sockets of a store", hint="--workdir /var/tmp"
        )
    folder.mkdir(parents=True, mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
