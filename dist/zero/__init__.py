"""ZeRO: each rank keeps and updates a part of the optimizer state, and of the gradients if asked."""
