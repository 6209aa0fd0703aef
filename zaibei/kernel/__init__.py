"""What every part stands on: time, names, units, errors, processes. Stdlib and structlog only."""
