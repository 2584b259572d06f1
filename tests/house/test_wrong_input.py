"""Each wrong input gives one error that says what was expected, what came, and what to do."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.cli import main
from phalanx.core.data.placement import Placement, set_placement
from phalanx.core.errors import (
    DataError,
    DTypeError,
    GraphError,
    NonFiniteError,
    PhalanxError,
    RangeError,
    ShapeError,
    StateError,
)
from phalanx.core.nn.finite import first_non_finite
from phalanx.data import DataLoader, Subset, TensorDataset, random_split
from phalanx.nn import functional as F
from tests.jobs import EXAMPLE, ROOT, Job, run_job


class Net(nn.Module):
    """Images (N, 3, 8, 8) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x: phalanx.Tensor) -> phalanx.Tensor:
        return self.head(self.features(x).mean((2, 3)))


class WithoutSuper(nn.Module):
    def __init__(self) -> None:
        self.layer = nn.Linear(1, 1)


class WithoutForward(nn.Module):
    pass


def scores(classes: int = 3) -> phalanx.Tensor:
    return phalanx.zeros(4, classes)


def data(count: int = 4) -> TensorDataset:
    return TensorDataset(phalanx.zeros(count, 3), phalanx.zeros(count, dtype=phalanx.long))


def labels(*values: Any) -> phalanx.Tensor:
    return phalanx.tensor(values)


def changed(change: Callable[[Net], None]) -> Callable[[], Any]:
    def run() -> Any:
        net = Net()
        change(net)
        return net(phalanx.zeros(2, 3, 8, 8))

    return run


def backward_twice() -> None:
    loss = nn.Linear(2, 1)(phalanx.ones(3, 2)).sum()
    loss.backward()
    loss.backward()


def iterate_with_shards() -> None:
    before = set_placement(Placement(0, 1, 4))
    try:
        for _ in DataLoader(data(), batch_size=2):
            pass
    finally:
        set_placement(before)


def other_models_state() -> None:
    state = {"0.weight": phalanx.zeros(4, 9), "0.bias": phalanx.zeros(4), "2.weight": phalanx.zeros(3)}
    nn.Sequential(nn.Linear(10, 4), nn.Linear(4, 2)).load_state_dict(state)


CASES: dict[str, tuple[Callable[[], Any], type[Exception], list[str]]] = {
    # labels and losses
    "a label too high": (
        lambda: nn.CrossEntropyLoss()(scores(), labels(0, 1, 2, 7)),
        RangeError,
        ["cross_entropy", "label 7 at position 3", "[0, 3)", "shape (4, 3)", "3 classes"],
    ),
    "a label too low": (
        lambda: F.cross_entropy(scores(), labels(0, -1, 2, 0)), RangeError, ["label -1 at position 1", "[0, 3)"],
    ),
    "a label of nll_loss": (lambda: F.nll_loss(scores(), labels(0, 1, 2, 3)), RangeError, ["nll_loss", "label 3"]),
    "float labels": (
        lambda: F.cross_entropy(scores(), labels(0.0, 1.0, 2.0, 0.0)),
        DTypeError, ["cross_entropy", "must be integers", "got float32", ".long()"],
    ),
    "a list of labels": (
        lambda: F.cross_entropy(scores(), [0, 1, 2, 0]), DTypeError, ["must be a Tensor", "got list", "phalanx.tensor("],
    ),
    "too few labels": (
        lambda: F.cross_entropy(scores(), labels(0, 1, 2)), ShapeError, ["(4, 3)", "expects labels of shape (4,)", "got (3,)"],
    ),
    "an unknown reduction": (
        lambda: F.cross_entropy(scores(), labels(0, 1, 2, 0), reduction="avg"), RangeError, ["mean, sum, none", "'avg'"],
    ),
    "logits as probabilities": (
        lambda: F.binary_cross_entropy(phalanx.full((2,), 3.0), phalanx.ones(2)),
        RangeError, ["[0, 1]", "3.0", "binary_cross_entropy_with_logits"],
    ),
    "an index outside of a table": (
        lambda: nn.Embedding(5, 2)(labels(0, 5)), RangeError, ["Embedding(5, 2)", "index 5 at position 1", "[0, 5)"],
    ),
    # shapes and dtypes into layers, which are named
    "shape into Linear": (
        lambda: Net().head(phalanx.zeros(4, 9)), ShapeError, ["Linear(in_features=8", "in_features=8", "(4, 9)"],
    ),
    "shape into a Linear of a model": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10))(phalanx.zeros(4, 1, 27, 28)),
        ShapeError, ["in layer '1' (Linear(in_features=784, out_features=10", "must be in_features=784", "(4, 756)"],
    ),
    "channels into Conv2d": (
        lambda: Net()(phalanx.zeros(2, 1, 8, 8)),
        ShapeError, ["in layer 'features.0' (Conv2d(3, 8", "expects 3 input channels", "(2, 1, 8, 8)", "with 1"],
    ),
    "dimensions into Conv2d": (
        lambda: Net()(phalanx.zeros(8, 8)), ShapeError, ["'features.0'", "(batch, channels, height, width)", "(8, 8)"],
    ),
    "a small image into Conv2d": (
        lambda: Net()(phalanx.zeros(1, 3, 2, 2)), ShapeError, ["'features.0'", "kernel (3, 3)", "input (2, 2)", "padding"],
    ),
    "float64 into Linear": (
        lambda: Net().head(phalanx.zeros(2, 8).double()), DTypeError, ["Linear(", "float64", "float32", ".float()"],
    ),
    "integers into Linear": (
        lambda: Net().head(phalanx.zeros(2, 8).long()), DTypeError, ["Linear(", "floating point", "int64", ".float()"],
    ),
    "one sample into BatchNorm": (
        lambda: nn.BatchNorm1d(5)(phalanx.zeros(1, 5)), ShapeError, ["BatchNorm1d(5", "more than 1 value", "(1, 5)"],
    ),
    "too many arguments": (
        lambda: Net()(phalanx.zeros(1, 3, 8, 8), 2), TypeError, ["Net.forward()", "2 positional arguments", "3 were given"],
    ),
    # models that are not whole
    "a layer that is None": (
        changed(lambda net: setattr(net, "head", None)), TypeError, ["Net", "these layers are None: head"],
    ),
    "a deleted layer": (changed(lambda net: delattr(net, "head")), AttributeError, ["'Net'", "no attribute 'head'"]),
    "None in Sequential": (
        lambda: nn.Sequential(nn.ReLU(), None)(scores()), TypeError, ["Sequential", "these layers are None: 1"],
    ),
    "no super().__init__()": (WithoutSuper, AttributeError, ["'layer'", "WithoutSuper", "call super().__init__() first"]),
    "no forward": (lambda: WithoutForward()(scores()), NotImplementedError, ["WithoutForward", "forward()"]),
    "a negative size": (lambda: nn.Linear(-1, 3), RangeError, ["integers of at least 0", "(3, -1)"]),
    "a size that is no integer": (lambda: nn.Linear(2.5, 3), RangeError, ["integers of at least 0", "2.5"]),
    "an empty kernel": (lambda: nn.Conv2d(3, 8, 0), RangeError, ["Conv2d", "kernel_size", "at least 1", "(0, 0)"]),
    "channels and groups": (
        lambda: nn.Conv2d(3, 8, 3, groups=2), RangeError, ["in_channels=3", "out_channels=8", "groups=2"],
    ),
    "a dropout of 1.5": (lambda: nn.Dropout(1.5), RangeError, ["Dropout", "[0, 1]", "1.5"]),
    "a state of another model": (
        other_models_state,
        StateError,
        ["Sequential", "missing (2): 1.weight, 1.bias", "unexpected (1): 2.weight", "mismatched (1): 0.weight",
         "shape (4, 10) expected", "(4, 9)", "nothing was changed"],
    ),
    "a state that is none": (lambda: Net().load_state_dict(None), StateError, ["mapping", "NoneType"]),
    # optimizers
    "no parameters": (lambda: optim.Adam([], lr=0.1), RangeError, ["at least one parameter", "empty"]),
    "a model for its parameters": (
        lambda: optim.SGD(Net(), lr=0.1), TypeError, ["iterable of parameters", "got Net", "model.parameters()"],
    ),
    "a Tensor for parameters": (
        lambda: optim.SGD(nn.Linear(1, 1).weight, lr=0.1), TypeError, ["single Tensor", "wrap it in a list"],
    ),
    "an output as parameter": (
        lambda: optim.SGD([nn.Linear(1, 1)(phalanx.ones(1, 1))], lr=0.1), TypeError, ["leaf Parameters", "nn.Parameter"],
    ),
    "a negative learning rate": (lambda: optim.SGD(Net().parameters(), lr=-1), RangeError, ["SGD", "lr", "0.0", "-1"]),
    "an unknown option of a group": (
        lambda: optim.SGD([{"params": Net().parameters(), "momentun": 0.9}], lr=0.1),
        RangeError, ["SGD has no option ['momentun']", "'momentum'"],
    ),
    # data
    "batch_size 0": (lambda: DataLoader(data(), batch_size=0), RangeError, ["batch_size", "at least 1", "got 0"]),
    "batch_size 1.5": (lambda: DataLoader(data(), batch_size=1.5), RangeError, ["batch_size", "integer", "1.5"]),
    "an empty data set": (
        lambda: DataLoader(TensorDataset(phalanx.zeros(0, 3)), batch_size=2), DataError, ["TensorDataset", "is empty"],
    ),
    "no data set": (lambda: DataLoader(5), DataError, ["__len__ and __getitem__", "int"]),
    "an unknown option of the loader": (
        lambda: DataLoader(data(), batch_size=2, shufle=True), TypeError, ["shufle", "it knows", "shuffle"],
    ),
    "a sampler": (lambda: DataLoader(data(), sampler=object()), RangeError, ["sampler", "order(seed, epoch)"]),
    "drop_last of everything": (
        lambda: DataLoader(data(), batch_size=8, drop_last=True), RangeError, ["4 samples", "batch_size is 8", "all ranks"],
    ),
    "lengths that differ": (lambda: TensorDataset(scores(), phalanx.zeros(3)), ShapeError, ["equal length", "[4, 3]"]),
    "a split of another sum": (lambda: random_split(data(), [1, 2]), RangeError, ["4 samples", "[1, 2]", "sum 3"]),
    "an index outside of the data": (lambda: Subset(data(), [9]), RangeError, ["[0, 4)", "9"]),
    "the loader itself with shards": (
        iterate_with_shards, DataError, ["shards=4", "for step in loader.steps():", "for x, y in step:", "instead of"],
    ),
    # gradients
    "backward twice": (backward_twice, GraphError, ["a second time", "run forward again", "retain_graph=True", "test_wrong_input.py"]),
    "backward of no scalar": (
        lambda: nn.Linear(2, 3)(phalanx.ones(4, 2)).backward(), GraphError, ["(4, 3)", ".mean() or .sum()"],
    ),
    "backward of a constant": (lambda: phalanx.ones(()).backward(), GraphError, ["requires_grad=True"]),
    # tensors
    "complex numbers": (lambda: phalanx.tensor([1j]), DTypeError, ["float32", "got dtype('complex128')"]),
    "a dtype by another name": (lambda: phalanx.zeros(3, dtype="complex64"), DTypeError, ["float32", "'complex64'"]),
    "strings": (lambda: phalanx.tensor(["a"]), DTypeError, ["float32", "<U1"]),
    "rows of unequal length": (lambda: phalanx.tensor([[1], [1, 2]]), ShapeError, ["not all of one length"]),
    "a GPU without CuPy": (
        lambda: Net().to("cuda"), RangeError, ["CuPy", "phalanx[cuda12]", 'use device "cpu"'],
    ),
    "shapes that do not broadcast": (lambda: scores() + phalanx.zeros(2), ShapeError, ["add", "(4, 3)", "(2,)"]),
    "shapes that do not multiply": (lambda: scores() @ scores(), ShapeError, ["matmul", "(4, 3) @ (4, 3)"]),
    "item of many": (lambda: scores().item(), ShapeError, ["(4, 3)", "12 elements"]),
    # ranks
    "an unknown backend": (lambda: phalanx.init(backend="nccl"), RangeError, ["backend", "zmq, mpi", "'nccl'"]),
    "a deadline in the past": (lambda: phalanx.init(timeout_s=-1.0), RangeError, ["timeout_s", "above 0", "-1.0"]),
    "a stall before it begins": (lambda: phalanx.init(stall_s=0), RangeError, ["stall_s", "above 0", "got 0"]),
    "no shards": (lambda: phalanx.init(shards=0), RangeError, ["shards", "at least 1", "got 0"]),
    "shards that are no integer": (lambda: phalanx.init(shards=2.0), RangeError, ["shards", "integer", "got 2.0"]),
    "a seed that is no integer": (lambda: phalanx.init(seed="one"), RangeError, ["an integer", "'one'"]),
    "an unknown option of init": (lambda: phalanx.init(shard=8), TypeError, ["init()", "'shard'"]),
    "no module in DataParallel": (lambda: phalanx.DataParallel(5), TypeError, ["Module", "got int"]),
    "DataParallel twice": (
        lambda: phalanx.DataParallel(phalanx.DataParallel(Net())), GraphError, ["is a DataParallel already"],
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _alone_again() -> Iterator[None]:
    yield
    phalanx.shutdown()


@pytest.mark.parametrize("name", CASES)
def test_one_clear_error(name: str) -> None:
    cause, kind, words = CASES[name]
    with pytest.raises(Exception) as caught:
        cause()
    message = str(caught.value)
    assert isinstance(caught.value, kind), f"{type(caught.value).__name__}: {message}"
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    assert issubclass(kind, PhalanxError) or kind in (TypeError, AttributeError, NotImplementedError)


def test_a_wrong_seed_changes_nothing() -> None:
    phalanx.init(seed=5)
    with pytest.raises(RangeError):
        phalanx.manual_seed(2.5)  # type: ignore[arg-type]
    assert phalanx.initial_seed() == 5


# ---- NaN -------------------------------------------------------------------------------------------------------------


class Log(nn.Module):
    def forward(self, x: phalanx.Tensor) -> phalanx.Tensor:
        return x.log()


def model_with_log() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh(), Log()), nn.Linear(4, 2))


def poison(model: nn.Module, name: str) -> nn.Module:
    model.state_dict()[name].data[...] = np.inf
    return model


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("model", "value", "where"),
    [
        (model_with_log(), 1.0, "layer '1.1' (Log())"),
        (model_with_log(), float("nan"), "input"),
        (poison(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), "1.bias"), 1.0, "parameter '1.bias'"),
        (poison(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "1.running_mean"), 1.0, "buffer '1.running_mean'"),
        (nn.Sequential(nn.Linear(3, 4)), 1.0, None),
    ],
)
def test_the_first_that_is_not_finite(model: nn.Module, value: float, where: str | None) -> None:
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    assert first_non_finite(model, phalanx.full((5, 3), value)) == where
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("shards", [None, 2])
def test_a_loss_that_is_nan_changes_nothing(shards: int | None) -> None:
    phalanx.init(shards=shards)
    model = phalanx.DataParallel(model_with_log())
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    before = [parameter.detach().numpy().copy() for parameter in model.parameters()]
    loader = DataLoader(TensorDataset(phalanx.ones(8, 3), phalanx.zeros(8, dtype=phalanx.long)), batch_size=4)
    message = (
        r"rank 0 of 1: the loss is nan in step 0.*first.*not finite is in layer '1\.1' \(Log\(\)\).*Nothing was updated"
    )
    with pytest.raises(NonFiniteError, match=message):
        for step in loader.steps():
            for x, y in step:
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
    for parameter, values in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.detach().numpy(), values)


def test_a_loss_that_is_nan_by_itself() -> None:
    phalanx.init()
    model = phalanx.DataParallel(nn.Linear(3, 2))
    with pytest.raises(
        NonFiniteError, match=re.escape("every layer's output is finite, so it arises in the loss itself")
    ):
        (model(phalanx.ones(4, 3)).sum() * float("inf")).backward()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_between_two_layers() -> None:
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: phalanx.Tensor) -> phalanx.Tensor:
            return self.second(-self.first(x).abs().log().abs().sqrt() * float("inf"))

    found = first_non_finite(Between(), phalanx.ones(5, 3))
    assert found is not None and found.startswith("the input of layer 'second' (Linear(")


# ---- whole jobs ------------------------------------------------------------------------------------------------------

TRAINING = """
import sys
import phalanx
from phalanx import nn, optim
from phalanx.data import DataLoader, TensorDataset

class Log(nn.Module):
    def forward(self, x):
        return x.log()

case, shards = sys.argv[1], int(sys.argv[2]) or None
phalanx.init(shards=shards, seed=3)
body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), Log() if case == "nan" else nn.ReLU())
model = phalanx.DataParallel(nn.Sequential(nn.Linear(4, 4), body, nn.Linear(8, 2)))
optimizer = optim.SGD(model.parameters(), lr=1e38 if case == "rate" else 0.1)
labels = phalanx.randint(0, 2, (16,))
if case == "label":
    labels[7] = 9  # the last of the first batch: the last rank's
loader = DataLoader(TensorDataset(phalanx.randn(16, 4), labels), batch_size=8)
while loader.epoch < 5:
    for step in loader.steps():
        optimizer.zero_grad()
        for x, y in step:
            nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
print("finished")
"""
WAYS = [
    ("alone", 0), ("run 2", 0), ("mpirun 2", 4),
    *(pytest.param(how, 4, marks=pytest.mark.whole) for how in ("alone", "run 2", "threads 2")),
]  # fmt: skip


def fails(how: str, folder: Path, text: str, *arguments: str) -> str:
    """The output of a script that must fail, within seconds."""
    script = folder / "script.py"
    script.write_text(text)
    code, output = run_job(how, *arguments, script=str(script), timeout_s=60)
    assert code != 0 and "finished" not in output, f"{how} ended with {code}:\n{output}"
    return output


@pytest.mark.parametrize(("how", "shards"), WAYS)
def test_nan_ends_the_job(how: str, shards: int, tmp_path: Path) -> None:
    output = fails(how, tmp_path, TRAINING, "nan", str(shards))
    ranks = 1 if how == "alone" else 2
    assert re.search(
        rf"NonFiniteError: rank [01] of {ranks}: the loss is nan in step 0; .* in layer '1\.2' \(Log\(\)\)", output
    )
    assert output.count("Traceback") == 1, output


@pytest.mark.parametrize("how", ["run 2", pytest.param("alone", marks=pytest.mark.whole)])
def test_a_rate_that_is_too_high_ends_the_job(how: str, tmp_path: Path) -> None:
    """Its steps make the weights huge: the first loss is finite, a later one is not."""
    output = fails(how, tmp_path, TRAINING, "rate", "4")
    found = re.search(
        r"the loss is (nan|inf) in step (\d+); the first value that is not finite is in (layer|parameter) '", output
    )
    assert found and int(found[2]) >= 1, output
    assert "lower the learning rate" in output and output.count("Traceback") == 1, output


@pytest.mark.parametrize(("how", "shards"), WAYS)
def test_a_wrong_label_names_the_rank(how: str, shards: int, tmp_path: Path) -> None:
    output = fails(how, tmp_path, TRAINING, "label", str(shards))
    position = 8 // (shards or (1 if how == "alone" else 2)) - 1
    assert f"RangeError: cross_entropy: label 9 at position {position} is out of range [0, 2)" in output
    assert output.count("Traceback") == 1, output
    if how.startswith("threads"):
        assert "raised on rank 1 of 2" in output
    elif how != "alone":
        assert "rank 1 of 2 failed" in output and "rank 0 of 2 failed" not in output


SAME_ON_ALL = {
    "a syntax error": ("x = (\n", ["SyntaxError: '(' was never closed", "script.py", "line 1"]),
    "a missing module": ("import phalanx\nimport nosuchmodule\n", ["No module named 'nosuchmodule'", "line 2"]),
    "an error after init": ("import phalanx\nphalanx.init()\n{}['key']\n", ["KeyError: 'key'", "line 3"]),
    "an error at each rank's own pace": (
        "import os, time\ntime.sleep(0.15 * int(os.environ.get('PHALANX_RANK', '0')))\n{}['key']\n", ["KeyError: 'key'"],
    ),
    "a wrong argument of the script": (
        "import argparse\nargparse.ArgumentParser(prog='train').parse_args()\n", ["train: error: unrecognized", "--epocs"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "how", ["run 4", *(pytest.param(how, marks=pytest.mark.whole) for how in ("alone", "run 2", "threads 2"))]
)
@pytest.mark.parametrize("name", SAME_ON_ALL)
def test_what_fails_on_all_ranks_is_said_once(name: str, how: str, tmp_path: Path) -> None:
    text, words = SAME_ON_ALL[name]
    output = fails(how, tmp_path, text, "--epocs")
    for word in words:
        assert word in output, output
    assert len(re.findall(r"SyntaxError|Traceback|usage:", output)) == 1, output


COMMANDS = {
    "no ranks": (["-n", "0", "SCRIPT"], "phalanx run: -n 0: expected at least 1 rank"),
    "fewer than no ranks": (["-n", "-3", "SCRIPT"], "phalanx run: -n -3: expected at least 1 rank"),
    "ranks that are no number": (["-n", "two", "SCRIPT"], "phalanx run: argument -n/--ranks: invalid int value: 'two'"),
    "no such script": (["-n", "2", "tain.py"], "phalanx run: tain.py: no such script (in "),
    "no script": (["-n", "2"], "phalanx run: the following arguments are required: script (see phalanx run --help)"),
    "an unknown option": (["--rank", "2", "SCRIPT"], "phalanx run: unknown option --rank"),
    "an option of another kind": (["--mpi", "--threads", "SCRIPT"], "phalanx run: --threads and --mpi are two ways"),
    "no time": (["--timeout", "0", "SCRIPT"], "phalanx run: --timeout 0: expected seconds above 0"),
    "checks after no steps": (
        ["--check-replicas", "0", "SCRIPT"],
        "phalanx run: --check-replicas 0: expected a number of steps, at least 1",
    ),
    "fewer than no restarts": (["--restarts", "-1", "SCRIPT"], "phalanx run: --restarts -1: expected 0 or more"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_command_is_one_line(name: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments, words = COMMANDS[name]
    (tmp_path / "script.py").write_text("print('started')")
    arguments = [str(tmp_path / "script.py") if argument == "SCRIPT" else argument for argument in arguments]
    try:
        code = main(["run", *arguments])
    except SystemExit as leaving:
        code = int(str(leaving.code))
    printed = capfd.readouterr()
    assert code == 2 and not printed.out
    assert printed.err.startswith(words) and printed.err.count("\n") == 1, printed.err


def test_no_such_script_from_a_shell() -> None:
    code, output = run_job("run 2", script="tain.py", timeout_s=30)
    assert (code, output) == (2, f"phalanx run: tain.py: no such script (in {ROOT})\n")


def test_no_mpirun(tmp_path: Path) -> None:
    """A Python with nothing beside it, an empty PATH and no packages: the launcher needs none, not even NumPy."""
    python = tmp_path / "python"
    python.symlink_to(Path(sys.executable).resolve())
    job = Job([str(python), "-S", "-m", "phalanx", "run", "--mpi", "-n", "2", EXAMPLE], extra={"PATH": str(tmp_path)})
    code, output = job.start().finish(30)
    assert code == 2 and output.count("\n") == 1, output
    assert output.startswith("phalanx run: --mpi: there is no mpirun beside") and "pip install 'phalanx[mpi]'" in output
    assert "leave out --mpi to use ZeroMQ" in output


def test_a_checkpoint_folder_that_is_not_there(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["ckpt", "ls", str(tmp_path / "none")]) == 2
    printed = capfd.readouterr().err
    assert str(tmp_path / "none") in printed and printed.count("\n") == 1, printed
