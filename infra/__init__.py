"""The sites and what stands on them: lab, object stores, PostgreSQL, faults."""
