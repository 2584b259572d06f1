"""Whole models as folders: what is saved is built again, whatever it was built of; what cannot be is told when it is saved."""

from __future__ import annotations

import copy
import json
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core.errors import CheckpointError, DTypeError, StateError
from phalanx.core.tensor import Tensor
from phalanx.onnx_export.runs import leaves

from . import saved_classes
from .onnx_cases import CASES, Of

F = nn.functional


def outputs(model: Any, arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    model.eval()
    with phalanx.no_grad():
        return [tensor.array for tensor in leaves(model(*(Tensor(array.copy()) for array in arrays)))]


def again(model: Any, folder: Path, **options: Any) -> Any:
    """Saved, and loaded."""
    phalanx.save_model(model, folder)
    return phalanx.load_model(folder, **options)


def assert_twins(model: Any, twin: Any) -> None:
    first, second = model.state_dict(), twin.state_dict()
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(first[name].array, second[name].array, err_msg=name)
    kinds = [[(name, type(layer), layer.extra_repr()) for name, layer in m.named_modules()] for m in (model, twin)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if hasattr(nn, name.split()[0])])
def test_every_layer(name: str, tmp_path: Path) -> None:
    model, arrays = CASES[name].build(), CASES[name].inputs(2)
    if isinstance(model, Of):
        for child in model.children():
            assert_twins(child, again(child, tmp_path / "m"))
        return
    twin = again(model, tmp_path / "m")
    assert_twins(model, twin)
    for mine, theirs in zip(outputs(model, arrays), outputs(twin, arrays), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_every_loss(tmp_path: Path) -> None:
    names = [name for name in dir(nn) if name.endswith("Loss")]
    assert len(names) >= 7
    for name in names:
        loss = getattr(nn, name)()
        assert_twins(loss, again(loss, tmp_path / name))
    weighted = nn.CrossEntropyLoss(phalanx.tensor([0.1, float("inf"), 3.0]), label_smoothing=0.1)
    twin = again(weighted, tmp_path / "weighted")
    np.testing.assert_array_equal(twin.weight.array, weighted.weight.array)
    assert twin.label_smoothing == 0.1


def replaced() -> Any:
    model = saved_classes.Stack(3, 4, 2)
    model[1] = nn.Sequential(nn.Linear(4, 10), nn.Tanh())
    model.append(nn.Linear(10, 1))
    return model


def lazy() -> Any:
    model = saved_classes.Net(5, saved_classes.Sizes(), first=nn.LazyLinear(3))
    model.heads[1] = nn.LazyLinear(4)
    model(phalanx.ones(1, 5))
    return model


def without() -> Any:
    model = nn.TransformerEncoderLayer(8, 2, 16)
    model.dropout1 = None
    return nn.Sequential(model)


def build() -> dict[str, Any]:
    shared = nn.Linear(3, 3)
    grown = nn.Sequential(nn.Linear(3, 4))
    grown.append(nn.ReLU())
    frozen = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    frozen[0].requires_grad_(False)
    return {
        "names": nn.Sequential(OrderedDict(first=nn.Linear(3, 4), second=nn.Sequential(nn.Tanh()))),
        "a module twice": nn.Sequential(shared, nn.ReLU(), shared),
        "grown": grown,
        "frozen": frozen,
        "float64": nn.Linear(3, 2, dtype=np.float64),
        "a dict": nn.ModuleDict({"a": nn.Linear(1, 2), "b": nn.Flatten()}),
        "a prototype and a function": nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, activation=F.gelu), 2, nn.LayerNorm(8)),
        "a large table": nn.Embedding.from_pretrained(phalanx.randn(3000, 2)) if hasattr(nn.Embedding, "from_pretrained") else nn.Embedding(3000, 2),
        "mine": saved_classes.Net(5, saved_classes.Sizes(4, (3, 2, 1)), act=F.silu),
        "mine, a module inside": saved_classes.Net(5, saved_classes.Sizes(), first=nn.Sequential(nn.Linear(5, 3), nn.Tanh())),
        "mine, config": saved_classes.WithConfig(saved_classes.Sizes(4)),
        "mine, a list of arguments": saved_classes.Stack(3, 4, 2),
        "another head": replaced(),
        "lazy": lazy(),
        "without a layer": without(),
    }  # fmt: skip


@pytest.mark.parametrize("name", build())
def test_forms(name: str, tmp_path: Path) -> None:
    model = build()[name]
    before = phalanx.core.rng.init_key().call
    twin = again(model, tmp_path / "m")
    assert phalanx.core.rng.init_key().call == before + 1, "saving and loading drew initial values"
    assert_twins(model, twin)
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in twin.parameters()]
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in twin.named_parameters()]


def test_modules_are_copied_and_pickled_as_before() -> None:
    model = saved_classes.Net(5, saved_classes.Sizes(), act=F.relu)
    for twin in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_twins(model, twin)
    picked = Local(lambda x: x)
    assert_twins(picked, pickle.loads(pickle.dumps(picked)))


def test_penalties(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].register_penalty("weight", nn.L2(0.25))
    model[1].register_penalty("bias", nn.L1L2(0.5, 0.125))
    twin = again(model, tmp_path / "m")
    mine, theirs = model.penalty(), twin.penalty()
    assert mine is not None and theirs is not None and mine.item() == theirs.item()
    model[0].register_penalty("bias", lambda w: w.sum())
    with pytest.raises(StateError, match=r"the penalty on bias of Linear is .*<lambda>"):
        phalanx.save_model(model, tmp_path / "m")


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    phalanx.save_model(nn.Linear(3, 2), folder, extra={"labels": ["a", "b"], "w": phalanx.ones(2)})
    assert phalanx.load_extra(folder)["labels"] == ["a", "b"]
    phalanx.save_model(nn.Linear(4, 2), folder)
    assert phalanx.load_model(folder).in_features == 4 and phalanx.load_extra(folder) is None
    with pytest.raises(StateError):
        phalanx.save_model(nn.Sequential(Local(object())), folder)
    assert phalanx.load_model(folder).in_features == 4
    with pytest.raises(DTypeError, match="got object"):
        phalanx.save_model(nn.Linear(3, 2), folder, extra=object())
    assert phalanx.load_model(folder).in_features == 4
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds other things"):
        phalanx.save_model(nn.Linear(3, 2), folder)
    assert (folder / "notes.txt").exists() and phalanx.load_model(folder).in_features == 4


class Local(nn.Module):
    def __init__(self, thing: Any = None) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)


def turned() -> Any:
    model = nn.Sequential(nn.Dropout())
    model[0].p = 0.9
    return model


def changed() -> Any:
    model = saved_classes.Net(5, saved_classes.Sizes())
    model.first.weight = nn.Parameter(phalanx.ones(3, 6))
    return model


def tied() -> Any:
    model = saved_classes.Net(3, saved_classes.Sizes(3, (3,)))
    model.heads[0].weight = model.first.weight
    return model


@pytest.mark.parametrize(
    "model, words",
    [
        (lambda: nn.Sequential(Local(object())), "thing of Local is object, .* config"),
        (lambda: saved_classes.Net(3, saved_classes.Sizes(), act=lambda x: x), "act of Net is .*<lambda>, which JSON"),
        (
            turned,
            r"layer '0' was changed since Sequential was built: it is Dropout\(p=0.9, .*again it would be Dropout\(p=0.5",
        ),
        (changed, r"tensors of Net were changed since it was built: first.weight: \(\(3, 6\)"),
        (tied, "weights of Net were tied"),
        (lambda: 3, "expects a Module, got int"),
    ],
)
def test_what_cannot_be_built_again_is_not_saved(model: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=words):
        phalanx.save_model(model(), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def page(folder: Path, change: Any) -> None:
    text = json.loads((folder / "model.json").read_text())
    text = change(text) or text
    (folder / "model.json").write_text(json.dumps(text))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda page: page["model"].update({"class": "Linnear"}), "no layer 'Linnear'"),
        (lambda page: page["model"].update({"class": "os:system"}), "is no class"),
        (lambda page: page["model"].update({"class": "os:PathLike"}), "is no Module"),
        (lambda page: page["model"].update({"class": "no_such_module:Net"}), "not found in module 'no_such_module'"),
        (lambda page: page["model"]["config"].update(depth=3), "does not take"),
        (lambda page: page["model"]["config"].update(in_features={"function": "core.rng.splitmix64"}), "described by"),
        (lambda page: page["model"]["config"].update(in_features={"call": 1}), "described by"),
        (lambda page: page["model"]["config"].update(in_features=4), "do not belong together"),
        (lambda page: page.update(version=99), "version 99"),
        (lambda page: {"a": 1}, "no model of phalanx"),
    ],
)
def test_a_wrong_page(change: Any, words: str, tmp_path: Path) -> None:
    phalanx.save_model(nn.Linear(3, 2), tmp_path / "m")
    page(tmp_path / "m", change)
    with pytest.raises(CheckpointError, match=words):
        phalanx.load_model(tmp_path / "m")


def test_classes_of_a_script(tmp_path: Path) -> None:
    phalanx.save_model(saved_classes.Stack(3, 2), tmp_path / "m")
    page(tmp_path / "m", lambda page: page["model"].update({"class": "__main__:Stack"}))
    with pytest.raises(CheckpointError, match=r"defined in a script.*classes=\{\"Stack\": Stack\}"):
        phalanx.load_model(tmp_path / "m")
    twin = phalanx.load_model(tmp_path / "m", classes={"Stack": saved_classes.Stack})
    assert twin[0].in_features == 3


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no model\.json"):
        phalanx.load_model(tmp_path)
    with pytest.raises(CheckpointError, match="No such file"):
        phalanx.load_model(tmp_path / "nothing")
    phalanx.save_model(nn.Linear(3, 2), tmp_path / "m")
    (tmp_path / "m" / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        phalanx.load_model(tmp_path / "m")
