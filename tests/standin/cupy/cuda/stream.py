"""``cupy.cuda.stream``."""

from .._state import Event, ExternalStream, Stream, get_elapsed_time
from .._state import current_stream as get_current_stream
