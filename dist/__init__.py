"""Moves arrays between ranks: communicators, exact reduction, DataParallel, who writes what."""
