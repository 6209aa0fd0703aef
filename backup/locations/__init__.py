"""From a URL, a conninfo or the stack to something that is open."""
