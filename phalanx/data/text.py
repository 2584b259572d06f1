"""Text as numbers: tokenizers, vocabularies, padded sequences."""

from ..core.data.text import *  # noqa: F403
from ..core.data.text import __all__ as __all__
