"""Is everything there, and if not: repair alone, heal from the other vault."""
