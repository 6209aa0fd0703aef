"""One vault, opened: its objects, its chain of snapshots, who may open it."""
