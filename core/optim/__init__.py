"""Optimizers on the flat store."""
