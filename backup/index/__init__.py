"""Which pack holds which blob, in bounded memory. Knows no vault."""
