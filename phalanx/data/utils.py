"""Pictures to and from files, as ``torchvision.utils`` and ``torchvision.io``."""

from ..core.data.image_files import make_grid as make_grid
from ..core.data.image_files import read_image as read_image
from ..core.data.image_files import save_image as save_image

__all__ = ["make_grid", "read_image", "save_image"]
