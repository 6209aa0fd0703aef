"""What talks to a running server: WAL receiver, clean room, consistency points."""
