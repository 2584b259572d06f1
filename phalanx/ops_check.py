"""What ``phalanx ops --check`` does: every case of every op, layer, loss and optimizer against differences and PyTorch.

The cases are those of the tests, so that this needs a checkout. An entry without a case is a failure.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .core.errors import PhalanxError
from .core.gradcheck import gradient_error
from .core.graph import apply
from .core.op import TABLE
from .core.tensor import Tensor
from .ops_table import sections

DIFFERENCES, FLOAT64, FLOAT32 = "differences", "float64", "float32"
BOUNDS = {DIFFERENCES: 2e-6, FLOAT64: 1e-9, FLOAT32: 2e-5}
"""Largest ``|a - b| / (1 + |b|)``: of central differences in float64, and beside PyTorch. A case may have a float32 bound of
its own."""
ELEMENTS = 60
"""Elements of an input by which differences of a layer are taken."""
FLOAT32_CONSTANTS = {"Hardsigmoid", "CELU"}
"""Layers in whose float64 PyTorch computes with constants rounded to float32."""


@dataclass
class Result:
    """The worst errors of one entry over its cases."""

    cases: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)

    def note(self, kind: str, error: float, case: Any, bound: float) -> None:
        """Take one comparison; NaN counts as over its bound."""
        self.worst[kind] = max(self.worst.get(kind, 0.0), error) if error == error else error
        if not error <= bound:
            self.over.append(f"{case}: {kind} {error:.1e}, at most {bound:.0e}")


def check(names: Sequence[str] = ()) -> int:
    """Print the worst errors of every entry (or those of ``names``) and the counts; 1 when one is over its bound."""
    tables = _tables()
    checks: dict[str, Callable[[Any, str], Result]] = {
        "ops": _op, "layers": _layer, "losses": _layer, "optimizers": _optimizer,
    }  # fmt: skip
    found = sections()
    unknown = set(names) - {name for rows in found.values() for name in rows}
    if unknown:
        raise PhalanxError(f"phalanx ops lists no {', '.join(sorted(unknown))}")
    counts: list[str] = []
    failures: list[str] = []
    print(f"{'':30} {'cases':>5} {'differences':>12} {'PyTorch f64':>12} {'PyTorch f32':>12}")
    for kind, rows in found.items():
        done: dict[str, Result] = {}
        for name in (name for name in rows if not names or name in names):
            if name in tables.LISTS:
                continue
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                result = done[name] = checks[kind](tables, name)
            failures += [f"{name}: {words}" for words in result.over] if result.cases else [f"{name}: no case"]
            _print_row(name, result)
        if done:
            counts.append(_counted(kind, done))
    print()
    print(*counts, sep="\n")
    print(*(f"FAILED {words}" for words in failures), sep="\n", end="\n" if failures else "")
    return int(bool(failures))


def _print_row(name: str, result: Result) -> None:
    cells = [f"{result.worst[kind]:.1e}" if kind in result.worst else "-" for kind in BOUNDS]
    print(f"{name:30} {result.cases:5} {cells[0]:>12} {cells[1]:>12} {cells[2]:>12}", flush=True)


def _counted(kind: str, done: dict[str, Result]) -> str:
    worst = {k: max((r.worst[k] for r in done.values() if k in r.worst), default=None) for k in BOUNDS}
    words = ", ".join(f"{k} {error:.1e}" for k, error in worst.items() if error is not None)
    return f"{len(done)} {kind}, {sum(r.cases for r in done.values())} cases; worst errors: {words}"


def _tables() -> Any:
    """The tests' own tables, from the checkout that this package lies in."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "tests/core/check_tables.py").exists():
        raise PhalanxError(
            f"ops --check runs the cases in tests/core of a checkout; {root} is none: clone the repository"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        return importlib.import_module("tests.core.check_tables")
    except ImportError as error:
        raise PhalanxError(f"ops --check needs PyTorch and pytest beside the checkout ({error})") from None


def _torch() -> Any:
    """PyTorch, the other side of the comparison."""
    import torch  # noqa: PLC0415 - optional

    return torch


def _off(a: Any, b: Any) -> float:
    """Worst |a - b| / (1 + |b|); equal infinities and NaN beside NaN are no error."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        return float("nan")
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return float(np.where(same, 0.0, np.abs(a - b) / (1 + np.abs(b))).max(initial=0.0))


def _seed(array: Any) -> Any:
    return np.asarray(np.random.default_rng(5).normal(size=array.shape), array.dtype)


def _all_of(value: Any) -> Iterator[Any]:
    """The tensors in nested outputs of either library."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from _all_of(part)
    elif hasattr(value, "requires_grad"):
        yield value


# ---- ops -------------------------------------------------------------------------------------------------------------


def _op(tables: Any, name: str) -> Result:
    result = Result()
    for case in tables.OPS:
        if case.op != name:
            continue
        result.cases += 1
        which = TABLE[name].differentiable
        if which != () and case.wanted() and case.gradient:
            result.note(DIFFERENCES, _op_differences(case), case, BOUNDS[DIFFERENCES])
        elif case.numpy is not None and case.torch is None:
            outputs = _outputs(case, _arrays(case, np.float64))
            expected = case.numpy(*_arrays(case, np.float64))
            expected = expected if isinstance(expected, tuple) else (expected,)
            for out, value in zip(outputs, expected, strict=False):
                result.note(FLOAT64, _off(out.array, value), case, BOUNDS[FLOAT64])
        if case.torch is not None:
            result.note(FLOAT64, _op_beside_torch(case, np.float64), case, BOUNDS[FLOAT64])
            result.note(FLOAT32, _op_beside_torch(case, np.float32), case, case.rtol)
    return result


def _arrays(case: Any, dtype: Any) -> list[Any]:
    return [x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype == np.float64 else x for x in case.inputs]


def _tensors(case: Any, arrays: list[Any]) -> list[Any]:
    wanted = case.wanted()
    return [Tensor(x, requires_grad=i in wanted) if isinstance(x, np.ndarray) else x for i, x in enumerate(arrays)]


def _outputs(case: Any, inputs: list[Any]) -> tuple[Any, ...]:
    made = apply(TABLE[case.op], *(Tensor(x) if isinstance(x, np.ndarray) else x for x in inputs), **case.attributes)
    return made if isinstance(made, tuple) else (made,)


def _op_differences(case: Any) -> float:
    which = TABLE[case.op].differentiable

    def call(*inputs: Any) -> Any:
        outputs = _outputs(case, list(inputs))
        return outputs if which is None else tuple(outputs[k] for k in which)

    return gradient_error(call, _tensors(case, _arrays(case, np.float64)))


def _op_beside_torch(case: Any, dtype: Any) -> float:
    """Worst error of outputs and gradients."""
    torch = _torch()
    arrays = _arrays(case, dtype)
    ours, theirs = _tensors(case, arrays), [torch.tensor(x) if isinstance(x, np.ndarray) else x for x in arrays]
    for i in case.wanted():
        theirs[i].requires_grad_(True)
    expected = tuple(_all_of(case.torch(*theirs)))
    return _compared(_outputs(case, ours), expected, [(ours[i], theirs[i]) for i in case.wanted()])


def _compared(outputs: Sequence[Any], expected: Sequence[Any], leaves: Sequence[tuple[Any, Any]]) -> float:
    torch = _torch()
    worst = 0.0
    for out, other in zip(outputs, expected, strict=False):
        worst = max(worst, _off(out.array, other.detach().numpy()))
        if out.requires_grad and other.requires_grad:
            seed = _seed(out.array)
            out.backward(Tensor(seed), retain_graph=True)
            other.backward(torch.tensor(seed), retain_graph=True)
    for mine, other in leaves:
        if (mine.grad is None) != (other.grad is None):
            return float("nan")
        if mine.grad is not None:
            worst = max(worst, _off(mine.grad.array, other.grad.numpy()))
    return worst


# ---- layers and losses -----------------------------------------------------------------------------------------------


def _layer(tables: Any, name: str) -> Result:
    result = Result()
    for title, (build, *draws) in tables.LAYERS.items():
        if title.split()[0] != name:
            continue
        result.cases += 1
        for dtype, kind in ((np.float64, FLOAT64), (np.float32, FLOAT32)):
            bound = BOUNDS[FLOAT32] if name in FLOAT32_CONSTANTS else BOUNDS[kind]
            result.note(kind, _layer_beside_torch(tables, build, draws, dtype), title, bound)
        mine, arrays = tables.pair(build, np.float64)[0], _drawn(draws, np.float64)
        first = [Tensor(x, requires_grad=x.dtype.kind == "f" and i == 0) for i, x in enumerate(arrays)]
        if first[0].requires_grad:
            error = gradient_error(lambda *x, m=mine: list(_all_of(m(*x))), first, at_most=ELEMENTS)
            result.note(DIFFERENCES, error, title, BOUNDS[DIFFERENCES])
    return result


def _drawn(draws: Sequence[Any], dtype: Any) -> list[Any]:
    generator = np.random.default_rng(5)
    arrays = [make(generator) for make in draws]
    return [x.astype(dtype) if x.dtype.kind == "f" else x for x in arrays]


def _layer_beside_torch(tables: Any, build: Any, draws: Sequence[Any], dtype: Any) -> float:
    """Worst error of outputs, and of gradients of the first input and of all parameters."""
    torch = _torch()
    mine, theirs = tables.pair(build, dtype)
    arrays = _drawn(draws, dtype)
    ours = [Tensor(x, requires_grad=x.dtype.kind == "f" and i == 0) for i, x in enumerate(arrays)]
    others = [torch.tensor(x, requires_grad=x.dtype.kind == "f" and i == 0) for i, x in enumerate(arrays)]
    leaves: list[tuple[Any, Any]] = [(ours[0], others[0]), *zip(mine.parameters(), theirs.parameters(), strict=True)]
    return _compared(list(_all_of(mine(*ours))), list(_all_of(theirs(*others))), leaves)


def _optimizer(tables: Any, name: str) -> Result:
    result = Result()
    for title, (peer, runs, worst) in tables.OPTIMIZERS.items():
        if title.split(",")[0] == name:
            result.cases += runs
            result.note(FLOAT64, worst(), f"100 steps beside {peer}", BOUNDS[FLOAT64])
    return result
