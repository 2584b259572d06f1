"""``phalanx ckpt``: look at checkpoints, compare them, take tensors out of them, remove old ones."""
