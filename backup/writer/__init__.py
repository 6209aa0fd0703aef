"""One run into one vault, beside a garbage collection and without a lock."""
