"""From the declared stack to what a drill uses of it: sites by role, stores, repositories."""

import random
from datetime import timedelta

from backup.locations import stack as stack_vaults
from backup.repository.repository import Repository
from infra import sites
from infra.objectstore.mirror import Mirror
from infra.objectstore.s3 import S3Store, open_store
from zaibei.config.model import Bucket, Role, Stack
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Refused
from zaibei.kernel.progress import Progress

OBJECTS = "citizen-objects"  # the bucket that the drill's clients write to


def site_of(stack: Stack, role: Role) -> str:
    for site in stack.sites:
        if site.role is role:
            return site.name
    raise Refused(f"stack {stack.name} has no {role.value} site, and the drill needs one")


def declared_bucket(stack: Stack, name: str) -> Bucket:
    for bucket in stack.buckets:
        if bucket.name == name:
            return bucket
    raise Refused(
        f"stack {stack.name} declares no bucket {name}", hint="add it below data: buckets:"
    )


def mirror_of(stack: Stack, access: sites.StackAccess, bucket: str, clock: Clock) -> Mirror:
    """The bucket's same-city stores as one: acknowledged when all have it."""
    return Mirror(
        stores={s: business_store(access, s, bucket) for s in declared_bucket(stack, bucket).sites},
        clock=clock,
        on_site_loss=stack.on_site_loss,
        deadline=timedelta(seconds=3),
    )


def business_store(access: sites.StackAccess, site: str, bucket: str) -> S3Store:
    return open_store(
        access.site(site).store, ca_file=access.ca_file, bucket=bucket, role="business", site=site
    )


def repositories(
    access: sites.StackAccess, *, clock: Clock, progress: Progress
) -> list[Repository]:
    """The stack's vaults, opened; made when there is none yet."""
    secret, new = stack_vaults.make_passphrase()
    if new:
        progress.note(stack_vaults.escrow_note())
    return [
        stack_vaults.ensure(store, secret, clock=clock)
        for store in stack_vaults.stack_stores(access)
    ]


def rng_of(seed: int, what: str) -> random.Random:
    return random.Random(f"{seed}-{what}")
