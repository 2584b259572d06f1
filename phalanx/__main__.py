"""``python -m phalanx``, also from a bare checkout, and the command ``phalanx``."""

import signal
import sys
import threading

MAIN = threading.current_thread() is threading.main_thread()
ALONE = MAIN and signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""Others are ranks, as of ``phalanx run -m phalanx ...``, and answer SIGINT as ranks do (dist/interrupt.py)."""
INTERRUPTED = 130

if ALONE:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while this imports and at its end nothing is to be cleaned up

from .cli import main  # noqa: E402


def command() -> int:
    """Do what the command line says; Ctrl-C ends it without a traceback whenever it comes."""
    if not ALONE:
        return main()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return main()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(command())
