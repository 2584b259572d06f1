"""``cupy.cuda.device``."""

from .._state import Device, thread


def get_device_id() -> int:
    return thread.device
