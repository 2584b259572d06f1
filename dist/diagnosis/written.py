"""What a healthy job can ask of its own diagnosis."""

from __future__ import annotations

import os
from pathlib import Path

from ..group import current
from . import flight_file


def write_flight(folder: str | os.PathLike[str]) -> Path:
    """Write this rank's last operations into ``folder``, as a failure would; any rank may call, at any time.

    ``phalanx flight DIR`` shows them, ``phalanx flight DIR --trace FILE`` makes a trace of them. The file's path.

    >>> import tempfile
    >>> phalanx.write_flight(tempfile.mkdtemp()).name
    'rank-0.jsonl'
    """
    return flight_file.write(folder, current().communicator)
