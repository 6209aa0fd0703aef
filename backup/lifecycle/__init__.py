"""What becomes of snapshots: retention, forget, garbage collection, copies."""
