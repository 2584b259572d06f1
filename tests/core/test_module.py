"""Module: registration, walking, state, hooks, copies, errors."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core import tree
from phalanx.core.errors import DTypeError, RangeError, ShapeError, StateError
from phalanx.core.flat import pack, where_packed
from phalanx.core.nn import statistics
from phalanx.core.nn.finite import first_non_finite


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 2, bias=False)
        self.scale = nn.Parameter(phalanx.ones(1))
        self.register_buffer("seen", phalanx.zeros(2))
        self.register_buffer("scratch", phalanx.zeros(2), persistent=False)

    def forward(self, x):
        return self.head(self.features(x)) * self.scale


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.embedding(x))


NAMES = ["scale", "features.0.weight", "features.0.bias", "features.2.weight", "features.2.bias", "head.weight"]
BUFFERS = ["features.2.running_mean", "features.2.running_var", "features.2.num_batches_tracked"]


# ---------------------------------------------------------------- names


def test_walker_names_and_ties() -> None:
    shared: dict = {}
    nested = {"a": {"b": shared}, "c": shared}
    names = [name for name, _ in tree.walk(nested, lambda node: node.items())]
    assert names == ["", "a", "a.b"]
    names = [name for name, _ in tree.walk(nested, lambda node: node.items(), once=False)]
    assert names == ["", "a", "a.b", "c"]


def test_flatten_and_replace_are_inverse() -> None:
    nested = {"state": {0: {"m": 1.5, "v": [2, 3]}}, "groups": ({"lr": 0.1},), "none": None}
    leaves = tree.flatten(nested)
    assert leaves == {"state.0.m": 1.5, "state.0.v.0": 2, "state.0.v.1": 3, "groups.0.lr": 0.1, "none": None}
    blank = tree.replace(nested, dict.fromkeys(leaves, 0))
    assert blank == {"state": {0: {"m": 0, "v": [0, 0]}}, "groups": ({"lr": 0},), "none": 0}
    assert tree.replace(blank, leaves) == nested
    with pytest.raises(StateError, match=r"'a\.b'"):
        tree.flatten({"a.b": 1, "a": {"b": 2}})


def test_names_in_order_of_registration() -> None:
    model = Net()
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert [name for name, _ in model.named_buffers()] == ["seen", "scratch", *BUFFERS]
    assert [name for name, _ in model.named_children()] == ["features", "head"]
    assert [name for name, _ in model.named_modules()] == [
        "",
        "features",
        "features.0",
        "features.1",
        "features.2",
        "head",
    ]
    assert [name for name, _ in model.named_parameters(prefix="net", recurse=False)] == ["net.scale"]
    assert model.get_parameter("features.0.weight") is model.features[0].weight
    assert model.get_submodule("features.2") is model.features[2] and model.get_submodule("") is model
    assert model.get_buffer("features.2.running_mean") is model.features[2].running_mean
    for wrong in ("features.0.nothing", "nothing.weight"):
        with pytest.raises(AttributeError, match="nothing"):
            model.get_parameter(wrong)


def test_tied_parameter_comes_once_but_has_two_names_in_state() -> None:
    model = Tied()
    assert [name for name, _ in model.named_parameters()] == ["embedding.weight"]
    assert len(list(model.parameters())) == 1
    assert list(model.state_dict()) == ["embedding.weight", "head.weight"]
    both = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert both == ["embedding.weight", "head.weight"]
    model(phalanx.tensor([1, 2])).sum().backward()
    assert model.embedding.weight.grad is model.head.weight.grad
    twin = copy.deepcopy(model)
    assert twin.head.weight is twin.embedding.weight and twin.head.weight is not model.head.weight


# ---------------------------------------------------------------- registration


def test_assignment_replaces_and_deletes() -> None:
    model = Net()
    model.head = nn.Linear(3, 7)
    assert [name for name, _ in model.named_children()] == ["features", "head"]
    assert model.head.weight.shape == (7, 3)
    del model.scale
    assert "scale" not in dict(model.named_parameters()) and not hasattr(model, "scale")
    model.seen = phalanx.ones(2)
    assert dict(model.named_buffers())["seen"].tolist() == [1.0, 1.0]
    model.head = None
    assert list(model.children()) == [model.features]
    model.seen = nn.Parameter(phalanx.ones(3))
    model.scratch = nn.ReLU()
    assert "seen" in dict(model.named_parameters()) and "scratch" in dict(model.named_children())
    assert not {"seen", "scratch"} & set(dict(model.named_buffers()))
    model.note = "kept as it is"
    assert model.note == "kept as it is"


def test_assigned_buffers_and_submodules_by_path() -> None:
    model = Net()
    model.mean = nn.Buffer(phalanx.ones(2))
    model.cache = nn.Buffer(phalanx.zeros(3), persistent=False)
    assert any(buffer is model.mean for buffer in model.buffers()) and not model.mean.requires_grad
    assert "mean" in model.state_dict() and "cache" not in model.state_dict()
    twin = copy.deepcopy(model).double()
    assert dict(twin.named_buffers())["cache"].dtype == np.float64 and "cache" not in twin.state_dict()
    model.set_submodule("features.1", nn.Tanh())
    model.set_submodule("tail", nn.Identity())
    assert isinstance(model.features[1], nn.Tanh) and [name for name, _ in model.named_children()][-1] == "tail"
    for target, strict in (("features.9", True), ("nothing.1", False), ("", False)):
        with pytest.raises(AttributeError, match="no module"):
            model.set_submodule(target, nn.Identity(), strict)
    assert model.type(phalanx.float64).head.weight.dtype == np.float64


def test_assignment_of_a_wrong_kind() -> None:
    model = Net()
    with pytest.raises(TypeError, match=r"Net\.scale is a parameter .* got Tensor"):
        model.scale = phalanx.ones(1)
    with pytest.raises(TypeError, match=r"Net\.head is a module .* got int"):
        model.head = 3
    with pytest.raises(TypeError, match=r"Net\.seen is a buffer .* got str"):
        model.seen = "x"
    with pytest.raises(KeyError, match="already has an attribute 'forward'"):
        model.add_module("forward", nn.ReLU())
    with pytest.raises(KeyError, match="already has an attribute 'scale'"):
        model.register_buffer("scale", phalanx.ones(1))
    assert "scale" in dict(model.named_parameters())
    with pytest.raises(KeyError, match="without dots"):
        model.add_module("a.b", nn.ReLU())


def test_forgotten_super_init_is_said() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\) first"):
        Forgetful()


def test_containers() -> None:
    sequence = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert len(sequence) == 3 and isinstance(sequence[1], nn.ReLU) and sequence[-1] is sequence[2]
    assert [type(part).__name__ for part in sequence[:2]] == ["Linear", "ReLU"]
    assert isinstance(sequence[:2], nn.Sequential) and sequence[:2][0] is sequence[0]
    sequence.append(nn.Tanh()).insert(1, nn.Sigmoid())
    assert [type(part).__name__ for part in sequence] == ["Linear", "Sigmoid", "ReLU", "Linear", "Tanh"]
    del sequence[1]
    sequence[3] = nn.Identity()
    assert [name for name, _ in sequence.named_children()] == ["0", "1", "2", "3"]
    assert isinstance(sequence[3], nn.Identity)
    with pytest.raises(IndexError, match="index 9"):
        sequence[9]
    named = nn.Sequential(OrderedDict(first=nn.Linear(2, 2), second=nn.ReLU()))
    assert list(named.state_dict()) == ["first.weight", "first.bias"] and named.first is named[0]
    assert [name for name, _ in named[1:].named_children()] == ["second"]

    modules = nn.ModuleList([nn.Linear(1, 1)])
    modules.extend([nn.ReLU(), nn.Tanh()])
    assert len(modules) == 3 and len(modules[1:]) == 2 and isinstance(modules.pop(), nn.Tanh)
    assert [name for name, _ in modules.named_parameters()] == ["0.weight", "0.bias"]

    table = nn.ModuleDict({"a": nn.Linear(1, 2), "b": nn.ReLU()})
    assert list(table) == ["a", "b"] and "a" in table and isinstance(table["b"], nn.ReLU)
    assert isinstance(table.pop("b"), nn.ReLU) and len(table) == 1
    with pytest.raises(KeyError, match="no module 'zz'"):
        table["zz"]

    parameters = nn.ParameterList([phalanx.ones(2), nn.Parameter(phalanx.ones(3))])
    assert [name for name, _ in parameters.named_parameters()] == ["0", "1"] and parameters[0].requires_grad
    named_parameters = nn.ParameterDict({"w": phalanx.ones(2)})
    assert list(named_parameters.state_dict()) == ["w"]


# ---------------------------------------------------------------- state


def test_state_dict_shares_memory_and_loads_in_place() -> None:
    phalanx.manual_seed(1)
    source, target = Net(), Net()
    assert list(source.state_dict()) == [*NAMES[:1], "seen", *NAMES[1:5], *BUFFERS, NAMES[5]]
    assert not np.array_equal(source.head.weight.numpy(force=True), target.head.weight.numpy(force=True))
    state = source.state_dict()
    assert not state["head.weight"].requires_grad
    assert np.shares_memory(state["head.weight"].array, source.head.weight.array)
    arrays = {name: tensor.array for name, tensor in target.state_dict(keep_vars=True).items()}
    result = target.load_state_dict(state)
    assert result.missing_keys == [] and result.unexpected_keys == [] and "matched" in repr(result)
    for name, tensor in target.state_dict(keep_vars=True).items():
        assert tensor.array is arrays[name], f"{name} was rebound"
        assert np.array_equal(tensor.array, state[name].array), name


def test_load_state_dict_lists_everything_and_changes_nothing() -> None:
    model = Net()
    before = copy.deepcopy(model.state_dict())
    state = {name: tensor.array + 1 for name, tensor in model.state_dict().items()}
    del state["head.weight"], state["scale"]
    state["strange"], state["stranger"] = np.ones(1), np.ones(1)
    state["features.0.weight"] = np.zeros((3, 5), np.float32)
    state["seen"] = np.zeros(2, np.float64)
    with pytest.raises(StateError) as caught:
        model.load_state_dict(state)
    words = str(caught.value)
    for part in (
        "missing (2): scale, head.weight",
        "unexpected (2): strange, stranger",
        "mismatched (2)",
        "features.0.weight: shape (3, 4) expected, the state has (3, 5)",
        "seen: dtype float32 expected, the state has float64",
        "nothing was changed",
    ):
        assert part in words, words
    for name, tensor in model.state_dict().items():
        assert np.array_equal(tensor.array, before[name].array), name
    with pytest.raises(StateError, match=r"mismatched \(2\)"):
        model.load_state_dict(state, strict=False)
    del state["features.0.weight"], state["seen"]
    result = model.load_state_dict(state, strict=False)
    assert result == (["scale", "seen", "features.0.weight", "head.weight"], ["strange", "stranger"])
    assert np.array_equal(model.features[0].bias.numpy(force=True), before["features.0.bias"].array + 1)


def test_modes_freezing_and_zero_grad() -> None:
    model = Net()
    assert model.eval() is model and not any(part.training for part in model.modules())
    assert model.train().features[2].training
    with pytest.raises(ValueError, match="train"):
        model.train("yes")  # type: ignore[arg-type]
    model(phalanx.ones(3, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.zero_grad(set_to_none=False)
    assert all(not parameter.grad.array.any() for parameter in model.parameters())
    model.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    model.features.requires_grad_(False)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["scale", "head.weight"]
    seen: list[str] = []
    assert model.apply(lambda part: seen.append(type(part).__name__)) is model
    assert seen == ["Linear", "ReLU", "BatchNorm1d", "Sequential", "Linear", "Net"]


def test_dtype_conversion_keeps_counters_gradients_and_ties() -> None:
    model = Net()
    weight = model.head.weight
    model(phalanx.ones(3, 4)).sum().backward()
    assert model.double() is model and model.head.weight is weight
    assert weight.dtype == np.float64 and weight.grad.dtype == np.float64
    assert model.features[2].running_mean.dtype == np.float64
    assert model.features[2].num_batches_tracked.dtype == np.int64
    assert model(phalanx.ones(3, 4, dtype=phalanx.float64)).dtype == np.float64
    assert model.half().head.weight.dtype == np.float16
    assert model.to("cpu", phalanx.float32).head.weight.dtype == np.float32
    assert model.to(phalanx.ones(1, dtype=phalanx.float64)).scale.dtype == np.float64
    assert model.float().scale.dtype == np.float32
    with pytest.raises(DTypeError, match="floating dtype"):
        model.to(phalanx.int64)
    tied = Tied().double()
    assert tied.head.weight is tied.embedding.weight


# ---------------------------------------------------------------- copies, hooks, words


def test_deepcopy_is_free_of_the_original() -> None:
    model = Net()
    model(phalanx.ones(3, 4)).sum().backward()
    twin = copy.deepcopy(model)
    for (name, mine), (other, theirs) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert name == other and mine is not theirs and type(theirs) is nn.Parameter
        assert np.array_equal(mine.array, theirs.array) and not np.shares_memory(mine.array, theirs.array)
        assert np.array_equal(mine.grad.array, theirs.grad.array)
        assert not np.shares_memory(mine.grad.array, theirs.grad.array)
        assert theirs._store is None and theirs._slot is None
    assert twin.seen is not model.seen
    twin.extra = nn.Linear(1, 1)
    assert not hasattr(model, "extra") and "extra" not in dict(model.named_children())


def test_deepcopy_of_a_packed_model_is_free_of_the_store() -> None:
    model = Tied()
    optimizer = phalanx.optim.SGD(model.parameters(), lr=0.1)
    model(phalanx.tensor([1, 2])).sum().backward()
    optimizer.step()
    twin = copy.deepcopy(model)
    before = twin.head.weight.array.copy()
    assert twin.head.weight._store is None and twin.head.weight is twin.embedding.weight
    optimizer.step()
    assert np.array_equal(twin.head.weight.array, before)


def test_pickle_round_trip() -> None:
    model = Net()
    twin = pickle.loads(pickle.dumps(model))
    assert list(twin.state_dict()) == list(model.state_dict())
    assert np.array_equal(twin.head.weight.array, model.head.weight.array) and twin.head.weight.requires_grad


def test_forward_hooks() -> None:
    model = nn.Sequential(nn.Identity(), nn.Identity())
    seen: list[str] = []
    before = model[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    after = model[0].register_forward_hook(lambda module, args, output: output * 10)
    model[1].register_forward_hook(lambda module, args, output: seen.append("second"))
    model[1].register_forward_hook(lambda module, args, output: seen.append("first"), prepend=True)
    assert model(phalanx.tensor([1.0])).tolist() == [20.0]
    assert seen == ["first", "second"]
    after.remove()
    after.remove()
    assert model(phalanx.tensor([1.0])).tolist() == [2.0]
    before.remove()
    assert model(phalanx.tensor([1.0])).tolist() == [1.0]
    with model[0].register_forward_hook(lambda module, args, output: output * 0):
        assert model(phalanx.tensor([1.0])).tolist() == [0.0]
    assert model(phalanx.tensor([1.0])).tolist() == [1.0]


def test_repr_is_a_tree() -> None:
    assert repr(Net()) == (
        "Net(\n"
        "  (features): Sequential(\n"
        "    (0): Linear(in_features=4, out_features=3, bias=True)\n"
        "    (1): ReLU()\n"
        "    (2): BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)\n"
        "  )\n"
        "  (head): Linear(in_features=3, out_features=2, bias=False)\n"
        ")"
    )


def test_module_without_forward() -> None:
    with pytest.raises(NotImplementedError, match=r"ModuleList defines no forward"):
        nn.ModuleList()(1)


# ---------------------------------------------------------------- errors name the layer


def test_errors_name_the_layer_once() -> None:
    model = Net()
    with pytest.raises(ShapeError) as caught:
        model(phalanx.ones(2, 5))
    words = str(caught.value)
    assert words.startswith("in layer 'features.0' (Linear(in_features=4, out_features=3, bias=True)): "), words
    assert words.count("in layer") == 1 and "5" in words
    with pytest.raises(ShapeError, match=r"^in layer Linear\(in_features=4"):
        model.features[0](phalanx.ones(2, 5))
    with pytest.raises(ShapeError, match=r"^in layer 'features\.2' \(BatchNorm1d"):
        model.features[0] = nn.Unflatten(1, (1, 2, 2))
        model(phalanx.ones(2, 4))
    with pytest.raises(RangeError, match=r"^in layer 'embedding' \(Embedding\(5, 3\)\)"):
        Tied()(phalanx.tensor([7]))


def test_other_errors_stay_as_they_are() -> None:
    class Wrong(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        nn.Sequential(Wrong())(1)


# ---------------------------------------------------------------- statistics and finite check


def test_statistics_sink_takes_what_running_statistics_would_get() -> None:
    phalanx.manual_seed(3)
    model, twin = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    x, y = phalanx.randn(6, 3), phalanx.randn(4, 3)
    entries: list[statistics.Entry] = []
    with statistics.collect(entries):
        model(x)
    with statistics.discard():
        model(x)
    with statistics.collect(entries):
        model(y)
    assert [(entry.layer, entry.call_number, entry.n) for entry in entries] == [(model, 0, 6), (model, 1, 4)]
    assert not model.running_mean.array.any() and int(model.num_batches_tracked.array) == 0
    for entry in entries:
        entry.layer.commit(entry.n, entry.mean, entry.m2)
    twin(x)
    twin(y)
    assert int(twin.num_batches_tracked.array) == 2
    for name, tensor in model.state_dict().items():
        assert np.array_equal(tensor.array, twin.state_dict()[name].array), name
    model.eval()
    with statistics.collect(entries):
        model(x)
    assert len(entries) == 2


def test_an_empty_batch_leaves_no_statistics() -> None:
    model = nn.BatchNorm1d(3)
    before = copy.deepcopy(model.state_dict())
    y = model(phalanx.ones(0, 3))
    y.sum().backward()
    assert y.shape == (0, 3) and not model.weight.grad.array.any()
    assert all(np.array_equal(tensor.array, before[name].array) for name, tensor in model.state_dict().items())


def test_first_non_finite_layer_is_named() -> None:
    class Explode(nn.Module):
        def forward(self, x):
            return x * 1e30 * 1e30

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), Explode(), nn.Linear(2, 2))
    x = phalanx.tensor([[1.0, 2.0], [3.0, 5.0]])
    with np.errstate(all="ignore"):
        assert first_non_finite(model, x) == "layer '2' (Explode())"
        assert first_non_finite(model[:2], x) is None
        assert first_non_finite(model, x * float("nan")) == "input"
        assert not model[1].running_mean.array.any(), "running statistics moved"
        model[3].weight.array[0, 0] = np.inf
        assert first_non_finite(model, x) == "parameter '3.weight'"
    assert not any(part._forward_hooks for part in model.modules())


def test_where_parameters_lie():
    """What is asked before each step: it changes with whatever must be packed anew, and with nothing else."""
    phalanx.init()
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    parameters = list(model.parameters())
    parameters[0].requires_grad = False
    before = where_packed(parameters)
    pack(p for p in parameters if p.requires_grad)
    packed = where_packed(parameters)
    assert packed != before and packed == where_packed(parameters)
    (parameters[1] * 2.0).sum().backward()
    optim.SGD(parameters[1:], lr=0.1).step()
    assert where_packed(parameters) == packed
    parameters[0].requires_grad = True
    assert where_packed(parameters) != packed
    parameters[0].requires_grad = False
    parameters[2].data = parameters[2].data.double()
    assert where_packed(parameters) != packed
    pack(parameters[1:])
    assert where_packed(parameters)[2] not in (packed[2], 0, None)
