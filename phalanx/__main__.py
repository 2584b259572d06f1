"""``python -m phalanx``, also from a bare checkout."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
