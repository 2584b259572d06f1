"""ZeroMQ: the wire of ``phalanx run``."""

from __future__ import annotations

from .ask import ask
from .finding import Finding, Surroundings

TOPIC = "ZeroMQ"


def check(here: Surroundings) -> list[Finding]:
    answer = ask("zmq", here.python, here.environ)
    fix = "pip install --force-reinstall 'pyzmq>=26,<28'"
    if "pyzmq" not in answer:
        words = f"pyzmq cannot be imported: {answer['error']}"
        return [Finding(TOPIC, "zmq", "error", words, "phalanx run works only with --mpi", fix)]
    found = f"pyzmq {answer['pyzmq']}, libzmq {answer['libzmq']} in {answer['file']}"
    if not answer["curve"]:
        words = f"{found}, built without CURVE"
        means = "connections between hosts cannot be encrypted or authenticated: only jobs of one host are possible"
        return [Finding(TOPIC, "curve", "warning", words, means, f"{fix} (its wheels have CURVE)", answer)]
    how = "messages between hosts are sealed with AES-GCM"
    if not answer["seals"]:
        how = "with CURVE between hosts (pip install 'phalanx[hosts]' encrypts ten times faster)"
    return [Finding(TOPIC, "zmq", "ok", f"{found}; {how}", data=answer)]
