"""The arguments of ``phalanx tune``; the work is in ``tune.py``, which the launcher does without."""

from __future__ import annotations

import argparse
import importlib
from typing import Any


def add_tune(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "tune",
        help="time this GPU's algorithms for matrix products and keep the fastest",
        description="Time the candidates of cuBLASLt for the forward and backward of layers, and write the fastest to a table that "
        "every later run on such a card uses. All ranks need equal tables: bits depend on them.",
    )
    add = parser.add_argument
    add("layers", nargs="*", metavar="ROWSxINxOUT", help="linear layers, as linear:, gelu: or relu:ROWSxINxOUT")
    add("--feed-forward", action="append", default=[], metavar="ROWSxINxHIDDENxOUT", help="two layers, GELU between")
    add("--gpt2", metavar="BATCHxCONTEXT", help="all linear layers of GPT-2 124M")
    add("--dtype", default="bfloat16", help="bfloat16, float16, float32 or float64 (default bfloat16)")
    add("--repeat", type=int, default=20, metavar="N", help="runs that are timed together (default 20)")
    add("--out", metavar="DIR", help="folder of the table (default: phalanx's own)")
    parser.set_defaults(call=_tune, name="tune")


def _tune(options: argparse.Namespace) -> int:
    return importlib.import_module(".tune", __package__).run(options)
