"""``phalanx diverge A B``: the first step at which two run ledgers differ, in what, and by which tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .core.errors import PhalanxError

EQUAL, DIFFER = 0, 1
PARTS = ("loss", "weights", "optimizer", "buffers")
"""What a line of a ledger tells of its step."""
DETAIL = (
    "to learn the tensor, run both again with Ledger(..., detail=True) (examples/fashion_mnist.py: --ledger-detail) and "
    "compare the new ledgers"
)
_SHOWN = 5

Line = dict[str, Any]


def print_divergence(first: str, second: str) -> int:
    """Print where ledger ``first`` and ledger ``second`` differ; 0 when they do not, 1 when they do.

    Steps that only one of them has do not count as a difference, but are told. Raises PhalanxError for a file that is no
    ledger, and for two that have no step in common.
    """
    ours, theirs = read_ledger(first), read_ledger(second)
    common = [step for step in ours if step in theirs]
    if not common:
        raise PhalanxError(f"{first} ({_span(ours)}) and {second} ({_span(theirs)}) have no step in common")
    step = next((step for step in common if differing(ours[step], theirs[step])), None)
    if step is None:
        print(f"equal in all {len(common)} steps that both have")
    else:
        print("\n".join(_story(step, ours[step], theirs[step], (first, second))))
        before = [other for other in common if other < step]
        print(f"equal before: {len(before)} steps" + (f", {before[0]} to {before[-1]}" if before else ""))
    for name, mine, other in ((first, ours, theirs), (second, theirs, ours)):
        missing = [number for number in other if number not in mine]
        if missing:
            print(f"{name} has only {_span(mine)}: {_steps(missing)} of the other ledger cannot be compared")
    return EQUAL if step is None else DIFFER


def read_ledger(path: str) -> dict[int, Line]:
    """Step -> line, in the order of steps. A last line that was cut short by a kill is left out."""
    try:
        texts = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PhalanxError(f"{path}: cannot be read as a ledger: {error}") from None
    lines: dict[int, Line] = {}
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            lines[int(line["step"])] = line
        except (ValueError, KeyError, TypeError):
            if number == len(texts) and lines:
                break
            raise PhalanxError(f"{path}:{number}: not a line of a ledger (phalanx.Ledger): {text[:80]!r}") from None
    if not lines:
        raise PhalanxError(f"{path}: an empty ledger")
    return dict(sorted(lines.items()))


def differing(ours: Line, theirs: Line) -> list[str]:
    """The parts in which two lines of one step differ, to the bit."""
    return [part for part in PARTS if _value(ours, part) != _value(theirs, part)]


def _value(line: Line, part: str) -> str:
    return json.dumps(line.get(part))  # as text: a loss that is not a number equals itself


def _story(step: int, ours: Line, theirs: Line, names: tuple[str, str]) -> list[str]:
    parts = differing(ours, theirs)
    equal = [part for part in PARTS if part not in parts]
    lines = [
        f"step {step} is the first that differs: in {', '.join(parts)}"
        + (f"; equal: {', '.join(equal)}" if equal else "")
    ]
    lines += [f"    {part}: {ours.get(part)} in {names[0]}, {theirs.get(part)} in {names[1]}" for part in parts]
    tensors = [part for part in parts if part != "loss"]
    without = [name for name, line in zip(names, (ours, theirs), strict=True) if "tensors" not in line]
    if tensors and without:
        lines.append(f"{' and '.join(without)} {'holds' if len(without) == 1 else 'hold'} totals only: {DETAIL}")
    elif tensors:
        lines += [_tensors(part, ours["tensors"][part], theirs["tensors"][part]) for part in tensors]
    elif parts == ["loss"]:
        lines.append("    the state after the step is equal: the batch or the loss function differs, not the update")
    return lines


def _tensors(part: str, ours: dict[str, str], theirs: dict[str, str]) -> str:
    names = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    if not names:
        return f"    {part}: the tensors are equal, but not their totals: one of the ledgers was changed"
    first = names[0]
    words = f"    {part}: the first tensor is {first} ({ours.get(first, 'missing')} and {theirs.get(first, 'missing')})"
    more = ", ".join(names[1:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{words}; {len(names)} of {len({*ours, *theirs})} differ" + (f": also {more}" if more else "")


def _span(lines: dict[int, Line]) -> str:
    return _steps(list(lines))


def _steps(steps: list[int]) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
