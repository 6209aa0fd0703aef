"""PostgreSQL's WAL in a vault: archive, timelines, what may expire."""
