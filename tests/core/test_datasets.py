"""Fetching and keeping public data sets. Fashion-MNIST itself comes from wherever it can be had."""

import gzip
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from phalanx.core.data import DataLoader, Placement, datasets, fetch, fingerprint, set_placement, sources
from phalanx.core.data import transforms as T
from phalanx.core.data.datasets import mnist
from phalanx.core.data.fetch import FileSet, Source, cache_root, write_atomically
from phalanx.core.errors import DataError, RangeError
from phalanx.core.tensor import Tensor

CONTENT = {"a": b"first file", "b": b"second file" * 1000}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def alone():
    """Whatever a test before this one left."""
    before = set_placement(Placement())
    yield
    set_placement(before)


def counting(calls, content=CONTENT, name="shop"):
    def read(names):
        calls.append(list(names))
        return {n: gzip.compress(content[n]) for n in names}

    return Source(name, read)


def failing(name, reason):
    def read(names):
        raise OSError(reason)

    return Source(name, read)


def make(folder, *listed):
    return FileSet("Shapes", DIGESTS, Path(folder), listed)


def test_files_are_fetched_once_together_and_kept_unpacked(tmp_path):
    calls: list = []
    files = make(tmp_path / "raw", failing("first", "closed"), counting(calls), failing("never", "asked"))
    assert files.load(["b"]) == {"b": CONTENT["b"]}
    assert files.load(["a", "b"]) == CONTENT
    assert calls == [["a", "b"]]
    assert (tmp_path / "raw" / "b").read_bytes() == CONTENT["b"]
    assert sorted(os.listdir(tmp_path / "raw")) == [".lock", "a", "b"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "removed"])
def test_a_damaged_cache_is_fetched_again_with_a_word(tmp_path, caplog, damage):
    calls: list = []
    files = make(tmp_path, counting(calls))
    files.load(["a", "b"])
    path = tmp_path / "b"
    whole = path.read_bytes()
    broken = {"flipped": whole[:50] + b"!" + whole[51:], "cut": whole[:-1], "emptied": b""}
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(broken[damage])
    with caplog.at_level(logging.WARNING, "phalanx.data"):
        assert files.load(["a", "b"]) == CONTENT
    assert calls == [["a", "b"], ["b"]] and path.read_bytes() == whole
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (damage != "removed") and all(f"{path} is damaged" in line for line in said)


def test_no_source_is_one_error_that_lists_all(tmp_path):
    wrong = counting([], {"a": b"other", "b": b"bytes"}, "liar")
    torn = Source("torn", lambda names: {name: gzip.compress(CONTENT[name])[:-9] for name in names})
    noise = Source("noise", lambda names: dict.fromkeys(names, b"\x1f\x8b nonsense"))
    poor = Source("poor", lambda names: {"a": CONTENT["a"]})
    with pytest.raises(DataError) as caught:
        make(tmp_path, failing("shut", "no route to host"), wrong, torn, noise, poor).load(["a"])
    lines = str(caught.value).splitlines()
    assert "Shapes" in lines[0] and len(lines) == 8
    for line, words in zip(
        lines[1:-1], [str(tmp_path), "no route to host", "SHA-256", "torn", "noise", "poor"], strict=True
    ):
        assert words in line
    assert (
        lines[-1].startswith("By hand: place a (") and str(tmp_path) in lines[-1] and "PHALANX_DATA_MIRROR" in lines[-1]
    )
    assert [path for path in os.listdir(tmp_path) if path != ".lock"] == []


def test_a_cache_that_cannot_be_written_costs_a_word_only(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    files = make(tmp_path / "file" / "raw", counting([]))
    assert files.load(["a"]) == {"a": CONTENT["a"]}
    assert "cannot keep" in caplog.text


def test_a_crash_while_writing_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


FETCHER = """
import sys, time
from pathlib import Path
from phalanx.core.data.fetch import FileSet, Source
folder, calls = sys.argv[1:3]
content = {"a": b"first file", "b": b"second file" * 1000}
def read(names):
    with open(calls, "a") as file:
        file.write("call\\n")
    time.sleep(0.5)
    return content
import hashlib
digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
assert FileSet("Shapes", digests, Path(folder), [Source("slow", read)]).load(["a", "b"]) == content
"""


def test_four_processes_fetch_once(tmp_path):
    command = [sys.executable, "-c", FETCHER, str(tmp_path / "raw"), str(tmp_path / "calls")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    processes = [subprocess.Popen(command, env=environment, cwd=tmp_path) for _ in range(4)]
    try:
        assert [process.wait(60) for process in processes] == [0] * 4
    finally:
        for process in processes:
            process.kill()
    assert (tmp_path / "calls").read_text() == "call\n"


def test_waiting_for_another_process_has_a_word_and_a_deadline(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(fetch, "WAIT_WORD_S", 0.1)
    entered, leave = threading.Event(), threading.Event()

    def slow(names):
        entered.set()
        leave.wait(20)
        return CONTENT

    thread = threading.Thread(target=make(tmp_path, Source("slow", slow)).load, args=(["a"],))
    thread.start()
    try:
        assert entered.wait(10)
        began = time.monotonic()
        with pytest.raises(DataError, match=r"another process has been fetching .* over 0.4 s"):
            make(tmp_path, counting([])).load(["a"], deadline_s=0.4)
        assert 0.4 < time.monotonic() - began < 5
        assert caplog.text.count("waiting for another process") == 1
    finally:
        leave.set()
        thread.join(10)


def test_the_lock_of_a_dead_process_does_not_bind(tmp_path):
    hold = "import fcntl,sys,time; f=open(sys.argv[1],'a'); fcntl.flock(f,fcntl.LOCK_EX); print(1,flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / ".lock")], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
    assert make(tmp_path, counting([])).load(["a"], deadline_s=5) == {"a": CONTENT["a"]}


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("PHALANX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "phalanx"
    monkeypatch.setenv("PHALANX_DATA", "/somewhere")
    assert cache_root() == Path("/somewhere")
    assert cache_root("~/data") == Path.home() / "data"


# -- sources ------------------------------------------------------------------------------------------------------


def test_a_folder_gives_packed_or_plain_files(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(CONTENT["a"]))
    (tmp_path / "b").write_bytes(CONTENT["b"])
    assert make(tmp_path / "raw", sources.folder(str(tmp_path))).load(["a", "b"]) == CONTENT
    with pytest.raises(FileNotFoundError):
        sources.folder(str(tmp_path)).read(["c"])


def test_a_web_address_gives_its_files_or_says_which_is_missing(tmp_path):
    for name, content in CONTENT.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        port = server.stdout.readline().split("port ")[1].split()[0]
        source = sources.address(f"http://127.0.0.1:{port}")
        assert make(tmp_path / "raw", source).load(["a", "b"]) == CONTENT
        with pytest.raises(DataError, match=r"/c\.gz: .*not found"):
            source.read(["c"])
    finally:
        server.kill()
        server.wait(10)
        server.stdout.close()
    with pytest.raises(DataError, match="refused"):
        source.read(["a"])


FAKE_APT = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  "download shapes") echo "E: Unable to locate package shapes" >&2; exit 100;;
  *Dir::State::Lists=*update) exit 0;;
  *Dir::State::Lists=*"download shapes") : > shapes_1_all.deb;;
  *) exit 1;;
esac
"""
FAKE_DPKG = """#!/bin/sh
mkdir -p "$3/usr/share/shapes" && cp {files}/* "$3/usr/share/shapes/"
"""


def test_a_debian_package_comes_without_root_also_where_there_are_no_lists(tmp_path, monkeypatch):
    tools, files = tmp_path / "tools", tmp_path / "files"
    tools.mkdir()
    files.mkdir()
    for name, content in CONTENT.items():
        (files / f"{name}.gz").write_bytes(gzip.compress(content))
    for name, text in (("apt-get", FAKE_APT), ("dpkg", FAKE_DPKG)):
        (tools / name).write_text(text.format(log=tmp_path / "log", files=files))
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    source = sources.debian_package("shapes", "/usr/share/shapes")
    assert make(tmp_path / "raw", source).load(["a", "b"]) == CONTENT
    asked = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[-1] for line in asked] == ["shapes", "update", "shapes"]
    with pytest.raises(DataError, match=r"apt-get download other ended with 1"):
        sources.debian_package("other", "/usr/share/shapes").read(["a"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="no apt-get"):
        source.read(["a"])


# -- Fashion-MNIST ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fashion():
    return datasets.FashionMNIST(), datasets.FashionMNIST(train=False)


def test_fashion_mnist_is_what_it_should_be(fashion):
    train, test = fashion
    assert train.data.shape == (60000, 28, 28) and train.data.dtype == np.uint8 and len(test) == 10000
    assert np.bincount(train.targets).tolist() == [6000] * 10 and np.bincount(test.targets).tolist() == [1000] * 10
    assert train.classes[9] == "Ankle boot" and len(train.classes) == 10 and train.targets[0] == 9
    assert round(float(train.data.mean() / 255), 4) == 0.286  # the mean that everyone normalises by
    image, label = train[0]
    assert isinstance(image, Tensor) and image.shape == (1, 28, 28) and image.dtype == np.float32 and label == 9
    assert image.numpy().max() == 1.0 and fingerprint(train) != fingerprint(test)


def test_its_tensors_are_its_samples(fashion):
    data = fashion[1].tensors()
    assert data.arrays[0].dtype == np.float32 and data.arrays[1].dtype == np.int64
    for index in (0, 7, 9999):
        assert (data[index][0].numpy() == fashion[1][index][0].numpy()).all()
        assert data[index][1].item() == fashion[1][index][1]
    scaled = fashion[1].tensors(mean=0.5, std=(0.25,)).arrays[0]
    assert np.allclose(scaled, (data.arrays[0] - 0.5) / 0.25)
    with pytest.raises(RangeError):
        fashion[1].tensors(std=0)


def test_its_batches_are_its_samples_with_and_without_transforms(fashion):
    plain = fashion[1]
    same = datasets.FashionMNIST(train=False, transform=T.Compose([T.ToTensor()]), target_transform=lambda label: label)
    for (x, y), (again, labels) in zip(DataLoader(plain, 4096), DataLoader(same, 4096), strict=True):
        assert (x.numpy() == again.numpy()).all() and (y.numpy() == labels.numpy()).all()
        assert y.dtype == np.int64
    assert plain.keyed and not same.keyed
    flipped = datasets.FashionMNIST(train=False, transform=T.Compose([T.RandomHorizontalFlip(1.0), T.ToTensor()]))
    assert flipped.keyed
    assert (flipped[3][0].numpy() == plain[3][0].numpy()[:, :, ::-1]).all()


def test_files_that_torchvision_keeps_are_found(fashion, tmp_path, monkeypatch):
    raw = tmp_path / "FashionMNIST" / "raw"
    kept = cache_root() / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in mnist.FASHION_DIGESTS:
        shutil.copy(kept / name, raw / name)
    monkeypatch.setattr(sources, "folder", lambda path: failing("folder", "asked"))
    assert len(datasets.FashionMNIST(tmp_path, train=False, download=False)) == 10000
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"(?s)t10k-labels-idx1-ubyte missing.*folder: asked.*download=False"):
        datasets.FashionMNIST(tmp_path, train=False, download=False)


def test_an_idx_file_of_another_kind_is_refused():
    with pytest.raises(DataError, match="IDX"):
        mnist.read_idx(b"\0\0\x0d\x01 floats")
