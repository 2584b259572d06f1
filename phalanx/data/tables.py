"""Tables with missing values, scaling and encoding, under scikit-learn's names."""

from ..core.data.tables import *  # noqa: F403
from ..core.data.tables import __all__ as __all__
