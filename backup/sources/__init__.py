"""What can be backed up: read once, cut, written to every vault."""
