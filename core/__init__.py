"""Arrays, calculus, layers, optimizers, data, the checkpoint format. Knows no network."""
