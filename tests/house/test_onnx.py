"""ONNX export: onnxruntime gives the outputs of every layer, at batch sizes that the export never saw."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core.errors import RangeError
from phalanx.core.op import TABLE
from phalanx.core.tensor import Tensor
from phalanx.onnx_export import rules as rules
from phalanx.onnx_export.example import Example
from phalanx.onnx_export.rule import RULES
from phalanx.onnx_export.runs import leaves, run

from . import onnx_models
from .onnx_cases import CASES, NO_LAYERS, REFUSED, Case, Of, floats, labels
from .onnx_models import FUNCTIONS, MODELS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
onnxruntime.set_default_logger_severity(3)


WITHOUT = {
    "cross_entropy", "nll_loss", "mse_loss", "bce_with_logits", "binary_cross_entropy", "ctc", "batch_norm_train_sync",
    "sync_batch_norm", "gather_over_shards", "index_put", "scatter_reduce", "cumprod", "cummax", "cummin",
    "logcumsumexp", "erfinv", "lgamma", "digamma", "nextafter", "bitwise_left_shift", "bitwise_right_shift", "gcd", "lcm", "inv",
    "solve", "cholesky", "slogdet", "eigh", "svd", "qr", "batch_norm_relu", "batch_norm_relu_pool", "relu_pool",
    "lower", "batch_norm_add_relu", "dropout_draw", "linear_cross_entropy",
}  # fmt: skip
"""Ops that ONNX has no words for, that no model needs after training, or that an export sees the parts of."""


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
    options: dict[str, Any] = {"verify": False, "input_names": list(axes), "dynamic_axes": axes if case.batch else None}
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
    phalanx.onnx.export(model, tuple(map(Tensor, inputs(2))), tmp_path / "m.onnx", opset_version=version, verify=False)
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


def in_torch() -> Any:
    """onnx_models.py with PyTorch's imports instead of ours."""
    path = Path(__file__).with_name("onnx_models.py")
    text = path.read_text().replace("import phalanx\n", "import torch as phalanx\n")
    text = text.replace("from phalanx import nn\n", "from torch import nn\n")
    module = types.ModuleType(f"{__package__}.onnx_models_in_torch")
    module.__package__ = __package__
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


@pytest.mark.torch
@pytest.mark.parametrize(
    "name, options", [("ResNet18", {"width": 16}), ("ResNet18", {"width": 64}), ("Words", {}), ("GPT", {})]
)
def test_from_pytorch_to_onnxruntime(name: str, options: dict[str, int], tmp_path: Path) -> None:
    """Weights by safetensors into our model of the same text, exported, run: PyTorch's outputs."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_model

    torch.manual_seed(3)
    theirs = getattr(in_torch(), name)(**options).eval()
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
    save_model(theirs, str(tmp_path / "m.safetensors"))
    model = getattr(onnx_models, name)(**options)
    phalanx.load_into(model, tmp_path / "m.safetensors")
    draw = floats(3, 32, 48) if name == "ResNet18" else labels(40, 9)
    phalanx.onnx.export(model, Tensor(draw(1)[0]), tmp_path / "m.onnx", verify=False)
    running = session(tmp_path / "m.onnx")
    (x,) = draw(3)
    (found,) = running.run(None, {running.get_inputs()[0].name: x})
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_every_layer_has_a_case() -> None:
    classes = {name for name in dir(nn) if isinstance(getattr(nn, name), type)}
    layers = {name for name in classes if issubclass(getattr(nn, name), nn.Module) and not name.endswith("Loss")}
    layers -= {name for name in layers if name.startswith("Lazy")}  # at the first batch they become the others
    tested = {name.split()[0] for name in CASES}
    assert not (missing := layers - tested - NO_LAYERS), f"no ONNX case for {sorted(missing)}"


def test_every_rule_has_a_case() -> None:
    """Every rule is used by some layer or function; every op without a rule is known to be without one."""
    used = set()
    models = [(case.build(), case.inputs(2)) for case in CASES.values()]
    models += [(Of(lambda _, *xs, f=function: f(*xs)), inputs(2)) for function, inputs in FUNCTIONS.values()]
    for model, inputs in models:
        used |= {call.op for call in run(model.eval(), Example(inputs, {}), inputs).calls}
    assert not (unused := RULES.keys() - used - {"dropout", "clone", "to_device", "take_rows", "put_rows"}), (
        f"no case for {sorted(unused)}"
    )
    assert not (missing := used - RULES.keys()), f"no rule for {sorted(missing)}"
    assert not (new := TABLE.keys() - RULES.keys() - WITHOUT), (
        f"ops {sorted(new)}: give them a rule or enter them in WITHOUT"
    )


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    case, words = REFUSED[name]
    inputs = tuple(map(Tensor, case.inputs(2)))
    before = {op: op.forward for op in TABLE.values()}
    model = nn.Sequential(case.build())
    with pytest.raises(phalanx.onnx.ExportError, match=words) as caught:
        phalanx.onnx.export(model, inputs, tmp_path / "m.onnx")
    if "op '" in str(caught.value):
        assert "of layer '0" in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert model.training and not model._forward_hooks and not model._forward_pre_hooks
    assert all(op.forward is forward for op, forward in before.items())


def test_a_size_that_stays_fixed_is_told(tmp_path: Path, capsys: Any) -> None:
    def forward(_: Any, x: Any) -> Any:
        return x * 2 if x.shape[0] == 2 else x.relu()

    path, x = tmp_path / "m.onnx", phalanx.randn(2, 3)
    phalanx.onnx.export(Of(forward), x, path)
    assert "the batch size is fixed: with inputs of other sizes the model runs other ops" in capsys.readouterr().err
    agree(path, Of(forward), (x.array,))
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    with pytest.raises(phalanx.onnx.ExportError, match="runs other ops"):
        phalanx.onnx.export(Of(forward), x, path, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
    made = Of(lambda _, x: phalanx.tensor(np.arange(3.0 * x.shape[0]) ** 2))
    phalanx.onnx.export(made, x, path)
    assert "a constant whose shape follows from the input's" in capsys.readouterr().err
    phalanx.onnx.export(nn.ReLU(), x, path, dynamic_axes={})
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    with pytest.raises(phalanx.onnx.ExportError, match="takes no other size of 'c' than 3"):
        phalanx.onnx.export(nn.Linear(3, 2), x, path, dynamic_axes={"input": {1: "c"}})


class Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Any, scale: float, other: Any = None, *, shift: Any = None) -> Any:
        y = self.fc(x) * scale + (0 if other is None else other) + shift
        return {"y": y, "pair": (x, self.fc.weight, None), "again": y}


def test_arguments_and_outputs(tmp_path: Path) -> None:
    model, path = Many(), tmp_path / "m.onnx"
    x, shift = phalanx.randn(4, 3), phalanx.randn(4, 2)
    phalanx.onnx.export(
        model, (x, 0.5, None), path, kwargs={"shift": shift}, output_names=["y", "x2", "w", "again"], verify=True
    )
    running = session(path)
    assert [port.name for port in running.get_inputs()] == ["x", "shift"]
    y, same, weight, again = running.run(["y", "x2", "w", "again"], {"x": x.array, "shift": shift.array})
    np.testing.assert_allclose(y, model(x, 0.5, shift=shift)["y"].detach().numpy(), atol=1e-6)
    np.testing.assert_array_equal(same, x.array)
    np.testing.assert_array_equal(weight, model.fc.weight.array)
    np.testing.assert_array_equal(again, y)


def test_arguments_in_tuples(tmp_path: Path) -> None:
    lstm = nn.LSTM(3, 5)
    x, h, c = phalanx.randn(4, 2, 3), phalanx.randn(1, 2, 5), phalanx.randn(1, 2, 5)
    axes = {"input": {0: "steps", 1: "batch"}, "hx_0": {1: "batch"}, "hx_1": {1: "batch"}}
    phalanx.onnx.export(lstm, (x, (h, c)), tmp_path / "m.onnx", dynamic_axes=axes)
    running = session(tmp_path / "m.onnx")
    assert {port.name: port.shape for port in running.get_inputs()} == {
        "input": ["steps", "batch", 3], "hx_0": [1, "batch", 5], "hx_1": [1, "batch", 5],
    }  # fmt: skip
    given = [phalanx.randn(7, 3, 3), phalanx.randn(1, 3, 5), phalanx.randn(1, 3, 5)]
    found = running.run(None, dict(zip(axes, (t.array for t in given), strict=True)))
    for mine, theirs in zip(leaves(lstm(given[0], (given[1], given[2]))), found, strict=True):
        np.testing.assert_allclose(theirs, mine.detach().numpy(), atol=1e-6)


def test_weights_apart(tmp_path: Path, monkeypatch: Any) -> None:
    model = nn.Sequential(nn.Linear(300, 40), nn.ReLU(), nn.Linear(40, 30))
    x = phalanx.randn(2, 300)
    monkeypatch.setattr("phalanx.onnx_export.proto.MOST_NBYTES", 10_000)
    phalanx.onnx.export(model, x, tmp_path / "m.onnx", verify=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx").stat().st_size < 5000 < 48_000 < (tmp_path / "m.onnx.data").stat().st_size
    agree(tmp_path / "m.onnx", model, (x.array,))
    phalanx.onnx.export(model, x, tmp_path / "one.onnx", external_data=False)
    assert not (tmp_path / "one.onnx.data").exists()


def test_a_model_in_data_parallel(tmp_path: Path) -> None:
    model = phalanx.DataParallel(nn.Linear(3, 2))
    phalanx.onnx.export(model, phalanx.randn(2, 3), tmp_path / "m.onnx", export_params=True, do_constant_folding=True)
    assert {tensor.name for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer} == {"weight", "bias"}
    phalanx.shutdown()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats(dtype: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3), nn.Softmax(-1)).to(
        np.dtype(dtype)
    )
    x = phalanx.randn(2, 4).to(dtype)
    phalanx.onnx.export(model, x, tmp_path / "m.onnx", verify=True)
    (port,) = session(tmp_path / "m.onnx").get_outputs()
    assert port.type == {"float16": "tensor(float16)", "float64": "tensor(double)"}[dtype]


def test_a_model_after_training(tmp_path: Path) -> None:
    """Parameters that lie in a flat store, and a frozen one."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].weight.requires_grad = False
    optimizer = phalanx.optim.Adam(filter(lambda p: p.requires_grad, model.parameters()), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(phalanx.randn(5, 3)).square().sum().backward()
        optimizer.step()
    phalanx.onnx.export(model, phalanx.randn(2, 3), tmp_path / "m.onnx")
    agree(tmp_path / "m.onnx", model, floats(3)(7))
    assert {name for name, _ in model.named_parameters()} <= {
        t.name for t in onnx.load(tmp_path / "m.onnx").graph.initializer
    }
    assert all(p.grad is not None or not p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("version", [17, 18, 20, 21, 23])
def test_versions(version: int, tmp_path: Path) -> None:
    model = Of(lambda m, x: (m.c(x).mean((2, 3)), x.prod(1), x.amax((1, 2))), c=nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Upsample(scale_factor=2)))  # fmt: skip
    x = phalanx.randn(2, 1, 5, 5)
    phalanx.onnx.export(model, x, tmp_path / "m.onnx", opset_version=version, verify=True)
    assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == version


@pytest.mark.parametrize(
    "options, words",
    [
        ({"opset_version": 16}, "17 to 23, got 16"),
        ({"export_params": False}, "the parameters are part of the file"),
        ({"input_names": ["a", "b"]}, r"1 different input_names expected \(for input\)"),
        ({"output_names": ["a", "b"]}, "1 different output_names expected"),
        ({"output_names": ["weight"]}, "is taken"),
        ({"dynamic_axes": {"input": {2: "x"}}}, r"dimension 2 of input, whose shape is \(2, 3\)"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(RangeError, match=words):
        phalanx.onnx.export(nn.Linear(3, 2), phalanx.randn(2, 3), tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_without_the_packages(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(phalanx.onnx.ExportError, match="verify=True needs onnxruntime"):
        phalanx.onnx.export(nn.Linear(3, 2), phalanx.randn(2, 3), tmp_path / "m.onnx", verify=True)
    phalanx.onnx.export(nn.Linear(3, 2), phalanx.randn(2, 3), tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(phalanx.onnx.ExportError, match="needs the onnx package: pip install"):
        phalanx.onnx.export(nn.Linear(3, 2), phalanx.randn(2, 3), tmp_path / "n.onnx")
