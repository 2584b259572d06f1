"""The options of ``phalanx ckpt``, and which function each action calls."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

_CKPT = "a checkpoint, or a run's folder of them: then the newest"


def add_parser(commands: Any) -> None:
    """Enter ``ckpt`` among the commands."""
    checkpoints = commands.add_parser("ckpt", help="list, show, verify, compare, export or prune checkpoints")
    actions = checkpoints.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    _add(actions, "ls", "one line each, also for damaged ones and leftovers", "listing.list_checkpoints", folder="DIR")
    _add_show(actions)
    _add(
        actions,
        "verify",
        "read every byte of each and compare its checksum; 1 when one is damaged",
        "listing.verify_checkpoints",
        folder="DIR",
    )
    diff = _add(actions, "diff", "say in what two differ; 1 when they do", "comparing.compare", first="A", second="B")
    diff.add_argument("--tensors", action="store_true", help="tensors alone, not step, position, options, ...")
    cat = _add(actions, "cat", "print one tensor", "tensors.cat", folder="CKPT", tensor="TENSOR")
    cat.add_argument("--all", action="store_true", help="every element, not only the first and last ones")
    cat.add_argument("--output", metavar="FILE.npy", help="write it there instead")
    export = _add(
        actions,
        "export",
        "write the weights by the model's names to a safetensors file, which PyTorch loads",
        "tensors.export",
        folder="CKPT",
        output="FILE.safetensors",
    )
    export.add_argument("--model", metavar="NAME", help="which of several models")
    _add_prune(actions)


def _add(actions: Any, action: str, says: str, function: str, **places: str) -> Any:
    parser = actions.add_parser(action, help=says, description=says[0].upper() + says[1:] + ".")
    for name, metavar in places.items():
        parser.add_argument(name, metavar=metavar, help=_CKPT if metavar in ("CKPT", "A", "B") else None)
    parser.set_defaults(call=_call, name="ckpt", function=function)
    return parser


def _add_show(actions: Any) -> None:
    show = _add(
        actions, "show", "what a checkpoint holds: step, position, options, tensors", "listing.show", folder="CKPT"
    )
    show.add_argument("--json", action="store_true", help="the manifest, for programs")


def _add_prune(actions: Any) -> None:
    prune = _add(
        actions,
        "prune",
        "remove checkpoints that no rule keeps; the newest valid one always stays",
        "pruning.prune",
        folder="DIR",
    )
    add = prune.add_argument
    add("--keep", type=int, default=3, metavar="N", help="keep the newest N (default 3)")
    add("--keep-every", type=int, metavar="N", help="keep steps that are multiples of N")
    add("--keep-best", type=int, metavar="N", help="keep the N with the best scores")
    add("--mode", choices=("min", "max"), default="min", help="which scores are best (default min)")
    add("--leftovers", action="store_true", help="remove unfinished saves and superseded checkpoints, too")
    add("--dry-run", action="store_true", help="say what would be removed, and remove nothing")


def _call(options: argparse.Namespace) -> int:
    module, _, function = options.function.partition(".")
    return getattr(importlib.import_module(f".{module}", __package__), function)(options)
