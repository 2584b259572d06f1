"""The one file that knows the onnx package: nodes and tensors to a file that its checker passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..core.checkpoint.format import byte_view
from ..model_io.writing import write_whole
from .errors import ExportError

MOST_NBYTES = 1_900_000_000
"""A protobuf message holds less than 2 GiB: above this the weights go to a file of their own."""
_ALIGNMENT_NBYTES = 4096


class Port(NamedTuple):
    """An input or output of the graph; a size is a number, a name, or None where it is neither."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str | None, ...]


class Node(NamedTuple):
    """One ONNX operator."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


def package() -> Any:
    """The onnx package. Raises ExportError that says how to install it."""
    try:
        import onnx  # noqa: PLC0415 - optional library, owned by this file
    except ImportError as error:
        raise ExportError('export needs the onnx package: pip install "phalanx[onnx]"') from error
    return onnx


def element_type(dtype: Any) -> int:
    """ONNX's number of a NumPy dtype."""
    return int(package().helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def write(
    path: Path,
    nodes: Sequence[Node],
    tensors: Mapping[str, np.ndarray],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    opset: int,
    apart: bool | None,
) -> None:
    """Check the graph and write it; ``apart``: weights in ``path`` + ".data" (None: if they are too large for one file)."""
    onnx = package()
    if apart is None:
        apart = sum(array.nbytes for array in tensors.values()) > MOST_NBYTES
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node(n.kind, n.inputs, n.outputs, name=n.name, **n.attributes) for n in nodes],
        "phalanx",
        [helper.make_tensor_value_info(p.name, element_type(p.dtype), p.shape) for p in inputs],
        [helper.make_tensor_value_info(p.name, element_type(p.dtype), p.shape) for p in outputs],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="phalanx", producer_version=__version__)
    model.ir_version = helper.find_min_ir_version_for(opsets)
    data = path.with_name(path.name + ".data")
    views = _add_tensors(onnx, model.graph, tensors, data.name if apart else None)
    if apart:
        write_whole(data, views)
        write_whole(path, [model.SerializeToString()])
        onnx.checker.check_model(str(path))
        return
    onnx.checker.check_model(model, full_check=True)
    write_whole(path, [model.SerializeToString()])


def _add_tensors(onnx: Any, graph: Any, tensors: Mapping[str, np.ndarray], file: str | None) -> list[Any]:
    """Enter the initializers; with ``file`` they tell where in it they lie, and their bytes are returned."""
    views: list[Any] = []
    end = 0
    for name, array in tensors.items():
        tensor = graph.initializer.add(name=name, data_type=element_type(array.dtype), dims=array.shape)
        view = byte_view(array)
        if file is None or array.nbytes < 1024:  # sizes and axes stay where shape inference reads them
            tensor.raw_data = bytes(view)
            continue
        padding = -end % _ALIGNMENT_NBYTES
        views += [b"\0" * padding, view]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", end + padding), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        end += padding + array.nbytes
    return views
