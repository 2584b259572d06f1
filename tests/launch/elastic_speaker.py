"""A rank that takes part in an elastic job's membership and trains nothing. It ends well when the file FOLDER/stop is there.

    elastic_speaker.py FOLDER [NUMBER=DEED ...]

A process whose number, its line in FOLDER/came, is NUMBER does DEED once it hears of its first generation or is taken in: ``raise``,
``die``, or ``accuse:RANK`` (say that this rank cannot be reached). Numbers are those of the ranks at the start.
"""

import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

folder, deeds = Path(sys.argv[1]), dict(word.split("=") for word in sys.argv[2:])
wire = socket.socket(fileno=int(os.environ["PHALANX_MEMBERSHIP_FD"]))
lines = wire.makefile("rb", buffering=0)
newcomer = os.environ.get("PHALANX_NEWCOMER") == "1"
rank, generation, began = int(os.environ["PHALANX_RANK"]), 0, time.monotonic()
asked_to_leave = []
signal.signal(signal.SIGTERM, lambda *_: asked_to_leave.append(1))


def say(**message):
    wire.sendall(json.dumps(message).encode() + b"\n")


def tell(event, **words):
    print(json.dumps({"event": event, "pid": os.getpid(), "rank": rank, **words}), flush=True)


def obey(word):
    global rank, generation
    if word["kind"] == "generation":
        rank, generation = word["rank"], word["generation"]
        if rank == 0 and word["size"] > 1:
            say(kind="serving", generation=generation, address=word["bind"] + ":1")
        say(kind="formed", generation=generation, step=7, repeats=True, stall_s=0.25)
        if word["wait"]:
            say(kind="saved", step=7) if rank == 0 else None
    elif word["kind"] == "regroup":
        say(kind="boundary", generation=word["generation"])
    elif word["kind"] == "end":
        sys.exit(word["code"])
    tell(**{"event": word["kind"], **{name: value for name, value in word.items() if name not in ("kind", "rank")}})


if newcomer:
    say(kind="ready")
else:  # training begins
    say(kind="formed", generation=0, step=0, repeats=False, stall_s=0.0)
tell("came", newcomer=newcomer, host=socket.gethostname(), size=int(os.environ["PHALANX_SIZE"]),
     local_rank=int(os.environ["PHALANX_LOCAL_RANK"]))  # fmt: skip
deed = "" if newcomer else deeds.get(str(rank), "")
while not (folder / "stop").exists() and not asked_to_leave:
    if select.select([wire], [], [], 0.02)[0]:
        line = lines.readline()
        if not line:
            sys.exit("the launcher is gone")
        obey(json.loads(line))
    if deed and (folder / "act").exists():
        if deed == "raise":
            sys.exit(3)
        if deed == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        say(kind="lost", generation=generation, ranks=[int(deed.partition(":")[2])], why=["no answer"])
        deed = ""
tell("done")
