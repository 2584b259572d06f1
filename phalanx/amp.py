"""Mixed precision: ``autocast`` and ``GradScaler``, as ``torch.amp``."""

from .core.amp.autocast import autocast, custom_bwd, custom_fwd, get_autocast_dtype, is_autocast_enabled
from .core.amp.scaler import GradScaler

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd", "get_autocast_dtype", "is_autocast_enabled"]
