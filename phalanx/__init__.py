"""phalanx: data-parallel training whose bits do not depend on how many ranks trained them."""

__version__ = "0.1.0"
