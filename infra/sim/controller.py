"""What decides beside each member who may write: the algorithm of Patroni's synchronous mode, in small.

Three rules keep an acknowledged write, and each has a sabotage that takes it away:

- a standby is named in the lease service only after commits wait for it *and* it has all that came before;
- it is unnamed there before commits stop waiting for it;
- who takes the lease changes the named pair by compare-and-set before it writes, so an old leader that is
  still about to let its standby go finds out.
"""

from collections.abc import Callable
from dataclasses import dataclass

from infra.sim.hosts import Hosts
from infra.sim.lease import LeaseService, View
from infra.sim.member import SILENT_S, Member, Sabotage

LOOP_S = 0.25
MARGIN_S = 0.3  # an old leader stops so long before its lease ends


@dataclass
class Controller:
    member: Member
    partner: str | None  # the other one that may be promoted; None: this one never is
    hosts: Hosts
    leases: LeaseService
    sabotage: Sabotage | None = None
    _renewed_s: float = 0.0  # when the last renewal that succeeded was asked for
    _wanted_at: int | None = None  # commits wait for the partner since this record
    _changes: int = 0  # of the proven pair, asked for by this one
    _alone_s: float | None = None  # the partner is not heard since

    @property
    def name(self) -> str:
        return self.member.name

    def restart(self) -> None:
        """At the start, and after the host had no power."""
        self._wanted_at = self._alone_s = None
        self.tick()
        self.member.keepalive()

    def tick(self) -> None:
        # Never quite in step: who comes first to a free lease must not be the same in every world.
        self.hosts.after(LOOP_S * self.hosts.rng.uniform(0.7, 1.3), self.name, self.tick)
        now_s = self.hosts.now_s
        if self.member.writer and not self._holds_at(now_s) and not self._is(Sabotage.NO_FENCE):
            self._step_down("its lease was not renewed")
        if self.member.writer and self._is(Sabotage.NO_FENCE):
            self._let_go_on_its_own()
        self.leases.call(
            self.name,
            lambda register, at_s: register.look(self.name, at_s),
            lambda view: self._seen(view, asked_s=now_s),
        )

    def _seen(self, view: View, *, asked_s: float) -> None:
        if view.leader == self.name:
            self._renewed_s = max(self._renewed_s, asked_s)
            if self.member.writer:
                self._keep_proof(view)
            elif (why := self._why_not_promotable(view)) is None:
                self._take_over(view, view.epoch)
            else:
                self.hosts.say(self.name, f"gives the lease back: {why}")
                self.leases.call(self.name, lambda r, _: r.release(self.name), lambda _: None)
        elif self.member.writer:
            if not self._is(Sabotage.NO_FENCE):
                self._step_down(f"the lease is {view.leader or 'nobody'}'s")
        elif view.leader is not None:
            self.member.follow(view.leader)
        elif self._why_not_promotable(view) is None:
            self._campaign(view)

    def _why_not_promotable(self, view: View) -> str | None:
        if self._is(Sabotage.PROMOTE_LAGGING):
            return None
        if self.partner is None:
            return "the remote member is promoted by people"
        if self._is(Sabotage.ASYNCHRONOUS) or not view.sync:
            return None  # at the very beginning nobody has anything
        return None if self.name in view.sync else f"not proven: the proven are {view.sync}"

    # -- taking over ------------------------------------------------------------------------------

    def _campaign(self, view: View) -> None:
        asked_s = self.hosts.now_s

        def won(epoch: int | None) -> None:
            if epoch is not None and not self.member.writer:
                self._renewed_s = asked_s
                self._take_over(view, epoch)

        self.leases.call(self.name, lambda r, at_s: r.acquire(self.name, at_s), won)

    def _take_over(self, view: View, epoch: int) -> None:
        def sealed(version: int | None) -> None:
            # The view is from before the lease was taken. A leader that let its standby go since then
            # has acknowledged writes that are not here.
            if version is None:
                self.hosts.say(self.name, "postpones: the proven pair changed meanwhile")
            elif not self.member.writer and self._holds_at(self.hosts.now_s):
                self._wanted_at = self._alone_s = None
                self.member.promote(epoch)

        self._set_sync((self.name,), view.sync_version, sealed)

    def _step_down(self, why: str) -> None:
        self.hosts.say(self.name, f"steps down: {why}")
        self._wanted_at = self._alone_s = None
        self.member.demote()

    def _holds_at(self, now_s: float) -> bool:
        return now_s - self._renewed_s < self.leases.register.ttl_s - MARGIN_S

    # -- the proven standby -----------------------------------------------------------------------

    def _keep_proof(self, view: View) -> None:
        if self.partner is None or self._is(Sabotage.ASYNCHRONOUS):
            return
        member, partner = self.member, self.partner
        there = partner in view.members and member.streaming(partner)
        if member.sync_with is None:
            if there and partner not in view.sync:
                member.sync_with, self._wanted_at = partner, len(member.log)
            return
        if there and partner not in view.sync and self._wanted_at is not None:
            if member.acked(partner) >= self._wanted_at or self._is(Sabotage.NAME_EARLY):
                self.hosts.say(
                    self.name,
                    f"names {partner}: it has {member.acked(partner)} of {self._wanted_at}",
                )
                self._change_proof((self.name, partner), view, lambda: None)
        elif not there:
            # Also when the view does not name it: a request that does may still be on its way, and
            # this change makes it fail.
            self._change_proof((self.name,), view, self._let_go)

    def _change_proof(self, sync: tuple[str, ...], view: View, then: Callable[[], None]) -> None:
        self._changes += 1
        change, epoch = self._changes, self.member.epoch

        def changed(version: int | None) -> None:
            # The answer to an older change says nothing about what is named now.
            if version is None or change != self._changes:
                return
            if self.member.writer and self.member.epoch == epoch:
                then()

        self._set_sync(sync, view.sync_version, changed)

    def _let_go(self) -> None:
        self.hosts.say(self.name, f"lets {self.partner} go: one copy from now on")
        self.member.sync_with, self._wanted_at = None, None
        self.member.release()

    def _let_go_on_its_own(self) -> None:
        """The sabotage: without asking whether it still may."""
        member = self.member
        if member.sync_with is None or member.streaming(member.sync_with):
            self._alone_s = None
            return
        self._alone_s = self.hosts.now_s if self._alone_s is None else self._alone_s
        if self.hosts.now_s - self._alone_s > SILENT_S:
            self._let_go()

    def _set_sync(
        self, sync: tuple[str, ...], version: int, then: Callable[[int | None], None]
    ) -> None:
        self.leases.call(self.name, lambda r, _: r.set_sync(sync, version=version), then)

    def _is(self, sabotage: Sabotage) -> bool:
        return self.sabotage is sabotage
