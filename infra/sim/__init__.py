"""Three sites that exist only in memory: one clock, one seed, one thread. See docs/design/simulation.md."""
