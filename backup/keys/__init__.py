"""Recipients and hosts of a repository: added, revoked, rotated."""
