"""RNN, LSTM, GRU, their cells and packed sequences beside PyTorch's: outputs, states, gradients of all that has one."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import DTypeError, RangeError, ShapeError
from phalanx.core.op import TABLE
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist.communicators.threads import run_threads
from phalanx.nn.utils import rnn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

N, L, D, H = 4, 6, 3, 5
LENGTHS = [6, 4, 4, 1]
KINDS = ("RNN", "LSTM", "GRU")


def twins(kind: str, dtype=np.float64, **options):
    """PyTorch's layer and ours with its weights."""
    torch.manual_seed(3)
    theirs = getattr(torch.nn, kind)(D, H, **options).to(getattr(torch, np.dtype(dtype).name))
    mine = getattr(nn, kind)(D, H, **options).to(dtype)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


def draw(*shape: int, dtype=np.float64, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def flat(value) -> list:
    """All tensors of an output."""
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in flat(part)]
    return [] if value is None else [value]


def alike(ours, others, tolerance: float = 1e-9) -> None:
    ours, others = flat(ours), flat(others)
    assert len(ours) == len(others)
    for index, (a, b) in enumerate(zip(ours, others, strict=True)):
        a, b = a.detach().numpy(), b.detach().numpy()
        assert a.shape == b.shape and a.dtype == b.dtype, (index, a.shape, b.shape, a.dtype, b.dtype)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=f"part {index}")


def backwards(value, library) -> None:
    """Backward from all floating outputs with fixed gradients."""
    parts = [t for t in flat(value) if t.requires_grad]
    total = sum((t * library.tensor(draw(*t.shape, dtype=t.detach().numpy().dtype, seed=9))).sum() for t in parts)
    total.backward()


def compare(mine, theirs, run, arrays, tolerance: float = 1e-9) -> None:
    """``run(layer, library, *tensors)`` gives equal outputs, and equal gradients of the tensors and parameters."""
    found = []
    for layer, library in ((mine, phalanx), (theirs, torch)):
        tensors = [library.tensor(a, requires_grad=True) for a in arrays]
        output = run(layer, library, *tensors)
        backwards(output, library)
        found.append((output, [t.grad for t in tensors], [p.grad for p in layer.parameters()]))
    for ours, others in zip(*found, strict=True):
        alike(ours, others, tolerance)


OPTIONS = {
    "plain": {},
    "batch first": {"batch_first": True},
    "stacked": {"num_layers": 3, "bias": False},
    "both ways": {"num_layers": 2, "bidirectional": True, "batch_first": True},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_layer_beside_torch(kind: str, options: str) -> None:
    chosen = OPTIONS[options]
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-10)):
        mine, theirs = twins(kind, dtype, **chosen)
        shape = (N, L, D) if chosen.get("batch_first") else (L, N, D)
        compare(mine, theirs, lambda layer, _, x: layer(x), [draw(*shape, dtype=dtype)], tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_given_states_and_no_batch(kind: str) -> None:
    mine, theirs = twins(kind, num_layers=2, bidirectional=True)

    def run(layer, _, x, h, *c):
        return layer(x, (h, *c) if c else h)

    for x, state in (((L, N, D), (4, N, H)), ((L, D), (4, H))):
        states = [draw(*state, seed=k) for k in range(2 if kind == "LSTM" else 1)]
        compare(mine, theirs, run, [draw(*x), *states])


def test_variants() -> None:
    for kind, options in (
        ("RNN", {"nonlinearity": "relu"}),
        ("LSTM", {"proj_size": 2, "num_layers": 2, "bidirectional": True}),
    ):
        mine, theirs = twins(kind, **options)
        compare(mine, theirs, lambda layer, _, x: layer(x), [draw(L, N, D)])
    assert nn.RNN(D, H, 1, "relu").mode == "RNN_RELU" and nn.RNN(D, H).mode == "RNN_TANH"


@pytest.mark.parametrize("lengths", [LENGTHS, [4, 6, 1, 4]])
@pytest.mark.parametrize("kind", KINDS)
def test_packed(kind: str, lengths: list[int]) -> None:
    mine, theirs = twins(kind, num_layers=2, bidirectional=True, batch_first=True)

    def run(layer, library, x, *state):
        tools = library.nn.utils.rnn
        packed = tools.pack_padded_sequence(
            x, library.tensor(lengths), batch_first=True, enforce_sorted=lengths == LENGTHS
        )
        hx = None if not state else state if kind == "LSTM" else state[0]
        output, last = layer(packed, hx)
        padded, back = tools.pad_packed_sequence(output, batch_first=True)
        assert back.tolist() == lengths and type(output) is type(packed)
        return padded, last

    x = draw(N, L, D)
    compare(mine, theirs, run, [x])
    compare(mine, theirs, run, [x, *[draw(4, N, H, seed=k) for k in range(2 if kind == "LSTM" else 1)]])


@pytest.mark.parametrize("kind", KINDS)
def test_mask_at_the_end_is_packing(kind: str) -> None:
    mine, _ = twins(kind, num_layers=2, bidirectional=True)
    x, lengths = phalanx.tensor(draw(L, N, D)), [3, 6, 1, 2]
    packed, last = mine(rnn.pack_padded_sequence(x, lengths, enforce_sorted=False))
    mask = phalanx.tensor(np.arange(L)[:, None] < np.asarray(lengths)[None])
    output, masked_last = mine(x, mask=mask)
    alike(output, rnn.pad_packed_sequence(packed)[0])
    alike(masked_last, last)


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_step_passes_the_state_by(kind: str) -> None:
    """Whatever stands there, wherever it stands; a sequence without any step keeps its first state."""
    mine, _ = twins(kind, num_layers=2, batch_first=True)
    mask = np.array([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], bool)
    x = draw(N, L, D)
    states = [phalanx.tensor(draw(2, N, H, seed=k)) for k in range(2 if kind == "LSTM" else 1)]
    hx = tuple(states) if kind == "LSTM" else states[0]
    output, last = mine(phalanx.tensor(x), hx, mask=phalanx.tensor(mask))
    for n in range(N):
        own = tuple(s[:, n : n + 1] for s in states)
        if not mask[n].any():
            alike([s[:, n : n + 1] for s in flat(last)], own)
            assert not output.numpy(force=True)[n].any()
            continue
        y, alone = mine(phalanx.tensor(x[n : n + 1, mask[n]]), own if kind == "LSTM" else own[0])
        alike(output[n][phalanx.tensor(mask[n])], y[0])
        alike([s[:, n : n + 1] for s in flat(last)], flat(alone))
    hidden = mine(phalanx.tensor(x[0]), mask=phalanx.tensor(mask[0]))[0]
    assert hidden.shape == (L, H) and not hidden.numpy(force=True)[~mask[0]].any()


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(name: str) -> None:
    for options in ({}, {"bias": False}, *([{"nonlinearity": "relu"}] if name == "RNNCell" else [])):
        mine, theirs = twins(name, **options)
        assert repr(mine) == repr(theirs)

        def run(layer, _, x, h, c):
            for _ in range(2):
                state = layer(x, (h, c) if name == "LSTMCell" else h)
                h, c = state if name == "LSTMCell" else (state, c)
            return h, c, layer(x)

        for shape in ((N,), ()):
            compare(mine, theirs, run, [draw(*shape, D), draw(*shape, H), draw(*shape, H, seed=2)])


def test_cells_are_steps_of_the_layer() -> None:
    layer, cell = nn.GRU(D, H), nn.GRUCell(D, H)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    x, h = phalanx.tensor(draw(L, N, D, dtype=np.float32)), None
    for step in x:
        h = cell(step, h)
    alike(layer(x)[1][0], h, 1e-6)


def test_dropout_is_keyed_between_layers_and_off_in_evaluation() -> None:
    layer = nn.LSTM(D, H, num_layers=2, dropout=0.5)
    x = phalanx.tensor(draw(L, N, D, dtype=np.float32))
    phalanx.manual_seed(4)
    first, second = (layer(x)[0].numpy(force=True) for _ in range(2))
    phalanx.manual_seed(4)
    assert np.array_equal(first, layer(x)[0].numpy(force=True)) and not np.array_equal(first, second)
    layer.eval()
    assert np.array_equal(layer(x)[0].numpy(force=True), layer(x)[0].numpy(force=True))
    layer.train()
    layer.dropout = 1.0  # the second layer then sees zeros: the same at each step as without an input
    assert np.array_equal(layer(x)[0].numpy(force=True), layer(x * 2)[0].numpy(force=True))


def test_one_layer_and_direction_is_one_node_of_the_graph() -> None:
    layer = nn.LSTM(D, H, num_layers=2, bidirectional=True)
    output, _ = layer(phalanx.tensor(draw(50, N, D, dtype=np.float32)))
    seen, todo = set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += [edge for edge in node.edges if type(edge) is type(node)]
    assert sum(node.op is TABLE["lstm"] for node in seen) == 4 and len(seen) < 20


@pytest.mark.parametrize("kind", KINDS)
def test_names_repr_and_initial_values(kind: str) -> None:
    options = {"num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.5, "bidirectional": True}
    mine, theirs = getattr(nn, kind)(D, H, **options), getattr(torch.nn, kind)(D, H, **options)
    assert repr(mine) == repr(theirs) and repr(getattr(nn, kind)(D, H)) == repr(getattr(torch.nn, kind)(D, H))
    assert [[tuple(w.shape) for w in part] for part in mine.all_weights] == [
        [tuple(w.shape) for w in part] for part in theirs.all_weights
    ]
    mine.flatten_parameters()
    bound = 1 / np.sqrt(H)
    values = np.concatenate([p.numpy(force=True).ravel() for p in mine.parameters()])
    assert np.abs(values).max() <= bound and values.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)
    arguments = list(inspect.signature(getattr(nn, kind).__init__).parameters)[1:]
    base = [
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "device",
        "dtype",
    ]
    special = {"RNN": (3, "nonlinearity"), "LSTM": (7, "proj_size")}.get(kind)
    if special:
        base.insert(*special)
    assert arguments == base


@pytest.mark.parametrize("name", ["RNNBase", "RNNCell", "LSTMCell", "GRUCell"])
def test_arguments_are_torchs(name: str) -> None:
    mine, theirs = (inspect.signature(getattr(module, name).__init__).parameters for module in (nn, torch.nn))
    assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in theirs.values()]


def test_half_precision_and_frozen_weights() -> None:
    layer = nn.GRU(D, H).half()
    x = phalanx.tensor(draw(L, N, D, dtype=np.float16), requires_grad=True)
    output, last = layer(x)
    output.sum().backward()
    assert output.dtype == last.dtype == x.grad.dtype == layer.weight_hh_l0.grad.dtype == np.float16
    layer = nn.LSTM(D, H)
    layer.weight_ih_l0.requires_grad = False
    layer(phalanx.tensor(draw(L, N, D, dtype=np.float32)))[0].sum().backward()
    assert layer.weight_ih_l0.grad is None and layer.weight_hh_l0.grad is not None


def train_on_shards(shards: int) -> list[bytes]:
    """A few steps of a stacked LSTM with dropout over packed and masked sequences; the bits of its parameters."""
    phalanx.init(shards=shards, seed=6)
    try:
        lengths, labels = np.array([6, 2, 5, 1, 3, 4, 6, 2, 3, 5]), np.array([0, 1] * 5)
        data = TensorDataset(*map(phalanx.tensor, (draw(10, L, D, dtype=np.float32), lengths, labels)))
        layer, head = nn.LSTM(D, H, 2, batch_first=True, dropout=0.3, bidirectional=True), nn.Linear(2 * H, 2)

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer, self.head = layer, head

            def forward(self, x, lengths):
                packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
                output, _ = rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)
                mask = phalanx.tensor(np.arange(L)[None] < lengths.numpy()[:, None])
                masked, _ = self.layer(x, mask=mask)
                return self.head(output.sum(dim=1) + masked.mean(dim=1))

        model = phalanx.DataParallel(Net())
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        loader = DataLoader(data, batch_size=5, shuffle=True)
        for step in loader.steps():
            optimizer.zero_grad()
            for x, n, y in step:
                nn.functional.cross_entropy(model(x, n), y).backward()
            optimizer.step()
        return [p.detach().numpy().tobytes() for p in model.parameters()]
    finally:
        phalanx.shutdown()


def test_equal_bits_on_any_number_of_ranks() -> None:
    (expected,) = run_threads(lambda: train_on_shards(4), 1, timeout_s=30)
    for ranks in (2, 3):
        for found in run_threads(lambda: train_on_shards(4), ranks, timeout_s=30):
            assert found == expected


# ---------------------------------------------------------------- sequences


@pytest.mark.parametrize("name", rnn.__all__[1:])
def test_sequence_tools_take_torchs_arguments(name: str) -> None:
    mine, theirs = (inspect.signature(getattr(m, name)).parameters for m in (rnn, torch.nn.utils.rnn))
    assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in theirs.values()]


def test_pad_pack_and_back() -> None:
    arrays = [draw(length, 2, seed=length) for length in (3, 5, 1)]

    def run(_, library, *sequences):
        tools, found = library.nn.utils.rnn, []
        for options in ({}, {"batch_first": True, "padding_value": 2.5}, {"padding_side": "left"}):
            found.append(tools.pad_sequence(list(sequences), **options))
        packed = tools.pack_sequence(list(sequences), enforce_sorted=False)
        found += [packed.data, *tools.unpack_sequence(packed)]
        for options in ({}, {"batch_first": True, "padding_value": -1.0, "total_length": 8}):
            found.append(tools.pad_packed_sequence(packed, **options)[0])
        lengths = library.tensor([3, 5, 1])
        found += tools.unpad_sequence(tools.pad_sequence(list(sequences)), lengths)
        for part in packed[1:]:
            assert part.tolist() in ([3, 2, 2, 1, 1], [1, 0, 2])
        return found

    compare(nn.Identity(), torch.nn.Identity(), run, arrays)
    packed = rnn.pack_sequence([phalanx.ones(2), phalanx.ones(1)])
    assert packed.sorted_indices is None and not packed.is_cuda and packed.pin_memory() is packed
    for change, dtype in (("half", np.float16), ("float", np.float32), ("double", np.float64), ("long", np.int64)):
        assert getattr(packed, change)().data.dtype == dtype
    assert rnn.PackedSequence(packed.data, packed.batch_sizes, phalanx.tensor([1, 0])).unsorted_indices.tolist() == [
        1,
        0,
    ]


def test_an_empty_batch() -> None:
    packed = rnn.pack_padded_sequence(phalanx.ones(4, 0, 3), [])
    output, (h, c) = nn.LSTM(3, H)(packed)
    assert output.data.shape == (0, H) and h.shape == c.shape == (1, 0, H)
    assert rnn.pad_packed_sequence(output, total_length=4)[0].shape == (4, 0, H)
    y, last = nn.GRU(3, H, bidirectional=True)(phalanx.ones(4, 0, 3))
    assert y.shape == (4, 0, 2 * H) and last.shape == (2, 0, H)


# ---------------------------------------------------------------- wrong input


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.RNN(3, 0), "hidden_size"),
        (lambda: nn.RNN(3, 4, nonlinearity="sin"), "'sin'"),
        (lambda: nn.GRU(3, 4, dropout=1.5), "1.5"),
        (lambda: nn.LSTM(3, 4, proj_size=4), "proj_size"),
        (lambda: nn.RNNCell(3, 4, nonlinearity="sin"), "'sin'"),
        (lambda: rnn.pack_padded_sequence(phalanx.ones(3, 2), [1, 3]), "enforce_sorted=False"),
        (lambda: rnn.pack_padded_sequence(phalanx.ones(3, 2), [3, 0]), "from 1 to 3"),
        (lambda: rnn.pack_padded_sequence(phalanx.ones(3, 2), [4, 1]), "from 1 to 3"),
        (lambda: rnn.pad_packed_sequence(rnn.pack_sequence([phalanx.ones(3)]), total_length=2), "total_length 2"),
        (lambda: rnn.pad_sequence([phalanx.ones(3)], padding_side="middle"), "'middle'"),
    ],
)
def test_wrong_options(build, words: str) -> None:
    with pytest.raises(RangeError, match=words):
        build()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.LSTM(3, 4)(phalanx.ones(5, 2, 4)), "input_size=3"),
        (lambda: nn.LSTM(3, 4)(phalanx.ones(3)), r"\(L, N, features\)"),
        (lambda: nn.GRU(3, 4)(phalanx.ones(5, 2, 3), phalanx.ones(1, 3, 4)), r"\(1, 2, 4\).*got \(1, 3, 4\)"),
        (lambda: nn.GRU(3, 4)(phalanx.ones(5, 2, 3), mask=phalanx.ones(2, 5)), r"mask is boolean.*\(5, 2\)"),
        (lambda: nn.GRUCell(3, 4)(phalanx.ones(2, 4)), r"\(N, 3\)"),
        (lambda: nn.GRUCell(3, 4)(phalanx.ones(2, 3), phalanx.ones(2, 3)), r"\(2, 4\)"),
        (lambda: rnn.pack_padded_sequence(phalanx.ones(3), [1]), "2 or more"),
        (lambda: rnn.pack_padded_sequence(phalanx.ones(3, 2), [1]), "each of the 2"),
        (lambda: rnn.pad_sequence([phalanx.ones(3, 2), phalanx.ones(3, 1)]), "first dimension alone"),
    ],
)
def test_wrong_shapes(call, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        call()


def test_wrong_kinds() -> None:
    with pytest.raises(DTypeError, match=r"pair \(h, c\)"):
        nn.LSTM(3, 4)(phalanx.ones(5, 2, 3), phalanx.ones(1, 2, 4))
    with pytest.raises(DTypeError, match=r"pair \(h, c\)"):
        nn.LSTMCell(3, 4)(phalanx.ones(2, 3), phalanx.ones(2, 4))
    with pytest.warns(UserWarning, match="between layers"):
        nn.GRU(3, 4, dropout=0.5)
