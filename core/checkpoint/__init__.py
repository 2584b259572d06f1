"""The checkpoint format (pure) and its store on disk."""
