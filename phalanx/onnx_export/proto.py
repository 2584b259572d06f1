"""The one file that knows the packages onnx and onnxruntime: nodes and tensors to a file that its checker passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


class Body(NamedTuple):
    """What an operator repeats: a graph as an attribute, which also sees the names around it."""

    nodes: Sequence[Node]
    inputs: Sequence[Port]
    outputs: Sequence[Port]


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


@dataclass(frozen=True)
class Page:
    """All of an ONNX file."""

    nodes: Sequence[Node]
    tensors: Mapping[str, np.ndarray]
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    opset: int


def write(page: Page, path: Path, apart: bool | None, judge: Callable[[Any], None] | None) -> None:
    """Check the graph, let ``judge`` run it (bytes, or the path of a file), and write it.

    ``apart``: weights in ``path`` + ".data"; None: if they are too large for one file.
    """
    onnx = package()
    if apart is None:
        apart = sum(array.nbytes for array in page.tensors.values()) > MOST_NBYTES
    data = path.with_name(path.name + ".data")
    model = _model(onnx, page)
    views = _add_tensors(onnx, model.graph, page.tensors, data.name if apart else None)
    text = model.SerializeToString()
    if not apart:
        onnx.checker.check_model(model, full_check=True)
        if judge is not None:
            judge(text)
        write_whole(path, [text])
        return
    write_whole(data, views)
    write_whole(path, [text])
    try:
        onnx.checker.check_model(str(path))
        if judge is not None:
            judge(str(path))
    except BaseException:
        path.unlink()
        data.unlink()
        raise


def _model(onnx: Any, page: Page) -> Any:
    helper = onnx.helper
    graph = _graph(helper, "phalanx", page)
    opsets = [helper.make_opsetid("", page.opset)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="phalanx", producer_version=__version__)
    model.ir_version = helper.find_min_ir_version_for(opsets)
    return model


def _graph(helper: Any, name: str, page: Page | Body) -> Any:
    def ports(row: Sequence[Port]) -> list[Any]:
        return [helper.make_tensor_value_info(port.name, element_type(port.dtype), port.shape) for port in row]

    nodes = []
    for n in page.nodes:
        attributes = {k: _graph(helper, n.name, v) if isinstance(v, Body) else v for k, v in n.attributes.items()}
        nodes.append(helper.make_node(n.kind, n.inputs, n.outputs, name=n.name, **attributes))
    return helper.make_graph(nodes, name, ports(page.inputs), ports(page.outputs))


def session(model: Any) -> Any | None:
    """onnxruntime with ``model`` on the processor; None where onnxruntime is not installed. Raises ExportError if it refuses."""
    try:
        import onnxruntime  # noqa: PLC0415 - optional library, owned by this file
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes, which are no more than names
        raise ExportError(f"onnxruntime cannot run the graph (verify=False writes it all the same): {error}") from error


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
