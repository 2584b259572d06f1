"""Data sets, loaders and transforms, as ``torch.utils.data`` and ``torchvision``; tables and text."""

from ..core.data import *  # noqa: F403
from ..core.data import __all__ as __all__
from . import datasets as datasets  # type: ignore[no-redef]
from . import tables as tables  # type: ignore[no-redef]
from . import text as text  # type: ignore[no-redef]
from . import transforms as transforms  # type: ignore[no-redef]
from . import utils as utils
