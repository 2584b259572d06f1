"""Data sets, keyed sample order, shards of a global batch, prefetch."""
