"""``cupy.cuda.device``."""

from .. import _state
from .._state import Device


def get_device_id() -> int:
    return _state.thread.device
