"""Read the page of a site's exporter: what a site may say, declared for sites and about itself alone."""

import math
import re
import ssl
from collections.abc import Iterator
from datetime import timedelta

from prometheus_client.parser import text_string_to_metric_families

from monitors.metrics import BY_NAME, Sample, Where
from monitors.probes import https
from zaibei.kernel.errors import Damage, Unreachable

_LABEL = re.compile(r"[\w.:-]{1,64}", re.ASCII)  # it is printed on a terminal
_MAX_SAMPLES = 500  # of one site's page
_MAX_PAGE_BYTES = 256 << 10  # parsed by the thread of every other probe: a page has some 10 kB


def read(url: str, *, site: str, tls: ssl.SSLContext, deadline: timedelta) -> tuple[Sample, ...]:
    """Raises Unreachable and Damage."""
    where = f"{url}/metrics"
    text = https.page(where, tls=tls, deadline=deadline, max_body_bytes=_MAX_PAGE_BYTES)
    try:
        kept = tuple(declared(text, site=site))
    except ValueError as garbled:
        raise Damage(f"{where}: not a page of metrics: {garbled}") from garbled
    if not kept:
        raise Unreachable(f"{where}: nothing about {site}")
    if len(kept) > _MAX_SAMPLES:
        raise Damage(f"{where}: more than {_MAX_SAMPLES} samples")
    return kept


def declared(page: str, *, site: str) -> Iterator[Sample]:
    """The samples of a page that a site may speak: declared for sites, about itself, and a number.

    NaN is above and below nothing: kept, it would be quiet for every alert.
    """
    for family in text_string_to_metric_families(page):
        for one in family.samples:
            metric = BY_NAME.get(one.name)
            if metric is None or metric.where is not Where.SITE or one.labels.get("site") != site:
                continue
            if math.isnan(one.value) or not all(map(_LABEL.fullmatch, one.labels.values())):
                continue
            if set(one.labels) == set(metric.labels):
                labels = tuple(one.labels[name] for name in metric.labels)
                yield Sample(metric=one.name, labels=labels, value=one.value)
