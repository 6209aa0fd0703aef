"""Faults made on purpose, for real, each acknowledged and each undone.

model.py     what a fault is; pure
inject.py    how each is made and unmade in the lab
journal.py   what is broken right now, on disk before it is broken
deadman.py   a process of its own that undoes everything when the drill dies
trace.py     what the machine looks like, so that "nothing is left" is a comparison
"""
