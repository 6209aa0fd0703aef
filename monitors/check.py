"""Is anything wrong now? Every alert rule put to one fresh round of answers.

Three outcomes, not two, for each alert and each site: it fires, it is quiet, or what it needs was not measured
there. A site that answers does not speak for one that is silent.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from monitors.bounds import Bounds
from monitors.metrics import BY_NAME, OF_A_FOLLOWER, STANDBYS, Metric, Sample, Where, sample
from monitors.reading import OPERATOR
from monitors.rules import Firing, Rule, Series, firing, metrics_named, series
from monitors.survey import Silence, Survey
from zaibei.kernel.errors import Usage

_NO_ACCESS = "access"  # the probe that stands for all of a site that was never provisioned
_PAGE = "exporter"  # the probe that brings the page of a site
_SITES_JOB, _OPERATOR_JOB = "zaibei-sites", "zaibei"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmeasured:
    """An alert that could not be asked at a place: it did not fire there, and it is not quiet either."""

    alert: str
    at: str  # a site, vault, bucket or scenario; "" where the alert is about the whole stack
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    at: datetime
    firing: tuple[Firing, ...]
    unknown: tuple[str, ...]  # alerts that could not be asked, at one place or at all
    unmeasured: tuple[Unmeasured, ...]  # where, and why
    silences: tuple[Silence, ...]

    @property
    def well(self) -> bool:
        return not self.firing


def check(
    rules: tuple[Rule, ...], seen: Survey, bounds: Bounds, *, site: str | None = None
) -> Check:
    """Pure: rules and answers in, what fires and what cannot be told out.

    With `site`, samples of other sites are left out first: measured elsewhere is not measured here.
    """
    told = [*seen.samples, *seen.hosts, *_scrapes(seen)]
    silences = [*seen.silences, *_of_pages(seen.hosts)]
    values = series(s for s in told if site is None or _about(s, site))
    place = _Places(values, silences, bounds, site)
    fired = tuple(f for rule in rules for f in firing(rule, values))
    doubts = tuple(dict.fromkeys(d for rule in rules for d in place.doubts(rule)))
    return Check(
        at=seen.at,
        firing=fired,
        unknown=tuple(dict.fromkeys(d.alert for d in doubts)),
        unmeasured=doubts,
        silences=tuple(silences),
    )


def of_alert(found: Check, alert: str, known: frozenset[str]) -> Check:
    """One alert alone."""
    must_be_known(alert, known)
    return of_alerts(found, (alert,))


def of_alerts(found: Check, alerts: Collection[str]) -> Check:
    """Those alerts alone."""
    return replace(
        found,
        firing=tuple(f for f in found.firing if f.alert in alerts),
        unknown=tuple(a for a in found.unknown if a in alerts),
        unmeasured=tuple(d for d in found.unmeasured if d.alert in alerts),
    )


def must_be_known(alert: str, known: Collection[str]) -> None:
    """Raises Usage for an alert that no rule has: asked about nothing, a check would be quiet."""
    if alert not in known:
        near = difflib.get_close_matches(alert, sorted(known), n=1)
        raise Usage(
            f"no alert {alert!r}",
            hint=f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}",
        )


def _scrapes(seen: Survey) -> Iterator[Sample]:
    """What Prometheus would note of its scrapes: this round read the same pages."""
    silent = {s.site for s in seen.silences if s.probe in (_PAGE, _NO_ACCESS)}
    asked = {
        s.labels[1] for s in seen.samples if s.metric == "zaibei_probe_up" and s.labels[0] == _PAGE
    }
    for site in sorted(asked | silent):
        yield sample("up", site not in silent, _SITES_JOB, site)
    yield sample("up", 1, _OPERATOR_JOB, OPERATOR)
    yield sample("zaibei_round_age_seconds", 0)


def _of_pages(hosts: Sequence[Sample]) -> Iterator[Silence]:
    """Probes of a site's own exporter that got no answer."""
    for one in hosts:
        if one.metric == "zaibei_local_probe_up" and one.value == 0:
            site, probe = one.labels
            yield Silence(
                probe=probe, site=site, reason="the site itself has no answer", local=True
            )


def _about(sample: Sample, site: str) -> bool:
    labels = dict(zip(BY_NAME[sample.metric].labels, sample.labels, strict=True))
    if labels.get("site") == OPERATOR and sample.metric == "up":
        return True  # the page that speaks of every site
    return labels.get("site", site) == site


class _Places:
    """Where each metric was measured, and why not elsewhere."""

    def __init__(
        self, values: Series, silences: Sequence[Silence], bounds: Bounds, only: str | None
    ) -> None:
        self._values, self._silences, self._only = values, silences, only
        self._sites = bounds.sites if only is None else (only,)
        self._declared: Mapping[str, Sequence[str]] = {
            "site": self._sites,
            "vault": bounds.vaults,
            "bucket": bounds.buckets,
            "scenario": bounds.scenarios,
        }

    def doubts(self, rule: Rule) -> Iterator[Unmeasured]:
        found: dict[str, str] = {}
        for name in sorted(metrics_named(rule.expr)):
            missing = self._missing(BY_NAME[name])
            if BY_NAME[name].labels == ("site",):
                missing = self._could_fire(rule, name, missing)
            for at, reason in missing.items():
                found.setdefault(at, reason)
        for at, reason in found.items():
            yield Unmeasured(alert=rule.alert, at=at, reason=reason)

    def _missing(self, metric: Metric) -> dict[str, str]:
        """The places at which it was not measured although it could be, with the reason."""
        seen = self._values.get(metric.name, {})
        label = metric.each or ("site" if "site" in metric.labels else None)
        if label is None or label not in self._declared:
            if seen or (metric.name in OF_A_FOLLOWER and self._nothing_follows()):
                return {}
            return {"": self._why_not(metric, None) or "nothing was measured"}
        places = list(self._declared[label])
        if (
            label == "site" and self._only is None
        ):  # the operator's own certificates, his mark of a drill
            places += [s.site for s in self._silences if self._tells(metric, s)]
        missing = {}
        for at in dict.fromkeys(places):
            here = any((label, at) in labels for labels in seen)
            why = self._why_not(metric, at if label == "site" else None)
            # Of several samples of a site (its mounts) some may be there and the silent one not.
            if why is not None and not (here and metric.labels == (label,)):
                missing[at] = why
            elif not here and self._expected(metric, at):
                missing[at] = "nothing was measured"
        return missing

    def _nothing_follows(self) -> bool:
        return self._values.get("zaibei_wal_following") == {frozenset(): 0}

    def _expected(self, metric: Metric, at: str) -> bool:
        if metric.name in STANDBYS:
            return self._values.get("zaibei_writer", {}).get(frozenset({("site", at)})) == 0
        return metric.each is not None

    def _why_not(self, metric: Metric, site: str | None) -> str | None:
        for one in self._silences:
            if site is not None and one.site != site:
                continue
            if one.probe == _NO_ACCESS and site is not None:
                return one.reason
            if self._tells(metric, one) or (metric.where is Where.SITE and one.probe == _PAGE):
                return f"{one.probe}: {one.reason}"
        return None

    @staticmethod
    def _tells(metric: Metric, silent: Silence) -> bool:
        """A site's exporter has probes of its own, with some of the names that ours have."""
        return metric.told_by(silent.probe) and silent.local is (metric.where is Where.SITE)

    def _could_fire(self, rule: Rule, name: str, missing: Mapping[str, str]) -> dict[str, str]:
        """Of the sites at which a metric is missing those where some value of it would make the rule fire.

        With one writer seen there is no `NoWriter`, whoever is silent; there may be a second one.
        """
        extremes = (0.0, 1.0) if BY_NAME[name].unit == "" else (0.0, float("inf"))
        already = [f.labels for f in firing(rule, self._values)]
        new = []
        for value in extremes:
            filled = dict(self._values.get(name, {}))
            filled |= {frozenset({("site", at)}): value for at in missing}
            told = {**self._values, name: filled}
            new += [f.labels for f in firing(rule, told) if f.labels not in already]
        # A rule that adds the sites up says of none of them which it is.
        whole = any("site" not in labels for labels in new)
        hit = {labels.get("site") for labels in new}
        return {at: why for at, why in missing.items() if whole or at in hit}
