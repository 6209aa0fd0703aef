"""Encrypted, deduplicated backups in write-once objects, and the way home again.

A chunk's walk, one room each: source (`files`, `postgres`, `wal`) → `cut` → seen before? (`index`) →
`seal` → `pack` → vault (create-only) → `index` segment → signed `snapshot`; and home: snapshot → index →
pack → open → file (`restore`) or a PostgreSQL that runs (`room`). Bytes: docs/design/repository.md.
"""
