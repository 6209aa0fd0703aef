"""Encode and decode, one module a row of the table of objects in docs/design/repository.md. No I/O."""
