"""``python -m phalanx``, also from a bare checkout, and the command ``phalanx``."""

import _signal as signal  # type: ignore[import-not-found]  # loaded already: Ctrl-C may come while a file is imported
import sys

ALONE = signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_DFL)
"""Others are ranks, as of ``phalanx run -m phalanx ...``, and answer SIGINT as ranks do (dist/interrupt.py)."""
INTERRUPTED = 130

try:
    if ALONE:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while this imports and at its end nothing is to be cleaned up
except ValueError:  # one of several threads that are ranks
    ALONE = False

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
