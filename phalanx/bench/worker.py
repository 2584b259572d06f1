"""One rank of a contestant's job: waits for the next measurement without using the processor, makes it, answers.

``python -m phalanx.bench.worker KIND``; the conversation is lines of JSON over the socket that PHALANX_BENCH_FOLDER holds.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any

from ..dist import env
from ..dist.group import shutdown
from .contestants import KINDS


def main(kind: str) -> None:
    place = env.read(os.environ)
    rank, size = (0, 1) if place is None else (place.rank, place.size)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(os.path.join(os.environ["PHALANX_BENCH_FOLDER"], "socket"))
        stream = connection.makefile("rw", encoding="utf-8")
        contestant = KINDS[kind](rank, size)
        _say(stream, {"rank": rank, "ready": True})
        idle = time.process_time()
        for line in stream:
            idle = time.process_time() - idle
            algorithm, nbytes, repeats = json.loads(line)
            _say(stream, {"seconds": contestant.run(algorithm, nbytes, repeats), "idle_cpu_s": idle})
            idle = time.process_time()
    shutdown()


def _say(stream: Any, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


if __name__ == "__main__":
    main(sys.argv[1])
