"""Questions to the running stack. Read-only, each with a deadline; no answer is told as the reason."""
