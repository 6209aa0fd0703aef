"""Does this backup look like the work of ransomware? Judged at backup time, told in the snapshot itself.

`heads` looks at the first bytes of what is read, `change` compares the new listing with the last good one,
`verdict` decides (pure), `judge` does the reading and writes `facts["guard"]`. Nothing here stops a backup:
the copy of an attacked tree is evidence, and the copy of a healthy one that looked odd is a backup.
"""
