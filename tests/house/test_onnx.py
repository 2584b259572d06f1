"""ONNX export: onnxruntime gives the outputs of every layer, at batch sizes that the export never saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core.tensor import Tensor
from phalanx.onnx_export.runs import leaves

from .onnx_cases import CASES, NO_LAYERS, REFUSED, Case, Of
from .onnx_models import FUNCTIONS, MODELS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
onnxruntime.set_default_logger_severity(3)


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def agree(path: Path, model: Any, arrays: tuple[np.ndarray, ...], tolerance: float = 1e-5) -> None:
    """The file's outputs are the model's."""
    running = session(path)
    found = running.run(None, {port.name: array for port, array in zip(running.get_inputs(), arrays, strict=True)})
    model.eval()
    with phalanx.no_grad():
        expected = leaves(model(*(Tensor(array.copy()) for array in arrays)))
    assert len(found) == len(expected)
    for mine, theirs in zip(expected, found, strict=True):
        assert mine.array.dtype == theirs.dtype and mine.array.shape == theirs.shape
        np.testing.assert_allclose(theirs, mine.array, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_layer(name: str, tmp_path: Path) -> None:
    case: Case = CASES[name]
    if not hasattr(nn, name.split()[0]):
        pytest.fail(f"nn.{name.split()[0]} is gone: change the table")
    model = case.build()
    example = case.inputs(2)
    axes = {f"x{n}": {case.batch: "batch"} for n in range(len(example))}
    options: dict[str, Any] = {"input_names": list(axes), "dynamic_axes": axes if case.batch else None}
    before = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    phalanx.onnx.export(model, tuple(map(Tensor, example)), tmp_path / "m.onnx", **options)
    assert model.training
    after = {key: value.numpy() for key, value in model.state_dict().items()}
    assert all(np.array_equal(before[key], after[key]) for key in before), "the export changed the model"
    for batch in (2, 5):
        agree(tmp_path / "m.onnx", model, case.inputs(batch))
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert graph.input[0].type.tensor_type.shape.dim[case.batch].dim_param == "batch"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str, tmp_path: Path) -> None:
    function, inputs = FUNCTIONS[name]
    model = Of(lambda _, *xs: function(*xs))
    version = 18 if name == "bits" else 17
    phalanx.onnx.export(model, tuple(map(Tensor, inputs(2))), tmp_path / "m.onnx", opset_version=version)
    for batch in (2, 5):
        agree(tmp_path / "m.onnx", model, inputs(batch))


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str, tmp_path: Path) -> None:
    case, axes = MODELS[name]
    model = case.build()
    inputs = case.inputs(2)
    phalanx.onnx.export(
        model, tuple(map(Tensor, inputs)), tmp_path / "m.onnx", input_names=["x"], dynamic_axes={"x": axes}
    )
    for factors in ({}, {0: 3}, dict.fromkeys(axes, 2), {axis: 1.5 for axis in axes if axis > 1}):
        larger = inputs[0]
        for axis, factor in factors.items():
            size = round(larger.shape[axis] * factor)
            larger = np.take(larger, np.arange(size) % larger.shape[axis], axis)
        agree(tmp_path / "m.onnx", model, (larger,))
    graph = onnx.load(tmp_path / "m.onnx").graph
    found = {axis: dim.dim_param for axis, dim in enumerate(graph.input[0].type.tensor_type.shape.dim) if dim.dim_param}
    assert found == axes
    named = {tensor.name for tensor in graph.initializer}
    assert {name for name, p in model.named_parameters() if p.ndim > 1 and "lstm" not in name} <= named


def test_every_layer_has_a_case() -> None:
    classes = {name for name in dir(nn) if isinstance(getattr(nn, name), type)}
    layers = {name for name in classes if issubclass(getattr(nn, name), nn.Module) and not name.endswith("Loss")}
    tested = {name.split()[0] for name in CASES}
    assert not (missing := layers - tested - NO_LAYERS), f"no ONNX case for {sorted(missing)}"


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    case, words = REFUSED[name]
    with pytest.raises(phalanx.onnx.ExportError, match=words) as caught:
        phalanx.onnx.export(nn.Sequential(case.build()), tuple(map(Tensor, case.inputs(2))), tmp_path / "m.onnx")
    assert "of layer '0'" in str(caught.value)
    assert not list(tmp_path.iterdir())
