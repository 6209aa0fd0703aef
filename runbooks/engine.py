"""Runs a runbook: step after step, each journalled before and after, each proven before the next.

A run is successful when every proof was asked and held. A proof that could not be asked is no proof.
A run that was killed is taken up with `resume`, or taken back with `undo`.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from infra.sites import StackAccess
from infra.sites import load as load_access
from runbooks import journal as book
from runbooks.actions import Context
from runbooks.inventory import demand_one_host
from runbooks.inventory import read as read_inventory
from runbooks.journal import Journal, RunState, StepRecord, StepState
from runbooks.library import Source
from runbooks.model import Action, Check, Native, NoUndo, Play, Runbook, Step
from runbooks.placeholders import NAMED, Declared, check_names, fill, filled, given, parts
from runbooks.play import PlayResult, run_play
from runbooks.registry import invoke
from zaibei.config.model import Stack
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Refused, Usage, ZaibeiError
from zaibei.kernel.ids import new_id
from zaibei.kernel.progress import Progress, Silent
from zaibei.kernel.state import sole

_CHECK_DEADLINE = timedelta(seconds=15)  # of a precondition; a step's proof has the step's deadline


class NotProven(Refused):
    """The run did not end well: what the runbook claims is not proven, whatever was done."""

    def __init__(self, message: str, *, hint: tuple[str, ...] = (), run: str) -> None:
        super().__init__(message, hint=hint)
        self.run = run  # whose journal says how far it came


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    clock: Clock
    rng: random.Random
    inventory: Path
    access: Callable[[], StackAccess] = load_access
    stack: Stack | None = None  # None: parameters are checked against the access record alone
    secrets: Mapping[str, object] = field(default_factory=dict)
    playbooks: Path | None = None
    progress: Progress = field(default_factory=Silent)

    def run(self, source: Source, asked: Mapping[str, str], *, typed: str | None) -> Journal:
        """Raises Refused before anything happens, NotProven when a step did not end proven."""
        runbook = source.runbook
        values = given(runbook, asked)
        self._demand_names(runbook, values)
        why_refused(runbook, values, typed=typed)
        with sole(book.runs_dir() / "lock", what=f"runbook {runbook.id}"):
            self._demand_hosts(runbook, values)
            self._preconditions(runbook, values)
            journal = Journal(
                run=new_id("run", self.clock, self.rng),
                runbook=runbook.id,
                file=str(source.file),
                digest=source.digest,
                values=values,
                started_at=book.stamp(self.clock.now()),
                approvals={"needed": runbook.approvals.needed, "verified": None},
                steps=tuple(StepRecord(id=s.id) for s in runbook.steps),
            )
            book.run_dir(journal.run).mkdir(mode=0o700, parents=True)
            book.save(journal)
            return self._go(runbook, journal)

    def resume(self, source: Source, run: str, *, typed: str | None) -> Journal:
        """Take up a run where its journal ends: proven steps stay, the one in doubt is done again."""
        with sole(book.runs_dir() / "lock", what=f"runbook {source.runbook.id}"):
            journal = same(book.load(run), source)
            self._demand_all(source.runbook, journal.values, typed=typed)
            if journal.state in (RunState.SUCCEEDED, RunState.UNDONE):
                raise Usage(f"{run} is {journal.state.value}: there is nothing to take up")
            journal = replace(journal, state=RunState.RUNNING, ended_at=None)
            return self._go(source.runbook, journal)

    def undo(self, source: Source, run: str, *, typed: str | None) -> Journal:
        """Take back every step that was begun, the last one first."""
        runbook = source.runbook
        with sole(book.runs_dir() / "lock", what=f"undo of {runbook.id}"):
            journal = same(book.load(run), source)
            self._demand_all(runbook, journal.values, typed=typed)
            begun = (StepState.STARTED, StepState.ACTED, StepState.PROVEN, StepState.FAILED)
            for step in reversed(runbook.steps):
                record = journal.step(step.id)
                if record.state not in begun:
                    continue
                self.progress.step(f"undo: {step.title.en}")
                if isinstance(step.undo, NoUndo):
                    record = replace(record, state=StepState.KEPT, said=step.undo.none.en)
                else:
                    try:
                        said, _ = self._act(step.undo, journal, f"undo-{step.id}", step.deadline)
                    except ZaibeiError as error:
                        raise NotProven(
                            f"{runbook.id}: the undo of {step.id} did not end well: {error.message}",
                            hint=(*error.hints, f"by hand: {step.fallback.en}"),
                            run=run,
                        ) from error
                    record = replace(record, state=StepState.UNDONE, said=said)
                journal = self._keep(journal, record)
            return self._end(journal, RunState.UNDONE)

    def _demand_all(
        self, runbook: Runbook, values: Mapping[str, str], *, typed: str | None
    ) -> None:
        """What was right when the run began is asked again: stack, inventory and journal may differ now."""
        self._demand_names(runbook, given(runbook, values))
        why_refused(runbook, values, typed=typed)
        self._demand_hosts(runbook, values)

    def _demand_names(self, runbook: Runbook, values: Mapping[str, str]) -> None:
        if not any(p.type in NAMED for p in runbook.parameters.values()):
            return
        if self.stack is None:
            declared = Declared(sites=frozenset(s.name for s in self.access().sites))
        else:
            declared = Declared.of(self.stack)
        check_names(runbook, values, declared)

    def _demand_hosts(self, runbook: Runbook, values: Mapping[str, str]) -> None:
        """Every play of the runbook, its undo too, has exactly one host; before the first step runs."""
        plays = [p for s in runbook.steps for p in parts(s) if isinstance(p, Play)]
        if not plays:
            return
        inventory = read_inventory(self.inventory)
        for play in plays:
            limit = fill(play.limit, values)
            if runbook.danger.level == "destructive" and limit != values["site"]:
                raise Refused(
                    f"{runbook.id}: {play.play} is limited to {limit!r}, and the site is "
                    f"{values['site']!r}",
                    hint="a destructive runbook acts on the site whose name is typed, and on no other",
                )
            demand_one_host(inventory, limit, play=play.play)

    def _go(self, runbook: Runbook, journal: Journal) -> Journal:
        for step in runbook.steps:
            if journal.step(step.id).state is StepState.PROVEN:
                continue
            self.progress.step(step.title.en)
            journal = self._one(runbook, step, journal)
        assert all(s.state is StepState.PROVEN for s in journal.steps), (
            "success is proven or it is not"
        )
        return self._end(journal, RunState.SUCCEEDED)

    def _one(self, runbook: Runbook, step: Step, journal: Journal) -> Journal:
        record = journal.step(step.id)
        limit = self.clock.monotonic() + step.deadline.total_seconds()
        try:
            if record.state is not StepState.ACTED:
                record = replace(
                    record,
                    state=StepState.STARTED,
                    attempts=record.attempts + 1,
                    started_at=book.stamp(self.clock.now()),
                    said="",
                    proof="not asked",
                )
                # Before the action: a run that dies inside it must know that it may have happened.
                journal = self._keep(journal, record)
                said, played = self._act(step.action, journal, step.id, step.deadline)
                record = replace(record, state=StepState.ACTED, said=said)
                if played is not None:
                    record = replace(
                        record, events=played.events, events_sha256=played.chain_sha256
                    )
                journal = self._keep(journal, record)
            left = timedelta(seconds=max(1.0, limit - self.clock.monotonic()))
            objection = self._ask(step.proof, journal, left)
        except ZaibeiError as error:
            acted = record.state is StepState.ACTED
            told = f"could not be asked: {error.message}" if acted else "not asked"
            record = replace(record, proof=told, said=record.said or error.message)
            raise self._lost(runbook, step, journal, record, error.message, error.hints) from error
        if objection is not None:
            record = replace(record, proof=f"does not hold: {objection}")
            raise self._lost(runbook, step, journal, record, objection, ())
        proven = replace(
            record,
            state=StepState.PROVEN,
            proof="holds",
            ended_at=book.stamp(self.clock.now()),
        )
        return self._keep(journal, proven)

    def _lost(
        self,
        runbook: Runbook,
        step: Step,
        journal: Journal,
        record: StepRecord,
        reason: str,
        hints: tuple[str, ...],
    ) -> NotProven:
        ended = replace(record, state=StepState.FAILED, ended_at=book.stamp(self.clock.now()))
        self._end(self._keep(journal, ended), RunState.FAILED)
        claim = fill(runbook.claim.en, journal.values)
        return NotProven(
            f"NOT proven: {claim}; {runbook.id} stopped at {step.id}: {reason}",
            hint=(
                *hints,
                f"by hand: {fill(step.fallback.en, journal.values)}",
                f"go on: zaibei runbook run {runbook.id} --resume {journal.run}",
                f"take back: zaibei runbook undo {journal.run}",
            ),
            run=journal.run,
        )

    def _preconditions(self, runbook: Runbook, values: Mapping[str, str]) -> None:
        for wanted in runbook.preconditions:
            context = self._context(book.runs_dir(), _CHECK_DEADLINE)
            try:
                args = filled(wanted.args, values)
                objection = invoke(wanted.check, context, args, asks=True)
            except ZaibeiError as error:
                objection = f"it could not be asked: {error.message}"
            if objection is not None:
                raise Refused(f"{runbook.id}: not now: {fill(wanted.says.en, values)}: {objection}")

    def _ask(self, proof: Check, journal: Journal, deadline: timedelta) -> str | None:
        context = self._context(book.run_dir(journal.run), deadline)
        return invoke(proof.check, context, filled(proof.args, journal.values), asks=True)

    def _act(
        self, action: Action, journal: Journal, ident: str, deadline: timedelta
    ) -> tuple[str, PlayResult | None]:
        folder = book.run_dir(journal.run)
        args = filled(action.args, journal.values)
        if isinstance(action, Native):
            return invoke(
                action.native, self._context(folder, deadline), args, asks=False
            ) or "", None
        assert isinstance(action, Play)
        attempt = journal.step(ident.removeprefix("undo-")).attempts
        played = run_play(
            action.play,
            limit=fill(action.limit, journal.values),
            variables=args,
            secrets=self.secrets,
            inventory=self.inventory,
            folder=folder,
            ident=f"{ident}-{attempt}",
            deadline=deadline,
            clock=self.clock,
            playbooks=self.playbooks,
            on_event=self._told,
        )
        return f"{action.play} on {', '.join(played.hosts)}", played

    def _told(self, event: dict[str, object]) -> None:
        if event.get("event") in ("runner_on_failed", "runner_on_unreachable"):
            self.progress.note(f"{event.get('host')}: {event.get('task')}: {event.get('said', '')}")

    def _context(self, folder: Path, deadline: timedelta) -> Context:
        return Context(access=self.access, clock=self.clock, folder=folder, deadline=deadline)

    def _keep(self, journal: Journal, record: StepRecord) -> Journal:
        changed = journal.with_step(record)
        book.save(changed)
        return changed

    def _end(self, journal: Journal, state: RunState) -> Journal:
        ended = replace(journal, state=state, ended_at=book.stamp(self.clock.now()))
        book.save(ended)
        return ended


def why_refused(runbook: Runbook, values: Mapping[str, str], *, typed: str | None) -> None:
    """Raises Refused unless a destructive runbook's site was typed."""
    if runbook.danger.level != "destructive":
        return
    site = values["site"]
    if typed != site:
        said = "was not typed" if typed is None else f"is not {typed!r}"
        raise Refused(
            f"{runbook.id} is destructive, and the site's name {said}: {runbook.danger.what.en}",
            hint=f"if you mean it: --yes-i-mean {site}",
        )


def same(journal: Journal, source: Source) -> Journal:
    if journal.runbook != source.runbook.id or journal.digest != source.digest:
        raise Refused(
            f"{journal.run} was started with another text of {journal.runbook}",
            hint="its steps may have changed meaning: end it by hand, and start a new run",
        )
    steps = [s.id for s in journal.steps]
    if (
        steps != [s.id for s in source.runbook.steps]
        or journal.values.keys() != source.runbook.parameters.keys()
    ):
        raise Damage(
            f"{journal.run}: its journal has other steps or parameters than {journal.runbook}",
            hint="it was changed after the run: end it by hand, and start a new run",
        )
    return journal
