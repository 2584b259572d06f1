"""Renders and reads what a scheduler says."""
