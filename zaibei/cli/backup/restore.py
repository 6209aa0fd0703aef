"""`backup restore`: files and objects back."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import unquote, urlsplit

import typer

from zaibei.cli.backup.rolled import ends_lost, loudly, or_lost
from zaibei.cli.backup.shared import (
    CLOCK,
    AsOf,
    Json,
    Password,
    Repo,
    Which,
    answering,
    app,
    moment,
    say,
    some_path,
    told,
)
from zaibei.cli.backup.sources import demand_rules
from zaibei.cli.console import progress
from zaibei.kernel.errors import Unreachable, Usage
from zaibei.kernel.progress import Progress

if TYPE_CHECKING:
    from backup.repository.repository import Repository
    from backup.restore.replicas import Source

_RAW = "raw files of a database, personal data in plain; `rehearse --hold` lets people in masked"

_SHOWN: Final = 20  # of what can give rights, on the terminal; --json has more
_AFTER_CUT = "what has its name is whole: the same command with --resume goes on"


@app.command()
def restore(
    snapshot: Which,
    target: Annotated[
        Path | None,
        typer.Option(help="An empty or new directory.", parser=some_path, metavar="<path>"),
    ] = None,
    to_bucket: Annotated[
        str | None, typer.Option(help="Objects into s3+https://HOST/BUCKET, or SITE/BUCKET; empty.")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Only this, as in .gitignore; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Not this, as in .gitignore; repeatable.")
    ] = None,
    versions_at: Annotated[
        str | None,
        typer.Option(help="Objects of a bucket as they were then: 2026-11-22T04:00:00Z."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="`latest` of this kind: files, bucket or postgres.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted restore.")
    ] = False,
    no_special: Annotated[
        bool,
        typer.Option(
            "--no-special",
            help="No setuid or setgid bits, file capabilities, labels or device nodes.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would come back.")
    ] = False,
    repo: Repo = None,
    password_file: Password = None,
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Files back. A PostgreSQL snapshot comes back as a data directory; `rehearse` starts one.

    Setuid and setgid bits, file capabilities and device nodes are counted and named: a host that was not your own to
    the end could have put them there.

    With several --repo, what is damaged in one is taken from another, named, and the command ends with 1; also when
    the newest snapshot that this machine has seen is gone."""
    with told(_AFTER_CUT), progress() as bar:
        from backup.restore.bucket import as_files  # noqa: PLC0415
        from backup.sources.file_facts import allowed, places_of, what_became  # noqa: PLC0415
        from backup.sources.walk import Rules, chosen  # noqa: PLC0415

        if (target is None) == (to_bucket is None) and not dry_run:
            raise Usage("no target", hint="--target DIR or --to-bucket URL, one of them")
        at = None if versions_at is None else moment(versions_at)
        demand_rules(include, "--include")
        demand_rules(exclude, "--exclude")
        filters: dict[str, Any] = {}
        only, without = Rules.of(include or ()), Rules.of(exclude or ())
        if target is not None:
            demand_apart(target, repo or ())
        fresh = target is not None and not target.exists()
        able, unknown = answering(repo, password_file, as_of=as_of)
        watched = [] if as_of else [r for r in able if r is not None]
        with or_lost(watched):
            sources = _sources(able, unknown, snapshot, kind)
        rolled_back = ends_lost(watched)
        one = sources[0].snapshot
        for line in rolled_back:
            loudly(f"ROLLED BACK: {line}; what comes back is snapshot {one.sequence}")
        content = one.content
        places = places_of(content)
        only, without = only.at(places), without.at(places)
        if include or exclude:
            filters["wanted"] = chosen(only, without)
        if content.kind == "point":
            raise Usage(
                f"snapshot {one.sequence} is a consistency point: it names others, and holds no data",
                hint="--kind files, bucket or postgres; or a number from `zaibei backup list`",
            )
        of_bucket = content.kind == "bucket"
        if not of_bucket and (to_bucket or at):
            raise Usage(f"snapshot {one.sequence} is of {content.kind}, not of a bucket")
        if of_bucket:
            filters["view"] = as_files(at)
        try:
            if dry_run:
                done = _survey(sources, bar, filters)
            elif target is not None:
                done = _to_directory(sources, target, bar, resume, not no_special, filters)
            else:
                filters.pop("view")
                done = _to_bucket(sources, to_bucket or "", bar, at, resume, filters)
        finally:
            for source in sources:
                source.close()
        if done.nothing and include:
            if target is not None and fresh:
                with suppress(OSError):
                    target.rmdir()  # made for nothing
            raise Usage("nothing in the snapshot matches --include", hint="zaibei backup show")
    damaged = [f"{u}; zaibei backup repair" for source in sources for u in source.unread]
    notes = ["nothing in the snapshot is left by the rules"] * (done.nothing and bool(exclude))
    notes += [f"{idle}: matched nothing" for idle in (*only.idle(), *without.idle())]
    notes += [f"left out by the backup, as allowed: {p}" for p in allowed(content)]
    doubts = [f"{u}: it may hold a newer snapshot" for u in unknown] if snapshot == "latest" else []
    whole = content.complete and done.sound and not doubts and not rolled_back
    say(
        json,
        {
            "repository": sources[0].repository.name,
            "snapshot": one.sequence,
            "target": target or to_bucket,
            "complete": whole,
            **done.fields,
            "problems": list(content.problems),
            "unknown": doubts,
            "rolled_back": rolled_back,
            "damaged": damaged,
            "notes": notes,
            "personal_data": "plain" if content.kind == "postgres" else "unknown",
        },
        [
            f"snapshot {one.sequence} of {sources[0].repository.name}: {done.line}",
            *_rights(done.fields, special=not no_special),
            *(f"NOT SET: {u}" for u in done.fields.get("unset", ())),
            *(f"TAKEN FROM ELSEWHERE: {t}" for t in done.fields.get("taken", ())),
            *(f"LOST: {x}" for x in done.fields.get("lost", ())),
            *map(what_became, content.problems),
            *(f"UNKNOWN: {d}" for d in doubts),
            *(f"ROLLED BACK: {r}" for r in rolled_back),
            *(f"DAMAGED: {d}" for d in damaged),
            *(f"note: {n}" for n in notes),
            *(_RAW for _ in range(content.kind == "postgres")),
        ],
    )
    raise typer.Exit(0 if whole else 1)


def _rights(fields: dict[str, Any], *, special: bool) -> list[str]:
    """What can make its user root here. The host that wrote the snapshot put it there."""
    count = fields.get("privileged_count", 0)
    if not count:
        return []
    shown = fields["privileged"][:_SHOWN]
    what = "restored" if special else "left out (--no-special)"
    more = [f"PRIVILEGED: and {count - len(shown)} more"] * (count > len(shown))
    return [
        f"PRIVILEGED: {count} entries that can give rights on this machine, {what}:",
        *(f"PRIVILEGED: {one}" for one in shown),
        *more,
    ]


def demand_apart(target: Path, urls: Sequence[str]) -> None:
    """Raises Usage for a target in a repository's own directory, where it would be taken for objects, and for a
    repository in the target."""
    where = target.resolve()
    for url in urls:
        parts = urlsplit(url)
        root = Path(unquote(parts.path)).resolve()
        if parts.scheme == "file" and (where.is_relative_to(root) or root.is_relative_to(where)):
            raise Usage(
                f"--target {target} and {url} are in one another",
                hint="a directory of its own; best on another disk",
            )


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of one of the three ways, for people and for programs."""

    sound: bool
    nothing: bool
    line: str
    fields: dict[str, Any]


def _survey(sources: "list[Source]", bar: Progress, filters: dict[str, Any]) -> _Done:
    from backup.restore.files import survey  # noqa: PLC0415

    found = survey(sources, progress=bar, **filters)
    return _Done(
        True,
        not (found.files or found.others),
        f"would restore {found.files} files, {found.size_bytes} bytes",
        {"dry_run": True, "files": found.files, "size_bytes": found.size_bytes},
    )


def _to_directory(
    sources: "list[Source]",
    target: Path,
    bar: Progress,
    resume: bool,
    special: bool,
    filters: dict[str, Any],
) -> _Done:
    from backup.restore.files import restore  # noqa: PLC0415

    done = restore(sources, target, progress=bar, resume=resume, special=special, **filters)
    return _Done(
        done.sound,
        not (done.files or done.directories or done.links or done.special or done.lost),
        f"restored {done.files} files",
        {
            "files": done.files,
            "size_bytes": done.size_bytes,
            "kept": done.kept,
            "unset": list(done.unset),
            "unset_count": done.unset_count,
            "taken": list(done.taken),
            "torn": list(done.torn),
            "lost": list(done.lost),
            "privileged": list(done.privileged),
            "privileged_count": done.privileged_count,
        },
    )


def _to_bucket(
    sources: "list[Source]",
    where: str,
    bar: Progress,
    at: datetime | None,
    resume: bool,
    filters: dict[str, Any],
) -> _Done:
    from backup.locations.urls import open_bucket  # noqa: PLC0415
    from backup.restore.bucket import send  # noqa: PLC0415

    store, _ = open_bucket(where)
    sent = send(sources, store, clock=CLOCK, progress=bar, at=at, resume=resume, **filters)
    return _Done(
        sent.sound,
        not (sent.objects or sent.lost),
        f"sent {sent.objects} objects to {store.name}",
        {
            "objects": sent.objects,
            "size_bytes": sent.size_bytes,
            "kept": sent.there,
            "taken": list(sent.taken),
            "lost": list(sent.lost),
        },
    )


def _sources(
    able: "list[Repository | None]", unknown: list[str], which: str, kind: str | None
) -> "list[Source]":
    """The snapshot where it is asked for, then the other vaults. A number is the first vault's own."""
    from backup.restore.replicas import Source  # noqa: PLC0415
    from backup.run import latest  # noqa: PLC0415

    there = [r for r in able if r is not None]
    if which == "latest":
        chosen, one = latest(there, kind=kind)
    elif kind is not None:
        raise Usage("a number has its kind", hint="--kind goes with `latest`")
    elif able[0] is None:
        raise Unreachable(
            f"a number is the first vault's own, and it does not open: {unknown[0]}",
            hint="name the vault that answers first, and a number from its list; or `latest`",
        )
    else:
        chosen, one = able[0], able[0].find(which)
    spares = [Source(r, like=one.content) for r in there if r is not chosen]
    return [Source(chosen, snapshot=one), *spares]
