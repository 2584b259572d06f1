"""The exact tree and the bucket plan: pure, over messages."""
