"""What the real CuPy refuses before it needs a device, and what it would do: the stand-in is held to both.

    python tests/standin/refusals.py      # where CuPy is installed; without a GPU it shows that the tables are true of the real one

Arrays are made on foreign memory, for which no driver is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

REFUSED = {
    "np.maximum.reduce(a)": NotImplementedError,
    "np.logical_or.reduce(a)": NotImplementedError,
    "np.logical_and.reduce(a)": NotImplementedError,
    "np.minimum.reduce(a)": NotImplementedError,
    "np.maximum.accumulate(a)": NotImplementedError,
    "np.logaddexp.accumulate(a)": NotImplementedError,
    "np.add.reduce(a, axis=0, initial=0)": TypeError,
    "np.sum(a, initial=0)": TypeError,
    "np.max(a, initial=0)": TypeError,
    "a.max(axis=0, initial=0)": TypeError,
    "np.sum(a, where=m)": TypeError,
    "a.sum(where=m)": TypeError,
    "np.var(a, axis=0, mean=b)": TypeError,
    "np.clip(a, 0, 1, dtype=np.float32)": TypeError,
    "np.take(a, i, axis=0, mode='clip')": TypeError,
    "np.add(a, b, out=b, where=True)": TypeError,
    "np.asarray(a)": TypeError,
    "np.array(a)": TypeError,
    "np.ascontiguousarray(a)": TypeError,
    "np.asfortranarray(a)": TypeError,
    "np.require(a)": TypeError,
    "np.lib.stride_tricks.as_strided(a, (2, 2), (4, 4))": TypeError,
    "np.copyto(a, h)": ValueError,
    "a.__setitem__(slice(None), h)": ValueError,
    "a.__setitem__(0, h[0])": ValueError,
    "a.__setitem__(Ellipsis, h)": ValueError,
    "a.__setitem__(0, [1, 2, 3, 4])": ValueError,
    "a.astype(np.float32, casting='unsafe')": TypeError,
    "np.zeros_like(a, subok=False)": TypeError,
    "np.lexsort((i, i))": AttributeError,
    "np.insert(a, 0, 1)": TypeError,
    "np.block([a])": TypeError,
    "np.linalg.matrix_norm(a)": TypeError,
    "np.linalg.vector_norm(a)": TypeError,
    "np.linalg.multi_dot([a, b])": TypeError,
    "np.tensordot(a, b, 1)": ValueError,
    "hash(a)": TypeError,
    "a.flags.writeable": AttributeError,
    "a.ctypes": AttributeError,
    "a.item()": ValueError,
    "cupy.take(h, i)": TypeError,
    "a.set(h[0])": ValueError,
    "a.set(h.astype(np.float64))": TypeError,
    "cupy.nothing": AttributeError,
    "cupy.linalg.nothing": AttributeError,
    "cupy.vecdot(a, a)": AttributeError,
}
"""Expression of a, b (3, 4) float32 and m bool, i (3,) int64 on the device, and h (3, 4) float32 of NumPy -> what is raised."""

DONE = (
    "a.reshape(4, 3)", "a.reshape((2, -1))", "a.T", "a.transpose((1, 0))", "a.view(np.int32)", "a.astype(np.float32, copy=False)",
    "np.broadcast_to(a, (2, 3, 4))", "np.moveaxis(a, 0, 1)", "np.swapaxes(a, 0, 1)", "np.expand_dims(a, 0)", "np.squeeze(a)",
    "np.flip(a, 0)", "np.split(a, 2, axis=1)", "a.ravel()", "np.diagonal(a)", "np.result_type(a, b)", "np.may_share_memory(a, b)",
    "np.ndim(a)", "np.shape(a)", "len(a)", "a[1:, ::2]", "a[None, ..., 0]", "a[:, ::-1]", "a.squeeze()", "a.swapaxes(0, 1)",
    "cupy.split(a, [1, 2], axis=1)", "np.permute_dims(a, (1, 0))", "a.data.ptr", "a.device.id", "a.flags.c_contiguous", "a.nbytes",
)  # fmt: skip
"""Views and questions: done without a device."""

LAUNCHED = (
    "np.add.reduce(a)", "np.add.reduce(a, axis=0, keepdims=True)", "np.multiply.reduce(a)", "np.add.accumulate(a)", "np.add.at(a, i, b)",
    "np.maximum.at(a, i, b)", "np.add.outer(i, i)", "a + np.float32(2)", "np.float32(2) + a", "a > 2", "np.exp(a, out=b)",
    "np.exp(a, where=m)", "np.add(a, b, dtype=np.float64)", "np.sum(a, axis=0, keepdims=True, dtype=np.float64)", "np.concatenate([a, b])",
    "np.stack([a, b])", "np.where(m, a, 0.0)", "np.zeros_like(a)", "np.full_like(a, 2)", "np.empty_like(a, np.int32, shape=(2,))",
    "a[np.array([0, 1])]", "a[[0, 1]]", "a[i]", "a[m]", "a.__setitem__(m, 1.0)", "a.__setitem__(slice(None), 2.0)", "a.take(np.array([0]), axis=0)",
    "np.take_along_axis(a, i[:, None], 1)", "np.bincount(i, minlength=4)", "np.einsum('ij,kj->ik', a, b)", "np.matmul(a, b.T)", "np.dot(a, b.T)",
    "np.linalg.norm(a)", "np.pad(a, ((1, 1), (0, 0)), constant_values=np.float32(2))", "np.copyto(a, b, where=m)", "np.copyto(a, 0)",
    "np.clip(a, None, 1)", "np.isfinite(a).all()", "np.array_equal(a, b)", "np.sort(a)", "np.argsort(a, kind='stable')", "np.partition(a, 1)",
    "np.repeat(a, 2, axis=0)", "np.cumsum(a, axis=0)", "np.cumprod(a, axis=0)", "np.roll(a, 1)", "np.tile(a, 2)", "np.nonzero(a)", "np.unique(i)",
    "np.searchsorted(i, i)", "np.median(a)", "np.quantile(a, 0.5)", "np.var(a, axis=1, ddof=1)", "np.mean(a, dtype=np.float64)", "np.triu(a)",
    "np.outer(i, i)", "np.power(a, 2)", "a**0.5", "np.remainder(a, 2)", "np.ldexp(a, i[:, None].astype(np.int32))", "np.logaddexp(a, b)",
    "np.hypot(a, b)", "np.sinc(a)", "np.nan_to_num(a)", "np.allclose(a, b)", "np.argmax(a, axis=0, keepdims=True)", "a.max(0, keepdims=True)",
    "a.copy(order='K')", "a.fill(2)", "a.mean(-1)", "a.any(axis=0)", "np.unravel_index(i, (3, 4))", "np.append(i, 3)", "np.diff(i)", "np.isin(i, i)",
    "cupy.asarray(h)", "cupy.empty((2,), np.float32)", "cupy.where(m, 1, 0)", "a.__iadd__(b)", "a.__imul__(2)", "np.multiply(a, b, out=b)",
    "np.ones_like(i, dtype=bool)", "a.tolist()", "float(a[0, 0])", "a.get()", "np.flatnonzero(a)", "np.tensordot(a, b.T, 1)", "np.vdot(a, a)",
)  # fmt: skip
"""All else that the project leans on: the real one goes as far as the device."""


def names(cupy: Any) -> dict[str, Any]:
    """What the expressions are about, on foreign memory."""
    held = np.zeros(4096, np.uint8)

    def array(shape: tuple[int, ...], dtype: Any = np.float32, at: int = 0) -> Any:
        memory = cupy.cuda.UnownedMemory(held.ctypes.data, held.nbytes, held, 0)
        return cupy.ndarray(shape, dtype, memptr=cupy.cuda.MemoryPointer(memory, at))

    return {
        "np": np, "cupy": cupy, "a": array((3, 4)), "b": array((3, 4), at=512), "m": array((3, 4), bool, 1024),
        "i": array((3,), np.int64, 1536), "h": np.zeros((3, 4), np.float32),
    }  # fmt: skip


def raised(expression: str, cupy: Any) -> BaseException | None:
    """What the expression raises."""
    try:
        eval(expression, names(cupy))
    except Exception as error:
        return error
    return None


def complaints(cupy: Any, device: bool) -> list[str]:
    """Where this CuPy does otherwise than the tables say. ``device``: whether there is one, or a stand-in."""
    found = []
    for expression, kind in REFUSED.items():
        error = raised(expression, cupy)
        if not isinstance(error, kind):
            found.append(f"{expression}: {kind.__name__} expected, got {error!r}")
    for expression in (*DONE, *LAUNCHED):
        error = raised(expression, cupy)
        driver = any(
            words in str(error) for words in ("cudaErrorInsufficientDriver", "Failure finding")
        )  # or a library
        far = error is None or (not device and expression in LAUNCHED and driver)
        if not far:
            found.append(f"{expression}: {error!r}")
    return found


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))  # beside this file lies the stand-in
    import cupy as real

    print("\n".join(complaints(real, bool(real.is_available()))) or f"true of CuPy {real.__version__}")
