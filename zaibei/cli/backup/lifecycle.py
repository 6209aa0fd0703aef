"""`backup forget`, `gc`, `copy`, `heal` and `repair`: what becomes of snapshots after they were made."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zaibei.cli.backup.collected import cleared_told, gc_told
from zaibei.cli.backup.rolled import ends_lost, loudly
from zaibei.cli.backup.shared import Json, Password, Repo, app, opened, say, told
from zaibei.cli.backup.sources import GroupBy, grouped_by, idle_words, zone_named
from zaibei.cli.console import labelled, progress
from zaibei.kernel.errors import Usage

if TYPE_CHECKING:
    from backup.lifecycle.retention import Decision
    from backup.repository.repository import Repository
    from infra.objectstore.contract import ObjectStore

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Confirm = Annotated[
    list[str] | None,
    typer.Option("--confirm", help="The repository's name, typed: yes, this one; repeatable."),
]


def confirmed(names: list[str], confirm: Confirm, *, dry_run: bool) -> bool:
    """Whether to act. Without the names typed: told what would be done, and exit 2 after it."""
    lacking = [n for n in names if n not in (confirm or [])]
    if stray := [n for n in confirm or [] if n not in names]:
        raise Usage(f"--confirm {stray[0]}: no such repository here", hint=f"one of {names}")
    if lacking and not dry_run:
        for name in lacking:
            hinted(f"to do it: --confirm {name}")
    return not dry_run and not lacking


def hinted(text: str) -> None:
    labelled("hint", text, style="cyan")


_CUT = "what was done stays done: the same command again does the rest"


@app.command()
def forget(
    snapshots: Annotated[
        list[int] | None, typer.Argument(help="Numbers from `list`; none: by the policy.")
    ] = None,
    keep_last: int = 0,
    keep_hourly: int = 0,
    keep_daily: int = 0,
    keep_weekly: int = 0,
    keep_monthly: int = 0,
    keep_yearly: int = 0,
    keep_within: Annotated[str, typer.Option(help="30d, before the newest of its group.")] = "0s",
    keep_tag: list[str] | None = None,
    keep_label: list[str] | None = None,
    group_by: GroupBy = "label,host",
    zone: Annotated[str, typer.Option(help="Whose midnight ends a day: Asia/Shanghai.")] = "UTC",
    why: Annotated[str, typer.Option(help="Readable by whoever reads the vault.")] = "by hand",
    even_the_last: Annotated[
        bool, typer.Option(help="By number: also the newest complete one of a group.")
    ] = False,
    dry_run: DryRun = False,
    confirm: Confirm = None,
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Take snapshots out, by a policy for each group of kind, label and host (--group-by), or by number.

    Deletes nothing: `gc` does, a day later. The newest complete and the newest proven one always stay."""
    with told():
        from backup.lifecycle import forget as forgetting  # noqa: PLC0415
        from backup.lifecycle.retention import Policy  # noqa: PLC0415
        from backup.repository import unreadable  # noqa: PLC0415
        from zaibei.kernel.units import duration  # noqa: PLC0415

        # `0s` as nothing: what keeps nothing is no policy.
        keeps = any(
            (
                keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly,
                keep_within != "0s", keep_tag, keep_label,
            )
        )  # fmt: skip
        if snapshots and keeps:
            raise Usage(
                "numbers, and a policy: which of the two?",
                hint="numbers alone are forgotten; without numbers the policy decides",
            )
        policy, by = None, grouped_by(group_by)
        if not snapshots:
            policy = Policy(
                last=keep_last,
                hourly=keep_hourly,
                daily=keep_daily,
                weekly=keep_weekly,
                monthly=keep_monthly,
                yearly=keep_yearly,
                within=duration(keep_within),
                tags=tuple(keep_tag or ()),
                labels=tuple(keep_label or ()),
                zone=zone_named(zone),
            )
        repos = opened(repo, password_file)
        act = confirmed([r.name for r in repos], confirm, dry_run=dry_run)
        out: dict[str, Any] = {}
        lines: list[str] = []
        seen: list[Decision] = []
        for one in repos:
            decisions = forgetting.decide(one, policy, by=by) if policy else ()
            seen += decisions
            asked = [d.entry.sequence for d in decisions if not d.keep] or sorted(
                set(snapshots or ())
            )
            before = one.forgotten(unreadable.WarnOnce(one)) if snapshots else {}
            already = [s for s in asked if s in before]
            gone = [s for s in asked if s not in before]
            if asked:
                forgetting.forget(
                    one,
                    asked,
                    why=forgetting.BY_POLICY if policy else why,
                    even_the_last=even_the_last and policy is None,
                    write=act,
                    by=by,
                )
            out[one.name] = {"forgotten": gone, "already": already, "decisions": decisions}
            for d in decisions:
                kept = f"kept: {', '.join(d.keep)}" if d.keep else "FORGET"
                lines.append(f"{one.name}  {d.entry.sequence:>4}  {'; '.join([kept, *d.notes])}")
            lines += [f"{one.name}  {s:>4}  forgotten already" for s in already]
            named = f": {', '.join(map(str, gone))}" if gone else ""
            lines.append(f"{one.name}: {len(gone)} {'forgotten' if act else 'to forget'}{named}")
    notes = idle_words(keep_tag, keep_label, seen)
    lines += [f"note: {n}" for n in notes]
    say(json, {"done": act, "repositories": out, "notes": notes}, lines)
    raise typer.Exit(0 if act or dry_run else 2)


@app.command()
def gc(
    grace: Annotated[
        str,
        typer.Option(
            help="Between mark and sweep. Less than 24h: only when no host can be asleep."
        ),
    ] = "24h",
    live_share: Annotated[
        float, typer.Option(help="Pack anew what holds less living data than this.")
    ] = 0.5,
    clear_damaged: Annotated[
        bool,
        typer.Option(
            help="First remove marks and forget statements that cannot be read. No other gc may run."
        ),
    ] = False,
    dry_run: DryRun = False,
    confirm: Confirm = None,
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Sweep what was marked a day ago and is still not needed, then mark what is not needed now.

    Runs beside backups; run it daily. Removes as the deleter: ZAIBEI_S3_DELETER_KEY and _SECRET_FILE."""
    with told(_CUT), progress() as bar:
        from backup.format.mark import Terms  # noqa: PLC0415
        from backup.lifecycle import gc_mark as collecting  # noqa: PLC0415
        from backup.lifecycle.gc_sweep import clear, sweep  # noqa: PLC0415
        from zaibei.kernel.units import duration  # noqa: PLC0415

        terms = Terms(grace=(wait := duration(grace)), margin=min(wait, Terms().margin))
        if not 0 <= live_share <= 1:
            raise Usage("--live-share is a share: 0 to 1")
        repos = opened(repo, password_file)
        act = confirmed([r.name for r in repos], confirm, dry_run=dry_run)
        out: dict[str, Any] = {}
        lines: list[str] = []
        for one, deleter in zip(repos, deleters(repo, repos, act=act), strict=True):
            if clear_damaged:
                cleared = clear(one, deleter, dry_run=not act)
                lines += cleared_told(one.name, cleared, act=act)
            swept = sweep(one, deleter, bar, terms=terms, dry_run=not act)
            marked = collecting.mark(one, bar, terms=terms, live_share=live_share, write=act)
            out[one.name] = {"swept": swept, "marked": marked}
            lines += gc_told(one.name, swept, marked, act=act)
    whole = all(o["swept"].complete for o in out.values())
    if not whole:
        hinted(
            "ZAIBEI_S3_DELETER_KEY and _SECRET_FILE are of who may delete, and not of the writer"
        )
    say(json, {"done": act, "complete": whole, "repositories": out}, lines)
    raise typer.Exit(2 if not act and not dry_run else 0 if whole else 1)


@app.command("copy")
def copy_(
    to: Annotated[str, typer.Option(help="The other repository: file:///… or s3+https://…")],
    snapshots: Annotated[
        list[int] | None,
        typer.Argument(help="Numbers; none: all that are newer than the last copy."),
    ] = None,
    to_password_file: Annotated[
        Path | None, typer.Option(help="Of the other repository, if it is another.")
    ] = None,
    wal: Annotated[bool, typer.Option(help="PostgreSQL's log too.")] = True,
    dry_run: DryRun = False,
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Copy snapshots into another repository, of other keys and perhaps another suite; only what is new."""
    with told(_CUT), progress() as bar:
        from backup.lifecycle.replicate import copies_of, replicate  # noqa: PLC0415

        source = one_of(opened(repo, password_file))
        into = one_of(opened([to], to_password_file or password_file))
        for line in (lost := ends_lost([source])):
            loudly(f"ROLLED BACK: {line}; what is left is copied")
        if dry_run:
            there, held = copies_of(source, into), source.sequences()
            if unknown := sorted(set(snapshots or ()) - set(held)):
                raise Usage(
                    f"{source.name}: no snapshot {', '.join(map(str, unknown))}",
                    hint="zaibei backup list shows them",
                )
            todo = [s for s in sorted(set(snapshots or held)) if s not in there]
            say(
                json,
                {"done": False, "to_copy": todo, "rolled_back": lost},
                [f"to copy: {s}" for s in todo],
            )
            raise typer.Exit(1 if lost else 0)
        done = replicate(source, into, bar, sequences=snapshots or None, with_wal=wal)
    whole = done.complete and not lost
    say(
        json,
        {"done": True, "complete": whole, **asdict(done), "rolled_back": lost},
        [
            *(f"snapshot {a} is snapshot {b} of {into.name}" for a, b in done.snapshots.items()),
            *(f"NOT COPIED: {s}: {why}" for s, why in done.failed.items()),
            f"{len(done.snapshots)} copied, {done.already} were there, {done.wal_objects} of WAL",
        ],
    )
    raise typer.Exit(0 if whole else 1)


@app.command()
def heal(
    from_: Annotated[str, typer.Option("--from", help="The repository that has what is lost.")],
    from_password_file: Annotated[
        Path | None, typer.Option(help="Of the other repository, if it is another.")
    ] = None,
    read_data: Annotated[
        bool, typer.Option(help="Read every pack, not only what is missing.")
    ] = True,
    dry_run: DryRun = False,
    confirm: Confirm = None,
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Take what this repository has lost from another one that has the same snapshots."""
    with told(_CUT), progress() as bar:
        from backup.integrity.heal import heal as healing  # noqa: PLC0415

        one = one_of(opened(repo, password_file))
        other = one_of(opened([from_], from_password_file or password_file))
        act = confirmed([one.name], confirm, dry_run=dry_run)
        done = healing(one, other, bar, read=read_data, deleter=who_may(repo), write=act)
    wounds = wounds_told(done.wounds)
    if act:
        lines = [
            (
                f"{done.indexed} packs indexed, {done.salvaged} blobs saved from damaged packs,"
                f" {done.fetched} blobs and {done.wal_objects} objects of WAL from {other.name}"
            ),
            *(
                f"snapshot {a} could not be mended: {b} stands for it"
                for a, b in done.copied.items()
            ),
            *(f"NOT HEALED: {what}" for what in done.unhealed),
        ]
    else:
        lines = []
    whole = done.complete and (act or done.wounds.none)
    say(
        json,
        {
            "done": act,
            "complete": whole,
            "wounds": wounds,
            "indexed": done.indexed,
            "salvaged_blobs": done.salvaged,
            "fetched_blobs": done.fetched,
            "copied": done.copied,
            "wal_objects": done.wal_objects,
            "unhealed": done.unhealed,
            "unhealed_count": done.unhealed_count,
        },
        [*(f"DAMAGED: {w}" for w in wounds), *lines],
    )
    raise typer.Exit((0 if whole else 1) if act or dry_run else 2)


@app.command()
def repair(
    read_data: Annotated[
        bool, typer.Option(help="Read every pack, not only what is missing.")
    ] = True,
    dry_run: DryRun = False,
    confirm: Confirm = None,
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Without a second repository: find again what is whole, name what is lost. Exit 0 only without loss."""
    with told(_CUT), progress() as bar:
        from backup.integrity.repair import repair as repairing  # noqa: PLC0415

        one = one_of(opened(repo, password_file))
        act = confirmed([one.name], confirm, dry_run=dry_run)
        done = repairing(one, bar, read=read_data, deleter=who_may(repo), write=act)
    wounds = wounds_told(done.wounds)
    whole = done.complete and (act or done.wounds.none)
    say(
        json,
        {
            "done": act,
            "complete": whole,
            "wounds": wounds,
            "indexed": done.indexed,
            "salvaged_blobs": done.salvaged,
            "losses": done.losses,
            "copies_not_removed": done.stay,
        },
        [
            *(f"DAMAGED: {w}" for w in wounds),
            *done.copies_told(done=act),
            *done.mended_told(one.name, done=act, read=read_data),
            *(
                f"LOST: snapshot {loss.snapshot}: {path}"
                + (f" (the rest is snapshot {loss.replaced_by})" if loss.replaced_by else "")
                for loss in done.losses
                for path in loss.paths
            ),
        ],
    )
    raise typer.Exit((0 if whole else 1) if act or dry_run else 2)


def wounds_told(wounds: Any) -> list[str]:
    return [
        *(f"pack {name}: {why}" for name, why in wounds.packs.items()),
        *(f"index segment {name}: {why}" for name, why in wounds.segments.items()),
        *(f"snapshot {number}: {why}" for number, why in wounds.snapshots.items()),
        *(f"{key}: {why}" for key, why in wounds.by_key.items()),
        *(f"pack {name}: in no index segment" for name in wounds.unindexed),
    ]


def one_of(repos: "list[Repository]") -> "Repository":
    if len(repos) != 1:
        raise Usage("one repository at a time", hint="--repo URL")
    return repos[0]


def who_may(urls: list[str] | None) -> "ObjectStore | None":
    """The deleter, where somebody said who that is."""
    from backup.locations import urls as vault_urls  # noqa: PLC0415

    if not urls:
        return None
    try:
        return vault_urls.open_deleter(urls[0])
    except Usage:
        return None


def deleters(
    urls: list[str] | None, repos: "list[Repository]", *, act: bool
) -> "list[ObjectStore]":
    """The same places, as who may remove; to say what would be done needs nobody else."""
    if not act:
        return [r.store for r in repos]
    from backup.locations import stack  # noqa: PLC0415
    from backup.locations import urls as vault_urls  # noqa: PLC0415

    if urls:
        return [vault_urls.open_deleter(u) for u in urls]
    stores = stack.stack_stores(role=vault_urls.DELETER)
    assert len(stores) == len(repos)
    return stores
