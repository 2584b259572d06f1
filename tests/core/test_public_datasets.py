"""Public data sets from small files in their real formats; folders, arrays, text. Each comes through its own sources."""

import gzip
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from phalanx.core.data import DataLoader, Placement, fingerprint, set_placement, sources
from phalanx.core.data import transforms as T
from phalanx.core.data.datasets import (
    CIFAR10,
    CIFAR100,
    IMDB,
    KMNIST,
    MNIST,
    BibleText,
    CsvDataset,
    DatasetFolder,
    ImageFolder,
    NpzDataset,
    PimaDiabetes,
    bible,
    cifar,
    imdb,
    mnist,
    pima,
    read_picture,
)
from phalanx.core.errors import DataError, RangeError, ShapeError
from phalanx.data import utils

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def alone():
    """Whatever a test before this one left."""
    before = set_placement(Placement())
    yield
    set_placement(before)


def md5(content):
    return f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
    return gzip.compress(head + array.tobytes())


def tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def write(folder, contents):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A mirror, on this machine, of files made up in the real formats; returns what they hold."""
    monkeypatch.setenv("PHALANX_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("PHALANX_DATA_MIRROR", str(tmp_path / "mirror"))
    held = {}
    for title, digests in (("MNIST", mnist.MNIST_DIGESTS), ("KMNIST", mnist.KMNIST_DIGESTS)):
        images = RANDOM.integers(0, 256, (6, 28, 28), dtype=np.uint8)
        labels = RANDOM.integers(0, 10, 6, dtype=np.uint8)
        contents = {name: idx(labels if "labels" in name else images) for name in digests}
        write(tmp_path / "mirror" / title, contents)
        monkeypatch.setattr(mnist, f"{title}_DIGESTS", {name: md5(content) for name, content in contents.items()})
        held[title] = (images, labels)
    for kind, digests, label_bytes in ((CIFAR10, "DIGESTS_10", 1), (CIFAR100, "DIGESTS_100", 2)):
        members = {}
        for name in (*kind._members[True], *kind._members[False]):
            records = RANDOM.integers(0, 10, (3, label_bytes + 3072), dtype=np.uint8)
            members[name] = records.tobytes()
        content = tar({**members, "readme.html": b"hello"})
        (name,) = getattr(cifar, digests)
        write(tmp_path / "mirror" / kind.__name__, {name: content})
        monkeypatch.setattr(kind, "_digests", {name: md5(content)})
        held[kind.__name__] = members
    reviews = {
        f"aclImdb/{part}/{kind}/{number}_{stars}.txt": f"{part} {kind} {number} café".encode()
        for part in ("train", "test")
        for kind, stars in (("pos", 9), ("neg", 2))
        for number in (0, 2, 10)
    }
    content = tar({**reviews, "aclImdb/train/unsup/0_0.txt": b"?", "aclImdb/README": b"!"})
    write(tmp_path / "mirror" / "IMDB", {"aclImdb_v1.tar.gz": content})
    monkeypatch.setattr(imdb, "DIGESTS", {"aclImdb_v1.tar.gz": md5(content)})
    return held


@pytest.mark.parametrize("kind", [MNIST, KMNIST])
def test_digits(shop, kind):
    data = kind()
    images, labels = shop[kind.__name__]
    assert (data.data == images).all() and (data.targets == labels).all() and data.targets.dtype == np.int64
    assert len(kind.classes) == 10 and repr(data) == f"{kind.__name__}(train, 6 images)"
    image, label = kind(train=False, download=False)[5]
    assert image.shape == (1, 28, 28) and label == labels[5] and (image.numpy()[0] == images[5] / np.float32(255)).all()
    (batch,) = DataLoader(data, 6)
    assert (batch[0].numpy()[:, 0] == images / np.float32(255)).all()


@pytest.mark.parametrize("kind, label_bytes", [(CIFAR10, 1), (CIFAR100, 2)])
def test_colour_pictures(shop, kind, label_bytes, tmp_path):
    train, test = kind(), kind(train=False)
    records = [np.frombuffer(shop[kind.__name__][name], np.uint8).reshape(3, -1) for name in kind._members[True]]
    records = np.concatenate(records)
    assert len(train) == len(records) and len(test) == 3 and train.data.shape[1:] == (32, 32, 3)
    image, label = train[1]
    planes = records[1, label_bytes:].reshape(3, 32, 32)
    assert label == records[1, label_bytes - 1] and (image.numpy() == planes / np.float32(255)).all()
    assert len(kind.classes) == len(set(kind.classes)) == (10 if label_bytes == 1 else 100)
    everything = train.tensors(mean=(0.1, 0.2, 0.3), std=0.5)
    np.testing.assert_allclose(
        everything.arrays[0][1], (image.numpy() - np.float32([0.1, 0.2, 0.3]).reshape(3, 1, 1)) / 0.5, atol=1e-6
    )
    (archive,) = (tmp_path / "mirror" / kind.__name__).iterdir()
    archive.unlink()
    (tmp_path / "cache" / kind.__name__ / archive.name).unlink()
    assert (kind().data == train.data).all()  # unpacked once, kept
    kept = tmp_path / "cache" / kind.__name__ / "train.bin"
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"(?s){kind._title} cannot be had.*By hand: place {archive.name}"):
        kind(download=False)


def test_reviews(shop):
    train = IMDB()
    assert train.texts == [f"train {kind} {n} café" for kind in ("neg", "pos") for n in (0, 2, 10)]
    assert train.targets.tolist() == [0, 0, 0, 1, 1, 1] and train.classes[train[5][1]] == "pos"
    test = IMDB(train=False, transform=len, target_transform=float)
    assert test[0] == (len("test neg 0 café"), 0.0) and not test.keyed and train.keyed


def test_a_mirror_may_be_an_address(shop, tmp_path, monkeypatch):
    monkeypatch.setenv("PHALANX_DATA_MIRROR", f"file://{tmp_path}/mirror/")
    assert len(MNIST()) == 6
    monkeypatch.setenv("PHALANX_DATA_MIRROR", f"file://{tmp_path}/nothing")
    monkeypatch.setattr(mnist, "KMNIST_WEB", ())
    with pytest.raises(DataError, match=r"(?s)web file://.*KMNIST.*No such file.*MD5|No such file"):
        KMNIST(tmp_path / "other")


def test_damage_is_seen(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "WEB", ())
    path = tmp_path / "mirror" / "CIFAR10" / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"has another MD5 than"):
        CIFAR10()
    for content, words in ((b"nonsense", "tar archive"), (tar({"other": b""}), "lacks")):
        path.write_bytes(content)
        monkeypatch.setattr(CIFAR10, "_digests", {path.name: md5(content)})
        with pytest.raises(DataError, match=words):
            CIFAR10(tmp_path / words)
    with pytest.raises(DataError, match="no whole number of records of 3073"):
        cifar.read_records(bytes(3000), 1)
    with pytest.raises(DataError, match="gzip"):
        mnist.read_idx(b"\x1f\x8b\x08")


MAKER = """
import sys
from phalanx.core.data.datasets import CIFAR10, cifar
import phalanx.core.data.datasets.cifar as module
CIFAR10._digests = {"cifar-10-binary.tar.gz": sys.argv[1]}
calls = []
members = module.members
module.members = lambda *given: (open(sys.argv[2], "a").write("call\\n"), members(*given))[1]
assert len(CIFAR10()) == 15
"""


def test_processes_of_a_host_unpack_once(shop, tmp_path):
    command = [sys.executable, "-c", MAKER, CIFAR10._digests["cifar-10-binary.tar.gz"], str(tmp_path / "calls")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    processes = [subprocess.Popen(command, env=environment) for _ in range(2)]
    try:
        assert [process.wait(60) for process in processes] == [0] * 2
    finally:
        for process in processes:
            process.kill()
    assert (tmp_path / "calls").read_text() == "call\n"


# -- the Bible ----------------------------------------------------------------------------------------------------


class Packer:
    """compress(1)'s way of writing: codes in eights of equal width, here with a table that is emptied once."""

    def __init__(self):
        self.bits, self.count, self.parts, self.group = 0, 0, b"", 0

    def put(self, code, width):
        self.bits |= code << self.count
        self.count += width
        self.group += 1

    def pad(self, width):
        self.count += (-self.group % 8) * width
        self.group = 0
        self.parts += self.bits.to_bytes(-(-self.count // 8), "little")
        self.bits = self.count = 0


def compress(text, clear_at):
    out, width = Packer(), 9
    table = {bytes([byte]): byte for byte in range(256)}
    free, before = 257, b""
    for place in range(len(text)):
        byte = text[place : place + 1]
        if before + byte in table:
            before += byte
            continue
        out.put(table[before], width)
        if free > (1 << width) - 1 and width < 16:
            out.pad(width)
            width += 1
        table[before + byte] = free
        free, before = free + 1, byte
        if place == clear_at:
            out.put(table[before], width)
            out.put(256, width)
            out.pad(width)
            table, free, width, before = {bytes([b]): b for b in range(256)}, 257, 9, b""
    if before:
        out.put(table[before], width)
    out.group = 0  # nothing is filled up at the end
    out.pad(width)
    return out.parts


def test_compressed_windows_are_unpacked():
    text = b"".join(f"Ge{i}:{i * i} In the beginning {'ab' * (i % 7)}\n".encode() for i in range(700))
    for clear_at in (None, 300, 9000):
        packed = compress(text, clear_at)
        assert bible.decompress(packed) == text, clear_at


VERSES = b"Holy Bible.\nGe1:1 In the beginning.\nGe1:2 And the earth.\n1Jo2:13 I write.\n"


def test_the_bible_comes_from_debians_file(tmp_path, monkeypatch):
    first, second = compress(VERSES[:30], None), compress(VERSES[30:], None)
    starts = (0x5C + 8 + 3, 0x5C + 8 + 3 + len(first))
    content = b"EC02".ljust(0x54, b"\0") + struct.pack(">IIII", 65536, 2, *starts) + b"\x1f\x9d\x90" + first + second
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "bible.data").write_bytes(content)
    monkeypatch.setattr(bible, "DEBIAN_FOLDER", str(tmp_path / "lib"))
    monkeypatch.setattr(bible, "DIGESTS", {"bible.data": hashlib.sha256(content).hexdigest()})
    book = BibleText(tmp_path / "cache", download=False)
    assert book.text == "In the beginning.\nAnd the earth.\nI write.\n"
    assert book.verses[2] == ("1Jo", 2, 13, "I write.") and len(book) == len(book.text)
    assert BibleText(tmp_path / "cache", references=True).text.startswith("Ge1:1 In the")
    with pytest.raises(DataError, match="not a file of bible-kjv"):
        bible.unpack(b"ELF")


def test_unmeasured_values_of_the_pima_table_are_missing(tmp_path, monkeypatch):
    content = b"% notes\n@relation pima_diabetes\n@data\n0,148,72,35,0,33.6,0.6,50,tested_positive\n1,0,66,0,94,0,0.3,31,tested_negative\n"
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "diabetes.arff").write_bytes(content)
    monkeypatch.setattr(pima, "DEBIAN_FOLDER", str(tmp_path / "lib"))
    monkeypatch.setattr(pima, "DIGESTS", {"diabetes.arff": hashlib.sha256(content).hexdigest()})
    table = PimaDiabetes(tmp_path / "cache", download=False).table
    assert table.missing() == {"insulin": 1, "glucose": 1, "skin": 1, "mass": 1}
    assert table["pregnancies"].tolist() == [0, 1] and table["diabetes"].tolist() == [1, 0]
    with pytest.raises(DataError, match="no @data"):
        pima.read(b"@relation iris\n")


def test_the_whole_bible_is_there():
    """From wherever this machine has it, as Fashion-MNIST in test_datasets.py."""
    book = BibleText()
    assert len(book.verses) == 31102 and len({name for name, *_ in book.verses}) == 66 and len(book) == 4137850
    assert book.text.startswith("In the beginning God created the heaven and the earth.\n")
    assert book.verses[-1] == ("Rev", 22, 21, "The grace of our Lord Jesus Christ be with you all. Amen.")
    assert len(set(book.text)) == 63


# -- folders and files --------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number, name in enumerate(
        ("cat/b.png", "cat/a.jpg", "dog/deep/c.npy", "dog/d.ppm", "dog/e.pgm", "dog/notes.txt")
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((4, 6, 3), 40 * number, np.uint8)
        pixels[1, 2] = (0, 100, 200)
        if path.suffix in (".png", ".jpg"):
            image.fromarray(pixels).save(path)
        elif path.suffix == ".npy":
            np.save(path, pixels)
        else:
            kind, plane = ("P6", pixels) if path.suffix == ".ppm" else ("P5", pixels[..., 0])
            path.write_bytes(f"{kind}\n# made by hand\n6 4\n255\n".encode() + plane.tobytes())
    return tmp_path


def test_pictures_in_folders(pictures):
    data = ImageFolder(pictures)
    assert [Path(path).name for path, _ in data.imgs] == ["a.jpg", "b.png", "d.ppm", "c.npy", "e.pgm"]
    assert data.classes == ["cat", "dog"] and data.targets.tolist() == [0, 0, 1, 1, 1] and data.keyed
    for index in (1, 2, 3):
        image, _ = data[index]
        np.testing.assert_allclose(image.numpy()[:, 1, 2], np.float32([0, 100, 200]) / 255)
    assert (data[4][0].numpy() * 255).round().tolist()[0][0] == [160.0] * 6
    sized = ImageFolder(pictures, T.Compose([T.Resize((8, 8)), T.RandomHorizontalFlip(), T.ToTensor()]))
    assert [batch.shape for batch, _ in DataLoader(sized, 3, num_workers=2)] == [(3, 3, 8, 8), (2, 3, 8, 8)]
    assert fingerprint(data) != fingerprint(sized)
    (pictures / "dog" / "d.ppm").write_bytes(b"P6 6 4 255 ")
    with pytest.raises(DataError, match=r"d\.ppm cannot be read"):
        data[2]


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(DataError, match="holds no folders"):
        ImageFolder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file that ends in"):
        ImageFolder(tmp_path)
    assert len(ImageFolder(tmp_path, allow_empty=True)) == 0
    with pytest.raises(DataError, match="either extensions or"):
        DatasetFolder(tmp_path, open)
    (tmp_path / "empty" / "a.txt").write_text("hello")
    data = DatasetFolder(tmp_path, Path.read_text, is_valid_file=lambda path: path.endswith("txt"), transform=len)
    assert data[0] == (5, 0) and not data.keyed
    (tmp_path / "a.ppm").write_bytes(b"P3 1 1 255 0 0 0")
    with pytest.raises(DataError, match="no binary PGM or PPM"):
        read_picture(tmp_path / "a.ppm")
    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    with pytest.raises(DataError, match="expected uint8"):
        read_picture(tmp_path / "a.npy")


def test_without_pillow_png_is_read_and_the_way_is_shown(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    ramp = np.add.outer(np.arange(20), np.arange(30))[..., None]
    pixels = (ramp * [3, 5, 7] + RANDOM.integers(0, 9, (20, 30, 3))).astype(np.uint8)
    for mode in ("RGB", "L", "RGBA", "P", "LA"):
        image.fromarray(pixels).convert(mode).save(tmp_path / f"{mode}.png")
    image.fromarray(pixels).convert("1").save(tmp_path / "bits.png")
    image.fromarray(pixels[..., 0].astype(np.uint16)).save(tmp_path / "I16.png")
    for filtered in (0, 1, 2, 3, 4):  # by hand: Pillow chooses its filters itself
        (tmp_path / f"{filtered}.png").write_bytes(filtered_png(pixels, filtered))
    expected = {path.name: read_picture(path) for path in tmp_path.glob("*.png")}
    monkeypatch.setitem(sys.modules, "PIL", None)
    for name, picture in expected.items():
        if name in ("bits.png", "I16.png"):
            with pytest.raises(DataError, match=r"needs Pillow.*phalanx\[images\]"):
                read_picture(tmp_path / name)
        else:
            assert (read_picture(tmp_path / name) == picture).all(), name
    with pytest.raises(DataError, match=r"phalanx\[images\]"):
        read_picture(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="Pillow"):
        utils.save_image(np.zeros((3, 4, 4)), tmp_path / "a.jpg")
    whole = (tmp_path / "RGB.png").read_bytes()
    for damaged, words in (
        (whole[:60] + b"!" + whole[61:], "checksum"),
        (b"GIF", "no PNG"),
        (whole[:90], "cannot be read"),
    ):
        (tmp_path / "d.png").write_bytes(damaged)
        with pytest.raises(DataError, match=words):
            read_picture(tmp_path / "d.png")


def filtered_png(pixels, kind):
    """A PNG all of whose rows have the filter ``kind``."""
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, -1).astype(int)
    packed = b""
    for y, row in enumerate(rows):
        up = rows[y - 1] if y else np.zeros_like(row)
        left = np.concatenate([[0] * 3, row[:-3]])
        corner = np.concatenate([[0] * 3, up[:-3]])
        near = np.abs(left + up - corner - np.stack([left, up, corner]))
        paeth = np.choose(near.argmin(0), [left, up, corner])
        guess = [0 * row, left, up, (left + up) // 2, paeth][kind]
        packed += bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes()
    content = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(packed)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


def test_pictures_are_laid_in_a_grid_and_written(tmp_path):
    images = RANDOM.random((5, 1, 4, 6)).astype(np.float32)
    grid = utils.make_grid(images, nrow=3, padding=1, pad_value=0.5).numpy()
    assert grid.shape == (3, 11, 22) and grid[0, 0, 0] == 0.5 and (grid[2, 6:10, 8:14] == images[4, 0]).all()
    for name in ("a.png", "a.ppm", "a.npy", "a.bmp"):
        utils.save_image(images, tmp_path / name, nrow=3, padding=1, pad_value=0.5)
        assert (utils.read_image(tmp_path / name).numpy() == np.clip(np.rint(grid * np.float64(255)), 0, 255)).all()
    utils.save_image(np.arange(12, dtype=np.uint8).reshape(3, 2, 2), tmp_path / "one.png")
    assert utils.read_image(tmp_path / "one.png").numpy().reshape(-1).tolist() == list(range(12))
    each = utils.make_grid(images * 9 - 3, normalize=True, scale_each=True, padding=0).numpy()
    assert each.min() == 0 and each.max() == 1
    assert utils.make_grid([images[0, 0], images[1, 0]], padding=0).shape == (3, 4, 12)
    for wrong in (np.zeros((2, 5, 4, 4)), np.zeros(3)):
        with pytest.raises(ShapeError, match="1 or 3 channels"):
            utils.make_grid(wrong)
    with pytest.raises(RangeError, match=r"\.xyz"):
        utils.save_image(images, tmp_path / "a.xyz")


def test_arrays_and_tables_in_files(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.arange(3), z=np.zeros(1))
    data = NpzDataset(tmp_path / "a.npz", ("x", "y"))
    assert data.keys == ["x", "y"] and data[2][1].item() == 2
    np.savez(tmp_path / "b.npz", x=np.array([object()], object))
    np.save(tmp_path / "c.npy", np.zeros(3))
    (tmp_path / "d.npz").write_bytes(b"PK nonsense")
    for name, keys, words in (
        ("a.npz", ["x", "w"], "no array w; it has x, y, z"),
        ("b.npz", None, "cannot be read as arrays"),
        ("c.npy", None, "expected an .npz"),
        ("d.npz", None, "cannot be read"),
        ("none.npz", None, "cannot be read"),
    ):
        with pytest.raises(DataError, match=words.replace(".", r"\.")):
            NpzDataset(tmp_path / name, keys)
    (tmp_path / "t.csv").write_text("a;b;y\n1;2;0.5\n3;4;1\n")
    table = CsvDataset(tmp_path / "t.csv", "y", delimiter=";")
    assert table.features == ["a", "b"] and table.arrays[1].tolist() == [0.5, 1.0] and table.classes is None
    assert len(CsvDataset(tmp_path / "t.csv", delimiter=";").arrays) == 1


def test_sources_say_where(tmp_path):
    assert sources.mirror("X") == [] or os.environ.get("PHALANX_DATA_MIRROR")
    assert json.dumps(sources.address("http://a").name) == '"web http://a"'
