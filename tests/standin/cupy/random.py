"""``cupy.random``: the project draws by its own kernels, so there is nothing here."""
