"""Pictures in files: PNG, PPM, PGM and .npy here, other formats through Pillow, where installed. Grids of pictures."""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import to_host
from ..errors import DataError, RangeError, ShapeError
from ..tensor import Tensor
from .fetch import write_atomically

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".npy")
PNG = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""PNG's colour types -> bytes a pixel: grey, colours, palette, grey and alpha, colours and alpha."""


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """The picture in a file as uint8 H×W×3.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/dot.ppm"
    >>> _ = open(path, "wb").write(b"P6 1 1 255 " + bytes([9, 8, 7]))
    >>> phalanx.data.datasets.read_picture(path).tolist()
    [[[9, 8, 7]]]
    """
    path = Path(path)
    kind = path.suffix.lower()
    try:
        if kind == ".npy":
            return _three_channels(np.load(path, allow_pickle=False), path)
        if kind in (".ppm", ".pgm"):
            return _three_channels(_read_netpbm(path.read_bytes(), path), path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    try:
        from PIL import Image  # noqa: PLC0415
    except ImportError:
        if kind == ".png":
            return _three_channels(read_png(path), path)
        raise DataError(f'{path}: reading {kind} files needs Pillow: pip install "phalanx[images]"') from None
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """The picture in a file as a uint8 Tensor of 3×H×W, as ``torchvision.io.read_image``.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/dot.png"
    >>> phalanx.data.utils.save_image(phalanx.ones(3, 2, 5), path)
    >>> phalanx.data.utils.read_image(path).shape
    (3, 2, 5)
    """
    return Tensor(np.ascontiguousarray(read_picture(path).transpose(2, 0, 1)))


def make_grid(
    tensor: Any,
    nrow: int = 8,
    padding: int = 2,
    normalize: bool = False,
    value_range: tuple[float, float] | None = None,
    scale_each: bool = False,
    pad_value: float = 0.0,
) -> Tensor:
    """One picture of 3×H×W with ``nrow`` of the pictures (N, C, H, W) in each row, as ``torchvision.utils.make_grid``.

    ``normalize`` brings the values to [0, 1]: from ``value_range``, or from the least and largest (of each, ``scale_each``).
    ``padding`` places of ``pad_value`` lie between pictures.

    >>> phalanx.data.utils.make_grid(phalanx.zeros(6, 1, 4, 4), nrow=3, padding=1).shape
    (3, 11, 16)
    """
    images = _batch(tensor)
    if normalize:
        images = _normalized(images, value_range, scale_each)
    count, channels, height, width = images.shape
    columns = min(nrow, count)
    rows = math.ceil(count / columns)
    if count == 1:
        return Tensor(np.ascontiguousarray(images[0]))
    grid = np.full((channels, rows * (height + padding) + padding, columns * (width + padding) + padding), pad_value)
    grid = grid.astype(images.dtype)
    for number, image in enumerate(images):
        top, left = (
            place * (side + padding) + padding
            for place, side in zip(divmod(number, columns), (height, width), strict=True)
        )
        grid[:, top : top + height, left : left + width] = image
    return Tensor(grid)


def save_image(tensor: Any, path: str | os.PathLike[str], **options: Any) -> None:
    """Write pictures with values in [0, 1] (or uint8) as one file, in a grid (:func:`make_grid`, whose options may follow).

    The name's ending says the format: .png, .ppm and .npy, and others through Pillow. Whole or not at all.

    >>> import os, tempfile
    >>> path = tempfile.mkdtemp() + "/samples.png"
    >>> phalanx.data.utils.save_image(phalanx.rand(16, 1, 28, 28), path, nrow=4)
    >>> open(path, "rb").read(4)
    b'\\x89PNG'
    """
    grid = make_grid(tensor, **options).array
    pixels = (
        grid if grid.dtype == np.uint8 else np.clip(np.rint(grid.astype(np.float64) * 255), 0, 255).astype(np.uint8)
    )
    pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    path = Path(path)
    kind = path.suffix.lower()
    file = io.BytesIO()
    if kind == ".png":
        file.write(png(pixels))
    elif kind == ".ppm":
        file.write(f"P6 {pixels.shape[1]} {pixels.shape[0]} 255\n".encode() + pixels.tobytes())
    elif kind == ".npy":
        np.save(file, pixels)
    else:
        _by_pillow(pixels, kind, file)
    write_atomically(path, file.getvalue())


def to_pillow(pixels: np.ndarray) -> Any:
    """uint8 H×W, H×W×1 or H×W×3 as a Pillow image."""
    try:
        from PIL import Image  # noqa: PLC0415
    except ImportError:
        raise DataError('pictures as Pillow has them need Pillow: pip install "phalanx[images]"') from None
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    return Image.fromarray(np.ascontiguousarray(flat))


def _by_pillow(pixels: np.ndarray, kind: str, file: io.BytesIO) -> None:
    try:
        from PIL import Image  # noqa: PLC0415
    except ImportError:
        raise DataError(f'writing {kind} files needs Pillow: pip install "phalanx[images]", or write .png') from None
    known = Image.registered_extensions()
    if kind not in known:
        raise RangeError(f"save_image: the name must end in .png, .jpg or another format of Pillow's, got {kind!r}")
    Image.fromarray(pixels).save(file, known[kind])


def _batch(tensor: Any) -> np.ndarray:
    """(N, 3, H, W) of one picture or several, grey ones in three equal channels."""
    if isinstance(tensor, list | tuple):
        images = np.stack([_host(image) for image in tensor])
    else:
        images = _host(tensor)
    if images.ndim == 2:
        images = images[None]
    if images.ndim == 3:
        images = images[:, None] if isinstance(tensor, list | tuple) else images[None]
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ShapeError(
            f"expected pictures of (H, W), (C, H, W) or (N, C, H, W) with 1 or 3 channels, got {images.shape}"
        )
    return np.repeat(images, 3, 1) if images.shape[1] == 1 else images


def _host(image: Any) -> np.ndarray:
    return to_host(image.array if isinstance(image, Tensor) else np.asarray(image))


def _normalized(images: np.ndarray, value_range: Sequence[float] | None, each: bool) -> np.ndarray:
    axes = (1, 2, 3) if each else None
    if value_range is not None:
        low, high = np.asarray(value_range[0]), np.asarray(value_range[1])
    else:
        low, high = images.min(axes, keepdims=True), images.max(axes, keepdims=True)
    return ((np.clip(images, low, high) - low) / np.maximum(high - low, 1e-5)).astype(np.float32)


def png(pixels: np.ndarray) -> bytes:
    """uint8 H×W×3 as a PNG file (ISO 15948)."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = pixels.reshape(height, -1)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows.tobytes()),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )
    return PNG + b"".join(chunks)


def read_png(path: Path) -> np.ndarray:
    """uint8 H×W×1 or H×W×3 of a PNG file of 8 bits a channel that is not interlaced; alpha is left out."""
    try:
        content = path.read_bytes()
        chunks = _chunks(content, path)
        head, packed = chunks[b"IHDR"], zlib.decompress(chunks[b"IDAT"])
    except (OSError, KeyError, zlib.error, struct.error) as error:
        raise DataError(f"{path} cannot be read as PNG: {error}") from error
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", head)
    if depth != 8 or interlaced or colour not in CHANNELS:
        raise DataError(f'{path}: this kind of PNG needs Pillow: pip install "phalanx[images]"')
    pixels = _unfiltered(np.frombuffer(packed, np.uint8).reshape(height, -1), CHANNELS[colour])
    pixels = pixels.reshape(height, width, CHANNELS[colour])
    if colour == 3:
        return np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[pixels[..., 0]]
    return pixels[..., : 1 if colour in (0, 4) else 3]


def _chunks(content: bytes, path: Path) -> dict[bytes, bytes]:
    """Name -> data, those of equal name joined."""
    if content[:8] != PNG:
        raise DataError(f"{path} is no PNG file: it begins with {content[:8]!r}")
    found: dict[bytes, bytes] = {}
    place = 8
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        name, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        if struct.unpack_from(">I", content, place + 8 + length)[0] != zlib.crc32(name + data):
            raise DataError(f"{path} is damaged: chunk {name!r} does not have its checksum")
        found[name] = found.get(name, b"") + data
        place += 12 + length
    return found


def _unfiltered(rows: np.ndarray, step: int) -> np.ndarray:
    """PNG's filters undone, row by row: none, left, up, average, Paeth."""
    done = np.zeros((len(rows), rows.shape[1] - 1), np.uint8)
    above = np.zeros(rows.shape[1] - 1, np.uint8)
    for row, line in zip(rows, done, strict=True):
        kind, data = int(row[0]), row[1:]
        if kind == 0:
            line[:] = data
        elif kind == 1:
            line[:] = np.cumsum(data.reshape(-1, step), 0, dtype=np.uint8).reshape(-1)
        elif kind == 2:
            line[:] = data + above
        else:
            _pixel_by_pixel(kind, data, above, line, step)
        above = line
    return done


def _pixel_by_pixel(kind: int, data: np.ndarray, above: np.ndarray, line: np.ndarray, step: int) -> None:
    values, up = data.tolist(), above.tolist()
    out = [0] * len(values)
    for place, value in enumerate(values):
        left, corner = (out[place - step], up[place - step]) if place >= step else (0, 0)
        if kind == 3:
            guess = (left + up[place]) // 2
        else:
            sum_ = left + up[place] - corner
            guess = min((left, up[place], corner), key=lambda near: abs(sum_ - near))
        out[place] = (value + guess) & 255
    line[:] = out


def _three_channels(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise DataError(f"{path} holds {array.dtype} of shape {array.shape}, expected uint8 of H×W, H×W×1 or H×W×3")
    array = array if array.ndim == 3 else array[..., None]
    return np.repeat(array, 3, 2) if array.shape[2] == 1 else array


def _read_netpbm(content: bytes, path: Path) -> np.ndarray:
    """Binary PGM (P5) and PPM (P6) of 8 bits."""
    words: list[bytes] = []
    place = 0
    while len(words) < 4 and place < len(content):
        if content[place : place + 1] == b"#":
            place = content.index(b"\n", place)
        elif content[place : place + 1].isspace():
            place += 1
        else:
            end = place
            while end < len(content) and not content[end : end + 1].isspace():
                end += 1
            words.append(content[place:end])
            place = end
    if len(words) < 4 or words[0] not in (b"P5", b"P6") or words[3] != b"255":
        raise DataError(f"{path} is no binary PGM or PPM of 8 bits: it begins with {content[:12]!r}")
    width, height, channels = int(words[1]), int(words[2]), 3 if words[0] == b"P6" else 1
    return (
        np.frombuffer(content, np.uint8, height * width * channels, place + 1).reshape(height, width, channels).copy()
    )
