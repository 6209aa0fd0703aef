"""Procedures that run: a YAML model for people and machine, a linter, an engine with a journal and proofs."""
