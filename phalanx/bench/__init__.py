"""``phalanx bench``: measurements beside peers, in one run, taking turns."""
