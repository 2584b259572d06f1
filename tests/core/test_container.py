"""Containers beside PyTorch's: the same names, order, slices and words after the same changes."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core.errors import RangeError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
LIBRARIES = (phalanx, torch)


def sequential(library):
    nn = library.nn
    named = nn.Sequential(OrderedDict(first=nn.Linear(2, 3), second=nn.ReLU(), third=nn.Linear(3, 2)))
    plain = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    yield named
    yield named[1:]
    plain.append(nn.ReLU()).insert(0, nn.Linear(2, 2)).extend(nn.Sequential(nn.Sigmoid()))
    yield plain
    yield plain + named
    del plain[1]
    plain[-1] = nn.Linear(2, 4)
    yield plain
    yield type(plain.pop(0)).__name__, len(plain), plain
    yield plain * 2
    yield 2 * plain
    plain += nn.Sequential(nn.ReLU())
    plain *= 2
    yield plain


def module_list(library):
    nn = library.nn
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    yield layers
    yield layers[1:], layers[-1]
    layers.append(nn.ReLU()).insert(1, nn.Tanh())
    layers += [nn.ReLU(), nn.ReLU()]
    yield layers
    layers.extend(nn.ModuleList([nn.Linear(1, 1)]))
    yield layers + [nn.Tanh()]
    layers[0] = nn.Identity()
    del layers[2:4]
    yield layers, type(layers.pop(-1)).__name__, len(layers), layers[0] in layers, nn.ReLU() in layers
    yield nn.ModuleList()


def module_dict(library):
    nn = library.nn
    heads = nn.ModuleDict([("b", nn.Linear(2, 1)), ("a", nn.ReLU())])
    yield heads, list(heads), list(heads.keys()), "a" in heads, len(heads)
    heads.update(nn.ModuleDict({"c": nn.Tanh(), "a": nn.Linear(1, 1)}))
    yield heads, [name for name, _ in heads.items()], [type(m).__name__ for m in heads.values()]
    yield type(heads.pop("b")).__name__, heads
    del heads["c"]
    yield heads
    heads.clear()
    yield len(heads)


@pytest.mark.parametrize("story", [sequential, module_list, module_dict])
def test_modules_in_containers(story) -> None:
    for mine, theirs in zip(*(story(library) for library in LIBRARIES), strict=True):
        mine, theirs = (value if isinstance(value, tuple) else (value,) for value in (mine, theirs))
        assert [repr(value) for value in mine] == [repr(value) for value in theirs]
        for a, b in zip(mine, theirs, strict=True):
            if isinstance(a, nn.Module):
                assert list(a.state_dict()) == list(b.state_dict())


def parameter_list(library):
    make = library.nn.ParameterList
    values = make([library.ones(2), library.nn.Parameter(library.zeros(1, 3))])
    yield values
    values.append(library.ones(1)).extend([library.zeros(2)])
    values += [library.ones(4)]
    yield values
    values[-1] = library.nn.Parameter(library.zeros(5))
    yield values[1:3]
    yield values


def parameter_dict(library):
    make = library.nn.ParameterDict
    values = make([("b", library.ones(2)), ("a", library.zeros(3))])
    yield values
    values.update({"c": library.ones(1)})
    values["a"] = library.nn.Parameter(library.ones(4))
    yield values
    yield values | {"d": library.ones(6)}
    yield type({"z": library.ones(6)} | values).__name__, list({"z": library.ones(6)} | values)
    values |= make({"e": library.ones(1)})
    yield values, list(values), list(reversed(values)), "a" in values, len(values), values.get("q"), values.get("q", 3)
    yield tuple(values.setdefault("f", library.ones(7)).shape), tuple(values.setdefault("f", library.ones(8)).shape)
    yield tuple(values.pop("b").shape), values.popitem()[0], values
    yield values.copy(), values.fromkeys(["x", "y"], library.ones(2))
    values.clear()
    yield len(values)


@pytest.mark.parametrize("story", [parameter_list, parameter_dict])
def test_parameters_in_containers(story) -> None:
    for mine, theirs in zip(*(story(library) for library in LIBRARIES), strict=True):
        mine, theirs = (value if isinstance(value, tuple) else (value,) for value in (mine, theirs))
        for a, b in zip(mine, theirs, strict=True):
            if not isinstance(a, nn.Module):
                assert a == b
                continue
            ours, others = a.state_dict(), b.state_dict()
            assert [(k, tuple(v.shape)) for k, v in ours.items()] == [(k, tuple(v.shape)) for k, v in others.items()]
            assert all(p.requires_grad for p in a.parameters()) and type(a).__name__ == type(b).__name__


def test_copies_of_a_dict_share_the_parameters() -> None:
    values = nn.ParameterDict({"a": phalanx.ones(2)})
    assert values.copy()["a"] is values["a"] and (values | {})["a"] is values["a"]


def test_repeated_layers_are_tied_and_train() -> None:
    model = nn.Sequential(nn.Linear(2, 2)) * 3
    assert len(list(model.parameters())) == 2
    model(phalanx.ones(1, 2)).sum().backward()
    assert np.isfinite(model[0].weight.grad.numpy()).all()


def test_wrong_use() -> None:
    for error, words, call in (
        (RangeError, "at least 1", lambda: nn.Sequential(nn.ReLU()) * 0),
        (RangeError, "no None", lambda: nn.ParameterDict({"a": None})),
        (TypeError, "insert expects a Module", lambda: nn.ModuleList().insert(0, 3)),
        (TypeError, "expects a Module", lambda: nn.ModuleList([3])),
        (IndexError, "index 2 of ModuleList with 1", lambda: nn.ModuleList([nn.ReLU()])[2]),
        (KeyError, "no module 'b'", lambda: nn.ModuleDict({"a": nn.ReLU()})["b"]),
        (KeyError, "already has an attribute", lambda: nn.ModuleDict({"training": nn.ReLU()})),
        (KeyError, "empty", lambda: nn.ParameterDict().popitem()),
        (NotImplementedError, "ModuleList defines no forward", lambda: nn.ModuleList()(1)),
        (TypeError, "unsupported operand", lambda: nn.Sequential() + [nn.ReLU()]),
    ):
        with pytest.raises(error, match=words):
            call()
