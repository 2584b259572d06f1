"""Mixed precision: what a step computes with below float32, and how gradients survive it."""
