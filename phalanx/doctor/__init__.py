"""``phalanx doctor``: what is wrong with this machine or between these ranks, what it means, and the command that mends it."""
