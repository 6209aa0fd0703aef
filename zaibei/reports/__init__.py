"""Papers for people, made from verified evidence and nothing else: this package may not import what it judges."""

from zaibei.reports.drill import drill_report

__all__ = ["drill_report"]
