"""Algorithms and key material of backups. Knows no vault."""
