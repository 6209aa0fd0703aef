"""The same work, done by this engine and by its peers, side by side. Nothing here is used by a backup."""
