"""The reference service: a health code that shows, verifies and registers, and never claims a write it cannot prove."""
