"""The checkpoint format as bytes and names: layout, manifest, checksums. The safetensors library is the judge."""

from __future__ import annotations

import itertools
import json
import random
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, load_file

from phalanx.core import faults
from phalanx.core.checkpoint import checksum
from phalanx.core.checkpoint.format import BLOCK_NBYTES, byte_view, pieces, plain, plan, share
from phalanx.core.checkpoint.manifest import FileEntry, Manifest, TensorEntry, decode, encode
from phalanx.core.checkpoint.parts import complete, write
from phalanx.core.errors import CheckpointError, DTypeError, RangeError

DTYPES = (
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
)
SHAPES = ((), (1,), (3, 5), (0,), (4, 0, 2), (2, 3, 4))


def some_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Every dtype in every shape, with arbitrary bytes."""
    random_bytes = np.random.default_rng(seed)
    arrays = {}
    for dtype in DTYPES:
        for shape in SHAPES:
            high = 2 if dtype == "bool" else 256
            nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            data = random_bytes.integers(0, high, nbytes, np.uint8)
            arrays[f"model/{dtype}.{'x'.join(map(str, shape))}"] = data.view(dtype).reshape(shape)
    return arrays


def file_bytes(arrays: dict[str, np.ndarray], file: str, parts: int = 1, block_nbytes: int = 32) -> bytes:
    """A file put together from the pieces of ``parts`` writers, in any order."""
    layout = plan(arrays)
    entry = next(entry for entry in layout.files if entry.name == file)
    data = bytearray(b"\xee" * entry.nbytes)
    covered = np.zeros(entry.nbytes, np.int64)
    shares = share([entry], parts, block_nbytes)
    random.Random(parts).shuffle(shares)
    for piece in (piece for ranges in shares for piece in pieces(layout.files, layout.tensors, ranges)):
        source = layout.headers[file] if piece.tensor is None else byte_view(arrays[piece.tensor])
        data[piece.offset : piece.offset + piece.nbytes] = source[piece.lo : piece.lo + piece.nbytes]
        covered[piece.offset : piece.offset + piece.nbytes] += 1
    assert (covered == 1).all(), "every byte is written by exactly one writer"
    return bytes(data)


def some_manifest() -> Manifest:
    layout = plan({"model/w": np.ones((2, 3), np.float32), "optimizer/exp_avg/w": np.ones((2, 3), np.float32)})
    files = [FileEntry(f.name, f.nbytes, f.header_nbytes, "crc32:00000001") for f in layout.files]
    tensors = [
        TensorEntry(t.name, t.dtype, t.shape, t.file, t.offset, t.nbytes, "crc32:0000000a") for t in layout.tensors
    ]
    return Manifest(
        step=41,
        seed=2**64 - 1,
        shards=8,
        cursor={"step": 41, "epoch": 1},
        scalars={"optimizer": {"lr": 1e-05, "betas": [0.9, 0.999]}},
        config={"note": 'Größe "x" \\ 雪', "empty": {}},
        files=tuple(files),
        tensors=tuple(tensors),
    )


# -- layout ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 100])
def test_the_library_reads_every_dtype_and_shape_whoever_wrote(parts: int) -> None:
    arrays = some_arrays()
    data = file_bytes(arrays, "model.safetensors", parts)
    assert data == file_bytes(arrays, "model.safetensors", 1)
    loaded = load(data)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == array.tobytes(), name


def test_layout_depends_on_names_alone_and_is_aligned() -> None:
    arrays = some_arrays()
    shuffled = list(arrays.items())
    random.Random(1).shuffle(shuffled)
    assert plan(dict(shuffled)) == plan(arrays)
    for entry in plan(arrays).tensors:
        assert entry.offset % np.dtype(entry.dtype).itemsize == 0
    assert all(entry.header_nbytes % 256 == 0 for entry in plan(arrays).files)


def test_one_file_for_each_family() -> None:
    layout = plan({"optimizer/exp_avg/w": np.zeros(1), "model/w": np.zeros(1), "model/d.w": np.zeros(1)})
    assert [entry.name for entry in layout.files] == ["model.safetensors", "optimizer.safetensors"]
    assert plan({}).files == ()


@pytest.mark.parametrize("name", ["w", "/w", "model/", "../x/w", "a.b/w", ""])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(RangeError, match="FAMILY/NAME"):
        plan({name: np.zeros(1)})


@pytest.mark.parametrize("dtype", ["complex64", "U3", "datetime64[s]", "object"])
def test_other_dtypes_are_refused_by_name(dtype: str) -> None:
    with pytest.raises(DTypeError, match="model/w has dtype"):
        plan({"model/w": np.zeros(1, dtype)})


def test_contiguous_arrays_are_not_copied_others_give_the_same_bytes() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.shares_memory(np.frombuffer(byte_view(array), np.float32), array)
    assert bytes(byte_view(array.T)) == array.T.tobytes()
    assert bytes(byte_view(array.astype(">f4"))) == array.tobytes()
    assert bytes(byte_view(np.array(7, np.int16))) == b"\x07\x00"


@given(st.lists(st.integers(0, 5000), min_size=0, max_size=5), st.integers(1, 9), st.integers(1, 700))
@settings(max_examples=100, deadline=None)
def test_shares_cover_every_byte_once_and_are_even(sizes: list[int], parts: int, block_nbytes: int) -> None:
    files = [FileEntry(f"f{i}", nbytes, 0, "") for i, nbytes in enumerate(sizes)]
    shares = share(files, parts, block_nbytes)
    assert len(shares) == parts
    rows = [(part.file, part.lo, part.hi) for ranges in shares for part in ranges]
    for entry in files:
        edges = sorted((lo, hi) for file, lo, hi in rows if file == entry.name)
        assert [lo for lo, _ in edges] == [0, *[hi for _, hi in edges[:-1]]][: len(edges)]
        assert (edges[-1][1] if edges else 0) == entry.nbytes
    loads = [sum(-(-part.hi // block_nbytes) - part.lo // block_nbytes for part in ranges) for ranges in shares]
    assert max(loads) - min(loads) <= 1


def test_small_files_stay_with_few_writers() -> None:
    assert [len(ranges) for ranges in share([FileEntry("a", BLOCK_NBYTES, 0, "")], 4)] == [0, 0, 0, 1]


# -- checksums ---------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
@settings(max_examples=200, deadline=None)
def test_joined_checksums_are_those_of_the_whole(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[lo:hi] for lo, hi in itertools.pairwise(edges)]
    assert checksum.join((zlib.crc32(chunk), len(chunk)) for chunk in chunks) == zlib.crc32(data)


def test_checksum_of_a_large_array_and_its_words() -> None:
    data = np.random.default_rng(0).integers(0, 256, 40_000_001, np.uint8)
    assert checksum.crc32(data) == zlib.crc32(data)
    halves = (data[:17_000_003], data[17_000_003:])
    assert checksum.join((zlib.crc32(half), half.nbytes) for half in halves) == zlib.crc32(data)
    assert checksum.text(255) == "crc32:000000ff"
    with pytest.raises(CheckpointError, match="algorithm"):
        checksum.require_known("blake3:00")


# -- manifest ----------------------------------------------------------------------------------------------------------


def test_manifest_round_trip_is_json_that_a_person_can_read() -> None:
    manifest = some_manifest()
    data = encode(manifest)
    assert decode(data) == manifest
    content = json.loads(data)
    assert (content["format"], content["version"], content["step"]) == ("phalanx checkpoint", 1, 41)
    assert len(data.splitlines()) == 16 + len(content["files"]) + len(content["tensors"])
    assert decode(encode(Manifest(step=0))) == Manifest(step=0)


def test_every_changed_byte_of_a_manifest_is_found() -> None:
    data = encode(some_manifest())
    for position in range(len(data)):
        for other in {data[position] ^ 1, data[position] ^ 0x20, 0x20, 0x0A, 0x0D, 0x30, 0xFF} - {data[position]}:
            changed = data[:position] + bytes([other]) + data[position + 1 :]
            with pytest.raises(CheckpointError):
                decode(changed)


def test_what_is_wrong_with_a_manifest_is_said() -> None:
    data = encode(some_manifest())
    for changed, words in (
        (data.replace(b'"epoch":1', b'"epoch":2'), "checksum differs: it says crc32:"),
        (data.replace(b'"step": 41', b'"step":  41'), "outside of its content"),
        (data[:100], "cannot be read"),
    ):
        with pytest.raises(CheckpointError, match=words):
            decode(changed)


def test_every_cut_and_every_added_byte_of_a_manifest_is_found() -> None:
    data = encode(some_manifest())
    for cut in range(len(data)):
        with pytest.raises(CheckpointError):
            decode(data[:cut])
    for changed in (
        data + b"\n",
        b" " + data,
        data.replace(b"\n", b"\r\n"),
        data + data,
        b"[]",
        b"{}",
        b"null",
        b"\xff",
    ):
        with pytest.raises(CheckpointError):
            decode(changed)


def rewritten(**changes: object) -> bytes:
    """A manifest with a right checksum over wrong content."""
    content = {**json.loads(encode(some_manifest())), **changes}
    content.pop("checksum")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps(content | {"checksum": f"crc32:{zlib.crc32(text.encode()):08x}"}).encode()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "other"}, "'other'"),
        ({"step": 41, "extra": 1}, "extra"),
        ({"files": [{"name": "x"}]}, "not of version 1"),
        (
            {"files": [{"name": "../x", "nbytes": 1, "header_nbytes": 1, "checksum": "crc32:0"}], "tensors": []},
            "file name",
        ),
        ({"files": []}, "model.safetensors"),
    ],
)
def test_other_content_with_a_right_checksum_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        decode(rewritten(**changes))


def test_a_tensor_outside_of_its_file_is_refused() -> None:
    rows = json.loads(encode(some_manifest()))["tensors"]
    for key, value in (("offset", 10**6), ("nbytes", 25), ("offset", -24), ("shape", [7])):
        with pytest.raises(CheckpointError, match="tensor model/w"):
            decode(rewritten(tensors=[rows[0] | {key: value}, rows[1]]))
    with pytest.raises(CheckpointError, match="algorithm"):
        decode(rewritten(tensors=[rows[0] | {"checksum": "md5:00"}, rows[1]]))


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_plain_keeps_what_json_holds() -> None:
    value = {"a": (1, np.int64(2), [np.float32(0.5), True, None, "x"]), "b": {}}
    assert plain(value, "config") == {"a": [1, 2, [0.5, True, None, "x"]], "b": {}}
    assert type(plain(np.bool_(True), "config")) is bool


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"lr": float("nan")}, "config.lr"),
        ({"a": [1, float("inf")]}, r"config.a\[1\]"),
        ({1: 2}, "config"),
        ({"f": print}, "config.f"),
        ({"w": np.ones(2)}, "config.w"),
    ],
)
def test_plain_names_the_place_that_json_cannot_hold(value: object, where: str) -> None:
    with pytest.raises(CheckpointError, match=where + ": "):
        plain(value, "config")


# -- faults ------------------------------------------------------------------------------------------------------------


def test_fault_fires_at_its_rank_and_step_only() -> None:
    try:
        faults.arm("checkpoint-begin@rank1@step40:raise, after-update:full")
        for rank, step in ((0, 40), (1, 39)):
            faults.set_position(rank, step)
            faults.fault_point("checkpoint-begin")
        faults.set_position(1, 40)
        faults.fault_point("checkpoint-after-write")
        with pytest.raises(RuntimeError, match="checkpoint-begin"):
            faults.fault_point("checkpoint-begin")
        with pytest.raises(OSError, match="No space left"):
            faults.fault_point("after-update")
    finally:
        faults.arm("")
    faults.fault_point("checkpoint-begin")


@pytest.mark.parametrize("text", ["x", "x:explode", "x@node1:kill", "x@rank:kill", ":kill"])
def test_a_fault_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(RangeError, match="PHALANX_FAULT"):
        faults.parse(text)


def test_write_and_complete_give_files_that_the_library_reads(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    arrays = some_arrays(3)
    layout = plan(arrays)
    for entry in layout.files:
        (folder / entry.name).write_bytes(b"")
    parts = [part for ranges in share(layout.files, 5, 64) for part in write(folder, layout, ranges, arrays)]
    random.Random(0).shuffle(parts)
    files, tensors = complete(layout, parts)
    loaded = load_file(folder / "model.safetensors")
    for entry in tensors:
        assert entry.checksum == f"crc32:{zlib.crc32(arrays[entry.name].tobytes()):08x}", entry.name
        assert loaded[entry.name].tobytes() == arrays[entry.name].tobytes()
    assert [entry.checksum for entry in files] == [
        checksum.text(zlib.crc32(layout.headers[entry.name])) for entry in files
    ]
