"""Backups: deduplicated, encrypted, signed, in several vaults at once, and proven by restoring.

Words. A *blob* is a piece of plaintext named by its keyed hash. A *pack* is an object of many sealed
blobs. An *index segment* is an immutable list that says which blob lies in which pack. A *snapshot* is a
signed link of a chain: one backup. A *forget statement* takes a snapshot out of the chain. A *mark* names
packs that a garbage collection may delete after a grace period. A *lease* says which host works on a slot
of the schedule. A *vault* is a store that was admitted; a *repository* is what lies in it.

The walk of a chunk: `backup.sources.walk` reads, `backup.sources.chunker` cuts, `backup.writer.writer`
asks `backup.index.blob_index` whether the blob is known, `backup.format.blob` compresses,
`backup.format.pack` seals, `backup.writer.uploads` creates the object, `backup.index.segment` names it,
and `backup.format.snapshot` makes it true: written last, in one PUT.

The walk home: `backup.repository.chain` finds the snapshot, `backup.repository.index_loading` the index,
`backup.repository.reader` opens packs and checks blobs, `backup.restore.file_writer` puts them in place,
and a file gets its name only when it is whole.
"""
