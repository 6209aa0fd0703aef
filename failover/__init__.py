"""Drills: a fault made on purpose, measured from what clients saw, judged, and put on record."""
