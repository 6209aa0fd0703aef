"""Is anything wrong now? Every alert rule put to one fresh round of answers.

Three outcomes, not two: an alert whose metrics nobody could measure is `unknown`, which is not quiet.
"""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from prometheus_client.parser import text_string_to_metric_families

from infra.sites import StackAccess
from monitors.ask import ask_all
from monitors.metrics import BY_NAME, Sample, Where
from monitors.probes import https
from monitors.reading import Probe, Unknown
from monitors.rules import Firing, Rule, firing, metrics_named, series
from monitors.survey import DEADLINE, Silence, Survey
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Unreachable, Usage

_MAX_SAMPLES = 500  # of one site's page
_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    at: datetime
    firing: tuple[Firing, ...]
    unknown: tuple[str, ...]  # alerts that could not be asked
    silences: tuple[Silence, ...]

    @property
    def well(self) -> bool:
        return not self.firing


def check(
    rules: tuple[Rule, ...],
    seen: Survey,
    hosts: tuple[Sample, ...] = (),
    *,
    site: str | None = None,
) -> Check:
    """Pure: rules and samples in, what fires and what cannot be told out.

    With `site`, samples of other sites are left out first: measured elsewhere is not measured here.
    """
    values = series(s for s in (*seen.samples, *hosts) if site is None or _about(s, site))
    return Check(
        at=seen.at,
        firing=tuple(f for rule in rules for f in firing(rule, values)),
        unknown=tuple(
            r.alert for r in rules if any(not values.get(m) for m in metrics_named(r.expr))
        ),
        silences=seen.silences,
    )


def of_alert(found: Check, alert: str, known: frozenset[str]) -> Check:
    """One alert alone."""
    if alert not in known:
        raise Usage(f"no alert {alert!r}", hint=f"there are: {', '.join(sorted(known))}")
    return replace(
        found,
        firing=tuple(f for f in found.firing if f.alert == alert),
        unknown=tuple(a for a in found.unknown if a == alert),
    )


def _about(sample: Sample, site: str) -> bool:
    labels = dict(zip(BY_NAME[sample.metric].labels, sample.labels, strict=True))
    return labels.get("site", site) == site


def of_hosts(
    access: StackAccess, *, clock: Clock, deadline: timedelta = DEADLINE
) -> tuple[Sample, ...]:
    """What the exporters on the sites show. A site without an answer gives nothing: its probe is silent."""
    tls = https.context(
        ca_file=access.ca_file, client_cert=access.client_cert, client_key=access.client_key
    )

    def asks(site: str, url: str) -> Probe[tuple[Sample, ...]]:
        return Probe(name="host", site=site, ask=lambda d: _page(site, url, tls, d))

    probes = [asks(s.name, s.exporter_url) for s in access.sites]
    answers = ask_all(probes, deadline=deadline, clock=clock)
    return tuple(s for a in answers if not isinstance(a.value, Unknown) for s in a.value)


def _page(site: str, url: str, tls: ssl.SSLContext, deadline: timedelta) -> tuple[Sample, ...]:
    reply = https.request(f"{url}/metrics", tls=tls, deadline=deadline)
    if reply.status != _OK:
        raise Unreachable(f"{url}/metrics: status {reply.status}")
    kept = tuple(declared(reply.body.decode(errors="replace"), site=site))
    if len(kept) > _MAX_SAMPLES:
        raise Unreachable(f"{url}/metrics: more than {_MAX_SAMPLES} samples")
    return kept


def declared(page: str, *, site: str) -> Iterator[Sample]:
    """The samples of a page that a site may speak: declared for sites, and about itself."""
    for family in text_string_to_metric_families(page):
        for one in family.samples:
            metric = BY_NAME.get(one.name)
            if metric is None or metric.where is not Where.SITE or one.labels.get("site") != site:
                continue
            if set(one.labels) == set(metric.labels):
                labels = tuple(one.labels[name] for name in metric.labels)
                yield Sample(metric=one.name, labels=labels, value=one.value)
