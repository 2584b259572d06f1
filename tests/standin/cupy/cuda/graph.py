"""``cupy.cuda.graph``."""

from .._state import Graph
