"""Cases of the ops that reduce, move, pick and multiply arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.core.op_cases import Case, booleans, draw, integers, positive

try:
    import torch
except ImportError:
    torch = None

_AXES: list[tuple[tuple[int, ...], Any, bool]] = [
    ((3, 4), None, False), ((3, 4), 0, False), ((3, 4), -1, True), ((2, 3, 4), (0, 2), False), ((2, 3, 4), (0, 2), True),
    ((2, 3), None, True), ((), None, False), ((0, 3), 0, False), ((0, 3), 1, False), ((0, 3), None, False),
]  # fmt: skip


def _torch_reduce(name: str, axis: Any, keepdims: bool) -> Any:
    def call(x: Any) -> Any:
        if axis is None:
            axes = tuple(range(x.ndim))
            return getattr(torch, name)(x, dim=axes, keepdim=keepdims) if x.ndim else getattr(torch, name)(x)
        return getattr(torch, name)(x, dim=axis, keepdim=keepdims)

    return call


def _reductions(
    op: str, numpy: Any, torch: str, make: Any = draw, empty: bool = True, lone: bool = False
) -> list[Case]:
    """An op that reduces; ``empty``: also over nothing; ``lone``: over one axis or all."""
    return [
        Case(
            op, (make(*shape),), {"axis": axis, "keepdims": keep},
            lambda x, a=axis, k=keep: numpy(x, axis=a, keepdims=k), None if lone and axis is None else _torch_reduce(torch, axis, keep),
            name=f"{shape} over {axis}{' kept' if keep else ''}",
        )
        for shape, axis, keep in _AXES
        if (empty or 0 not in shape or axis == 1) and not (lone and (isinstance(axis, tuple)))
    ]  # fmt: skip


def _norm(x: Any, axis: Any, keepdims: bool) -> Any:
    return np.sqrt((x * x).sum(axis=axis, keepdims=keepdims))


def _quiet_mean(x: Any, axis: Any, keepdims: bool) -> Any:
    with np.errstate(invalid="ignore"):
        count = np.size(x) / max(np.size(x.sum(axis=axis)), 1) if np.size(x) else 0.0
        return x.sum(axis=axis, keepdims=keepdims) / count if count else x.sum(axis=axis, keepdims=keepdims) * np.nan


def _best(find: Any) -> Any:
    def reference(x: Any, axis: int, keepdims: bool = False) -> tuple[Any, Any]:
        indices = find(x, axis=axis, keepdims=True)
        values = np.take_along_axis(x, indices, axis)
        return (values, indices) if keepdims else (values.squeeze(axis), indices.squeeze(axis))

    return reference


REDUCE = [
    *_reductions("sum", np.sum, "sum"),
    *_reductions("mean", _quiet_mean, "mean"),
    *_reductions("amax", np.max, "amax", empty=False),
    *_reductions("amin", np.min, "amin", empty=False),
    Case("amax", (np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]),), {"axis": 1}, lambda x: x.max(1), lambda x: x.amax(1),
         name="ties share", gradient=False),
    *_reductions("prod", np.prod, "prod", lone=True),
    Case("prod", (np.array([[1.0, 0.0, 3.0], [0.0, 2.0, 0.0]]),), {"axis": 1}, lambda x: x.prod(1), lambda x: x.prod(1), name="zeros"),
    *_reductions("norm", _norm, "norm", lone=True),
    Case("norm", (np.zeros((2, 3)),), {"axis": 1}, lambda x: x.sum(1), lambda x: x.norm(dim=1), name="of zeros", gradient=False),
    *[
        Case(op, (draw(*shape),), {"axis": axis, "keepdims": keep}, lambda x, f=find, a=axis, k=keep: _best(f)(x, a, k),
             lambda x, n=op, a=axis, k=keep: tuple(getattr(torch, n)(x, a, k)), name=f"{shape} over {axis}{' kept' if keep else ''}")
        for op, find in (("max", np.argmax), ("min", np.argmin))
        for shape, axis, keep in [((3, 4), 0, False), ((3, 4), 1, True), ((2, 3, 4), 1, False), ((0, 3), 1, False)]
    ],
    *[
        Case(op, (draw(),), {"axis": 0}, lambda x: (x, 0), lambda x, n=op: tuple(getattr(torch, n)(x, 0)), name="0-d") for op in ("max", "min")
    ],
    *[
        Case("cumsum", (draw(*shape),), {"axis": axis}, lambda x, a=axis: np.cumsum(x, a), lambda x, a=axis: torch.cumsum(x, a))
        for shape, axis in [((3, 4), 0), ((3, 4), 1), ((0, 3), 0), ((2, 3, 2), 1)]
    ],
    Case("cumsum", (draw(),), {"axis": 0}, lambda x: x, lambda x: torch.cumsum(x, 0), name="0-d"),
    *[
        Case(op, (draw(*shape),), {"axis": axis, "keepdims": keep}, lambda x, n=op, a=axis, k=keep: getattr(np, n)(x, axis=a, keepdims=k),
             lambda x, n=op, a=axis, k=keep: getattr(torch, n)(x, a, keepdim=k), name=f"{shape} over {axis}{' kept' if keep else ''}")
        for op in ("argmax", "argmin")
        for shape, axis, keep in [((3, 4), 0, False), ((3, 4), 1, True), ((3, 4), None, False), ((0, 3), 1, False)]
    ],
    *[
        Case(op, (booleans(*shape),), {"axis": axis, "keepdims": keep}, lambda x, n=op, a=axis, k=keep: getattr(np, n)(x, axis=a, keepdims=k),
             _torch_reduce(op, axis, keep) if axis is not None else None, name=f"{shape} over {axis}")
        for op in ("any", "all")
        for shape, axis, keep in _AXES
    ],
    *[
        Case("argsort", (draw(*shape),), {"axis": axis, "descending": down},
             lambda x, a=axis, d=down: np.argsort(-x if d else x, axis=a, kind="stable"),
             lambda x, a=axis, d=down: torch.argsort(x, dim=a, descending=d, stable=True), name=f"{shape} {axis} {down}")
        for shape, axis in [((3, 4), 0), ((3, 4), 1), ((0, 3), 0)] for down in (False, True)
    ],
    Case("argsort", (np.array([2.0, 1.0, 2.0, 1.0]),), {"descending": True}, lambda x: np.array([0, 2, 1, 3]),
         lambda x: torch.argsort(x, descending=True, stable=True), name="stable downwards"),
]  # fmt: skip

SHAPE = [
    *[
        Case("reshape", (draw(*old),), {"shape": new}, lambda x, s=new: x.reshape(s), lambda x, s=new: x.reshape(s), name=f"{old} to {new}")
        for old, new in [((3, 4), (12,)), ((3, 4), (2, -1)), ((), (1, 1)), ((1,), ()), ((0, 3), (3, 0)), ((2, 3, 4), (6, 4))]
    ],
    *[
        Case("permute", (draw(*shape),), {"axes": axes}, lambda x, a=axes: x.transpose(a), lambda x, a=axes: x.permute(a))
        for shape, axes in [((2, 3, 4), (2, 0, 1)), ((2, 3), (1, 0)), ((), ()), ((0, 3), (1, 0)), ((2, 3, 4, 2), (3, 1, 0, 2))]
    ],
    *[
        Case("transpose", (draw(*shape),), {"dim0": a, "dim1": b}, lambda x, a=a, b=b: x.swapaxes(a, b), lambda x, a=a, b=b: x.transpose(a, b))
        for shape, a, b in [((2, 3, 4), 0, 2), ((2, 3), -1, -2), ((0, 3), 0, 1)]
    ],
    *[
        Case("expand", (draw(*old),), {"shape": new}, lambda x, s=full: np.broadcast_to(x, s), lambda x, s=new: x.expand(s), name=f"{old} to {new}")
        for old, new, full in [((3, 1), (3, 4), (3, 4)), ((3,), (2, 3), (2, 3)), ((2, 1), (5, -1, 4), (5, 2, 4)), ((), (2,), (2,)), ((1,), (0,), (0,))]
    ],
    *[
        Case("cat", tuple(draw(*s) for s in shapes), {"axis": axis}, lambda *xs, a=axis: np.concatenate(xs, a),
             lambda *xs, a=axis: torch.cat(xs, a), name=f"{shapes} {axis}")
        for shapes, axis in [([(2, 3), (4, 3)], 0), ([(2, 3), (2, 1), (2, 2)], -1), ([(0, 3), (2, 3)], 0), ([(2, 3)], 1)]
    ],
    Case("cat", (draw(0), draw(2, 3)), {"axis": 1}, lambda a, b: b, lambda a, b: torch.cat([a, b], 1), name="nothing joins anything"),
    *[
        Case("stack", tuple(draw(*shape) for _ in range(count)), {"axis": axis}, lambda *xs, a=axis: np.stack(xs, a),
             lambda *xs, a=axis: torch.stack(xs, a), name=f"{count} {shape} {axis}")
        for shape, count, axis in [((2, 3), 3, 0), ((2, 3), 2, -1), ((), 2, 0), ((0, 2), 2, 1)]
    ],
    *[
        Case("flip", (draw(*shape),), {"axes": axes}, lambda x, a=axes: np.flip(x, a), lambda x, a=axes: x.flip(a))
        for shape, axes in [((2, 3), (0,)), ((2, 3, 4), (0, 2)), ((0, 3), (0,))]
    ],
]  # fmt: skip

_KEYS: list[tuple[tuple[int, ...], Any]] = [
    ((4, 5), 1), ((4, 5), -1), ((4, 5), slice(1, 3)), ((4, 5), (slice(None), 2)), ((4, 5), (Ellipsis, slice(None, None, 2))),
    ((4, 5), (None, slice(2), None)), ((4, 5, 3), (1, Ellipsis, 2)), ((4,), ()), ((4, 5), np.array([0, 2, 2])),
    ((4, 5), np.array([[0, 3], [-1, 0]])), ((4, 5), (np.array([0, 1, 1]), np.array([2, 2, 2]))), ((4,), np.array([3, 3, 0])),
    ((4, 5), (slice(None), np.array([1, 1, 4]))), ((4, 5, 3), (np.array([0, 0]), slice(1, 3), np.array([2, 2]))),
    ((4, 5), np.array([True, False, True, True])), ((2, 2), np.array([[True, False], [True, True]])),
    ((4, 5), np.array([], np.int64)), ((0, 3), slice(None)), ((4, 5), np.zeros(4, bool)), ((4, 5), (np.array([1, 2]), None, slice(2))),
]  # fmt: skip


def _torch_key(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_torch_key(part) for part in key)
    return torch.as_tensor(key) if isinstance(key, np.ndarray) else key


def _gathered(x: Any, axis: int, index: Any) -> Any:
    out = np.zeros(index.shape)
    for place in np.ndindex(index.shape):
        out[place] = x[(*place[:axis], index[place], *place[axis + 1 :])]
    return out


INDEXING = [
    *[
        Case("index", (draw(*shape),), {"key": key}, lambda x, k=key: x[k],
             lambda x, k=key: x[_torch_key(k)], name=f"{shape}[{number}]")
        for number, (shape, key) in enumerate(_KEYS)
    ],
    *[
        Case("index_select", (draw(*shape),), {"axis": axis, "index": index}, lambda x, a=axis, i=index: np.take(x, i, a),
             lambda x, a=axis, i=index: torch.index_select(x, a, torch.as_tensor(i)), name=f"{shape} {axis} {index.tolist()}")
        for shape, axis, index in [
            ((4, 5), 0, np.array([0, 2, 2])), ((4, 5), 1, np.array([4, 4, 0])), ((2, 3, 4), 1, np.array([1, 1])),
            ((4,), 0, np.array([1, 1, 3])), ((4, 5), 0, np.array([], np.int64)), ((4, 0), 0, np.array([1])),
        ]
    ],
    *[
        Case("gather", (draw(*shape),), {"axis": axis, "index": index}, lambda x, a=axis, i=index: _gathered(x, a, i),
             lambda x, a=axis, i=index: torch.gather(x, a, torch.as_tensor(i)), name=f"{shape} {axis} {index.shape}")
        for shape, axis, index in [
            ((3, 4), 0, integers(5, 4, high=3)), ((3, 4), 1, integers(3, 2, high=4)), ((3, 4), 1, integers(2, 6, high=4)),
            ((3, 4), 0, integers(0, 4, high=3)),
        ]
    ],
]  # fmt: skip

MATMUL = [
    Case("matmul", (draw(*a), draw(*b)), {}, np.matmul, lambda a, b: a @ b, rtol=1e-4)
    for a, b in [
        ((3, 4), (4, 5)), ((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)), ((3, 4), (2, 4, 5)), ((2, 3, 4), (4,)), ((4,), (2, 4, 5)), ((0, 4), (4, 5)),
        ((3, 0), (0, 5)), ((2, 0, 4), (4, 5)), ((3, 4), (4, 0)), ((0, 3, 4), (4, 2)), ((1, 3, 4), (2, 4, 5)),
    ]
]  # fmt: skip


def _frame(x: Any, widths: Any, value: float) -> Any:
    cut = x[tuple(slice(max(0, -lo), size - max(0, -hi)) for (lo, hi), size in zip(widths, x.shape, strict=True))]
    return np.pad(cut, [(max(0, lo), max(0, hi)) for lo, hi in widths], constant_values=value)


PAD = [
    Case("pad", (draw(*shape),), {"widths": widths, "value": value}, lambda x, w=widths, v=value: _frame(x, w, v),
         lambda x, w=widths, v=value: torch.nn.functional.pad(x, [n for pair in w[::-1] for n in pair], value=v),
         name=f"{shape} by {widths} of {value}", gradient=value > -1)
    for shape, widths, value in [
        ((2, 3), ((0, 0), (1, 2)), 0.0), ((2, 3), ((1, 0), (0, 1)), 1.5), ((3, 4), ((-1, 0), (2, -1)), 0.0),
        ((0, 3), ((0, 0), (1, 1)), 0.0), ((2, 2, 2), ((0, 0), (1, 1), (1, 1)), -np.inf),
    ]
]  # fmt: skip

EMPTY = [
    Case("adaptive_avg_pool2d", (draw(0, 3, 4, 4),), {"output_size": (2, 2)}, lambda x: x[:, :, :2, :2],
         lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 2), name="no samples"),
    Case("batch_norm_train", (draw(0, 3, 4, 4), positive(3), draw(3)), {}, lambda x, *_: x, None, name="no samples"),
    Case("expand", (draw(0, 1),), {"shape": (0, 3)}, lambda x: np.zeros((0, 3)), lambda x: x.expand(0, 3), name="empty"),
    Case("gather", (draw(0, 3),), {"axis": 1, "index": np.zeros((0, 2), np.int64)}, lambda x: x[:, :2],
         lambda x: torch.gather(x, 1, torch.zeros(0, 2, dtype=torch.int64)), name="empty"),
]  # fmt: skip

CASES = [*REDUCE, *SHAPE, *INDEXING, *MATMUL, *PAD, *EMPTY]
