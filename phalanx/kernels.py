"""Which kernels compute: plain NumPy, the reference, or fast libraries."""

from .core.kernels.table import choose, chosen, describe

__all__ = ["choose", "chosen", "describe"]
