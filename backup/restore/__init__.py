"""Files and objects back from a vault; wrong bytes never get a name."""
