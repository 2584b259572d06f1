"""Starts, watches, stops and restarts processes. Knows no array."""
