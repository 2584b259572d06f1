"""State dicts out and in: files that PyTorch reads and wrote, names translated, damage told, nothing lost."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import CheckpointError, DTypeError, RangeError, StateError

ROOT = Path(__file__).resolve().parents[2]


def net() -> Any:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def arrays(state: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(value.detach()) for name, value in state.items()}


def assert_equal(first: Any, second: Any) -> None:
    first, second = arrays(first), arrays(second)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype, name
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


# ---- alone


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    model, twin = net(), net()
    phalanx.save(model, tmp_path / "m.safetensors")
    assert str(twin.load_state_dict(phalanx.load(tmp_path / "m.safetensors"))) == "<All keys matched successfully>"
    assert_equal(model.state_dict(), twin.state_dict())
    judge = load_file(tmp_path / "m.safetensors")
    assert sorted(judge) == sorted(model.state_dict())
    assert judge["1.num_batches_tracked"].dtype == np.int64
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors"]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)])
def test_dtypes_and_shapes(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    values = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) * 3).astype(dtype)
    phalanx.save({"x": values, "turned": values.T, "y": np.float32([1])}, tmp_path / "x")
    found = phalanx.load(tmp_path / "x")
    assert found["x"].dtype == values.dtype and found["x"].shape == shape
    np.testing.assert_array_equal(found["x"].array, values)
    np.testing.assert_array_equal(load_file(tmp_path / "x")["turned"], values.T)
    found["x"].array[...] = 0  # it is the caller's own


def test_a_whole_training_state(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    model(phalanx.ones(3, 2)).sum().backward()
    optimizer.step()
    saved = {"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "best": (0.5, None, [True])}
    phalanx.save(saved, tmp_path / "all.pt")
    found = phalanx.load(tmp_path / "all.pt", map_location="cpu", weights_only=True)
    assert found["epoch"] == 3 and found["best"] == (0.5, None, [True])
    twin = nn.Linear(2, 1)
    twin.load_state_dict(found["model"])
    other = optim.Adam(twin.parameters(), lr=0.9)
    other.load_state_dict(found["optimizer"])
    for one, with_ in ((model, optimizer), (twin, other)):
        with_.zero_grad()
        one(phalanx.ones(3, 2)).square().sum().backward()
        with_.step()
    assert_equal(model.state_dict(), twin.state_dict())


def test_the_bytes_follow_from_the_state(tmp_path: Path) -> None:
    state = net().state_dict()
    phalanx.save(state, tmp_path / "a")
    phalanx.save(dict(reversed(state.items())), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_model_in_data_parallel_has_its_own_names(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    phalanx.save(phalanx.DataParallel(model), tmp_path / "m")
    assert sorted(phalanx.load(tmp_path / "m")) == ["bias", "weight"]
    phalanx.shutdown()


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_ranks_the_first_writes(tmp_path: Path, monkeypatch: Any, rank: int) -> None:
    for module in ("state", "folder"):
        monkeypatch.setattr(f"phalanx.model_io.{module}.joined", lambda: SimpleNamespace(rank=rank))
    phalanx.save(nn.Linear(2, 1), tmp_path / "m")
    phalanx.save_model(nn.Linear(2, 1), tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == (["folder", "m"] if rank == 0 else [])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_tied_weights(tmp_path: Path) -> None:
    model, twin = Tied(), Tied()
    phalanx.save(model, tmp_path / "both")
    assert sorted(load_file(tmp_path / "both")) == ["embedding.weight", "head.weight"]
    save_file({"embedding.weight": model.embedding.weight.detach().numpy()}, tmp_path / "one")
    assert not phalanx.load_into(twin, tmp_path / "one").missing_keys
    assert_equal(model.state_dict(), twin.state_dict())
    assert twin.head.weight is twin.embedding.weight


# ---- beside PyTorch


@pytest.mark.torch
def test_pytorch_reads_and_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as torch_load
    from safetensors.torch import save_file as torch_save
    from safetensors.torch import save_model as torch_save_model

    path = str(tmp_path / "x.safetensors")
    layers = torch.nn
    twin = layers.Sequential(layers.Conv2d(1, 2, 3), layers.BatchNorm2d(2), layers.Flatten(), layers.Linear(2, 3))
    model = net()
    phalanx.save(model, path)
    assert str(twin.load_state_dict(torch_load(path))) == "<All keys matched successfully>"
    assert_equal(model.state_dict(), twin.state_dict())

    for dtype in (torch.float16, torch.bfloat16):
        fresh = net()
        twin.to(dtype)
        torch_save(twin.state_dict(), path)
        phalanx.load_into(fresh, path)
        fresh.load_state_dict(phalanx.load(path))
        expected = {name: value.to(torch.float32) if value.is_floating_point() else value for name, value in twin.state_dict().items()}  # fmt: skip
        assert_equal(fresh.state_dict(), expected)
        assert phalanx.load(path, dtype="float64")["3.weight"].dtype == np.float64

    every = torch.arange(256, dtype=torch.uint8)
    eights = {str(dtype): every.clone().view(dtype) for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)}
    torch_save(eights, path)
    assert_equal(phalanx.load(path), {name: value.float() for name, value in eights.items()})

    tied = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    torch_save_model(tied, path)
    mine = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    mine.load_state_dict(phalanx.load(path))
    assert_equal(mine.state_dict(), tied.state_dict())

    phalanx.save(tied.state_dict(), path)
    assert_equal(phalanx.load(path), tied.state_dict())


def pickled(folder: Path) -> tuple[Any, str]:
    """A model of PyTorch in both of its formats, and what is said of the newer one."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(2, 1)
    torch.save(model.state_dict(), folder / "m.pt")
    torch.save(model.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("old.pt", "m.pt"):
        with pytest.raises(CheckpointError, match=r"is a pickle of PyTorch's.*convert it once: python -c") as caught:
            phalanx.load(folder / name)
    return model, str(caught.value)


@pytest.mark.torch
def test_a_pickle_is_refused(tmp_path: Path) -> None:
    pickled(tmp_path)


@pytest.mark.torch
def test_the_recipe_for_a_pickle(tmp_path: Path) -> None:
    model, words = pickled(tmp_path)
    command = words.partition("once: python ")[2]
    subprocess.run(f"{sys.executable} {command}", shell=True, check=True, timeout=60)
    assert_equal(phalanx.load(tmp_path / "m.safetensors"), model.state_dict())


# ---- names


def test_names_are_translated(tmp_path: Path) -> None:
    theirs = {"h.0.mlp.c_fc.weight": np.arange(6, dtype=np.float16).reshape(2, 3), "h.0.mlp.c_fc.bias": np.zeros(3, np.float32),
              "h.0.attn.mask": np.ones(2, bool)}  # fmt: skip
    save_file(theirs, tmp_path / "gpt")
    model = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(StateError) as caught:
        phalanx.load_into(model, tmp_path / "gpt")
    for words in ("missing (2): 0.weight, 0.bias", "unexpected (3): ", "rename="):
        assert words in str(caught.value)
    maps: list[Any] = [
        {r"^h\.(\d+)\.mlp\.c_fc": r"\1", r"^h.*mask$": "mask"},
        lambda name: name.replace("h.0.mlp.c_fc", "0") if "mask" not in name else None,
    ]
    for rename, unexpected in zip(maps, (["mask"], []), strict=True):
        found = phalanx.load_into(model, tmp_path / "gpt", False, rename, transpose=r".*c_fc\.weight")
        assert found == ([], unexpected)
        np.testing.assert_array_equal(model[0].weight.detach().numpy(), theirs["h.0.mlp.c_fc.weight"].T)
    with pytest.raises(RangeError, match="gives both"):
        phalanx.load_into(model, tmp_path / "gpt", rename=lambda name: "same")


def test_hooks_hear_of_it(tmp_path: Path) -> None:
    heard: list[Any] = []
    model = nn.Linear(2, 1)
    model.register_load_state_dict_post_hook(lambda module, result: heard.append(result))
    phalanx.save(model, tmp_path / "m")
    phalanx.load_into(model, tmp_path / "m")
    assert len(heard) == 1

    def older(module: Any, state: Any, prefix: str, *_: Any) -> None:
        state[f"{prefix}weight"] = state.pop(f"{prefix}w")

    model.register_load_state_dict_pre_hook(older)
    save_file({"w": np.ones((1, 2), np.float32), "bias": np.zeros(1, np.float32)}, tmp_path / "old")
    assert phalanx.load_into(model, tmp_path / "old") == ([], [])
    assert model.weight.tolist() == [[1.0, 1.0]]


def test_a_file_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    before = {name: value.copy() for name, value in arrays(model.state_dict()).items()}
    save_file({"weight": np.zeros((1, 2), np.float32), "bias": np.zeros(2, np.float32)}, tmp_path / "a")
    save_file({"weight": np.zeros((1, 2), np.int64), "bias": np.zeros(1, np.float32)}, tmp_path / "b")
    for file, words in (
        ("a", r"bias: shape \(1,\) expected, the file has \(2,\)"),
        ("b", "float32 expected, the file has I64"),
    ):
        with pytest.raises(StateError, match=words):
            phalanx.load_into(model, tmp_path / file, strict=False)
        assert_equal(model.state_dict(), {name: phalanx.Tensor(value) for name, value in before.items()})


# ---- several files


def shards(folder: Path) -> dict[str, np.ndarray]:
    tensors = {"a": np.float32([1, 2]), "b": np.float32([3]), "c": np.int64([4])}
    save_file({"a": tensors["a"]}, folder / "m-1-of-2.safetensors")
    save_file({"b": tensors["b"], "c": tensors["c"]}, folder / "m-2-of-2.safetensors")
    table = {"a": "m-1-of-2.safetensors", "b": "m-2-of-2.safetensors", "c": "m-2-of-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return tensors


def test_files_with_an_index(tmp_path: Path) -> None:
    tensors = shards(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert_equal(phalanx.load(path), {name: phalanx.Tensor(value) for name, value in tensors.items()})


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda index: index["weight_map"].update(d="m-1-of-2.safetensors"), "its files lack .1.: d"),
        (lambda index: index["weight_map"].update(a="../m-1-of-2.safetensors"), "same folder"),
        (lambda index: index["weight_map"].update(a="m-3-of-2.safetensors"), "No such file"),
        (lambda index: index.pop("weight_map"), "weight_map"),
    ],
)
def test_a_wrong_index(tmp_path: Path, change: Any, words: str) -> None:
    shards(tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=words):
        phalanx.load(tmp_path)


# ---- damage


def build(header: Any, data: bytes = b"\0" * 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def row(dtype: Any = "F32", shape: Any = (2,), data_offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}


DAMAGED = {
    "empty": b"",
    "seven bytes": b"1234567",
    "a header beyond the end": (1 << 40).to_bytes(8, "little") + b"{}",
    "no JSON": build(b"{nonsense"),
    "no UTF-8": build(b"\xff\xfe"),
    "a list": build([1]),
    "deep": build(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "a name twice": build(b'{"a":%s,"a":%s}' % ((json.dumps(row()).encode(),) * 2)),
    "a row without shape": build({"a": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "a negative size": build({"a": row(shape=(-2,))}),
    "a size of text": build({"a": row(shape=("2",))}),
    "offsets turned round": build({"a": row(data_offsets=(8, 0))}),
    "too few bytes for the shape": build({"a": row(shape=(3,))}),
    "an unknown type": build({"a": row(dtype="C64", shape=(1,))}),
    "a hole": build({"a": row(data_offsets=(4, 12))}, b"\0" * 12),
    "an overlap": build({"a": row(), "b": row(data_offsets=(4, 12))}, b"\0" * 12),
    "the same bytes twice": build({"a": row(), "b": row()}, b"\0" * 16),
    "a size beyond all": build({"a": row(shape=(2**70, 0), data_offsets=(0, 0))}, b""),
    "too many dimensions": build({"a": row(shape=(1,) * 70, data_offsets=(0, 4))}, b"\0" * 4),
    "truncated": build({"a": row()}, b"\0" * 7),
    "too long": build({"a": row()}, b"\0" * 9),
    "metadata of numbers": build({"__metadata__": {"a": 1}, "b": row()}),
    "a form that is no JSON": build({"__metadata__": {"phalanx": "{"}, "b": row()}),
    "a form of another kind": build({"__metadata__": {"phalanx": '{"call": []}'}, "b": row()}),
    "a form with a list as a key": build({"__metadata__": {"phalanx": '{"dict": [[[1], 2]]}'}, "b": row()}),
    "a form that names what is not there": build({"__metadata__": {"phalanx": '{"tensor": "x"}'}, "b": row()}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_clear_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(DAMAGED[name])
    with pytest.raises(CheckpointError) as caught:
        phalanx.load(path)
    assert len(str(caught.value)) < 900


def test_no_flipped_byte_is_another_error(tmp_path: Path) -> None:
    path = tmp_path / "m"
    phalanx.save({"w": np.ones((2, 3), np.float32), "n": 3, "more": [np.zeros(2, np.int64)]}, path)
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    for place in range(end):
        value = (data[place] ^ 1, data[place] ^ 128, 0)[place % 3]
        path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
        with contextlib.suppress(CheckpointError):
            phalanx.load(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*nothing: No such file"):
        phalanx.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"no \.safetensors file"):
        phalanx.load(tmp_path)
    with pytest.raises(CheckpointError, match="cannot write"):
        phalanx.save({}, tmp_path / "no" / "folder")


@pytest.mark.parametrize(
    "obj, words",
    [
        ({"a": object()}, "got object at a"),
        ({"layers": [nn.Linear(1, 1)]}, r"got Linear at layers/0: save its state_dict\(\)"),
        (lambda: 1, "got function"),
        ({(1, 2): 3}, "keys of a dict"),
        ({"a": np.zeros(2, np.complex64)}, "complex64"),
    ],
)
def test_what_cannot_be_saved(tmp_path: Path, obj: Any, words: str) -> None:
    with pytest.raises(DTypeError, match=words):
        phalanx.save(obj, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    phalanx.save({"w": np.ones(10, np.float32)}, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="a limit forbids files of this size"):
            phalanx.save({"w": np.ones(1_000_000, np.float32)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
