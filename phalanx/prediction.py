"""``phalanx predict MODEL INPUT``: a saved model and a file of inputs to a file of predictions, on one rank or several."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import inspect
import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .core.bfloat16 import is_floating
from .core.checkpoint.parts import read, read_manifest, verify
from .core.checkpoint.store import Store, step_of
from .core.errors import CheckpointError, DataError, RangeError
from .core.nn.module import Module
from .dist.evaluation import predict
from .dist.group import current
from .model_io.folder import load_model
from .model_io.writing import write_whole

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
OUTPUTS = (".npy", ".npz", ".csv")


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    model: str
    input: str
    output: str | None = None
    batch_size: int = 256
    checkpoint: str | None = None
    """A training run's folder of checkpoints, or one of them: its weights replace the model's."""
    code: str | None = None
    """A file with the classes of the model."""
    array: str | None = None
    """Which array of an npz file."""
    argmax: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise RangeError(f"--batch-size must be at least 1, got {self.batch_size}")
        if self.output is not None and Path(self.output).suffix.lower() not in OUTPUTS:
            raise RangeError(f"--output ends in {', '.join(OUTPUTS)}, got {self.output}")


def predict_file(options: Options) -> int:
    """Print or write what the model gives for each sample of the input, in order; rank 0 does. Every rank must call."""
    model = load_model(options.model, classes=None if options.code is None else classes_in(options.code))
    if options.checkpoint is not None:
        load_checkpoint(model, options.checkpoint)
    inputs = read_inputs(Path(options.input), model, options.array)
    found = named(predict(model, (inputs if len(inputs) > 1 else inputs[0],), batch_size=options.batch_size))
    if options.argmax:
        found = {name: array.argmax(-1) for name, array in found.items()}
    if current().rank == 0:
        if options.output is None:
            sys.stdout.write(as_text(found))
        else:
            write_whole(Path(options.output), [as_file(found, Path(options.output))])
    return 0


def named(output: Any) -> dict[str, np.ndarray]:
    """The arrays of a model's output by name: keys of a dict, numbers of a tuple."""
    if isinstance(output, np.ndarray):
        return {"output": output}
    rows = output.items() if isinstance(output, Mapping) else enumerate(output)
    arrays: dict[str, np.ndarray] = {}
    for key, value in rows:
        for name, array in named(value).items() if value is not None else ():
            arrays[f"{key}" if name == "output" else f"{key}.{name}"] = array
    return arrays


# ---- the model


def classes_in(path: str) -> dict[str, type]:
    """The Module classes and dataclasses that a file of Python defines, by name; running it is the reader's choice."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise RangeError(f"--code {path}: a file of Python is expected")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wanted = [kind for kind in vars(module).values() if isinstance(kind, type)]
    return {kind.__name__: kind for kind in wanted if issubclass(kind, Module) or dataclasses.is_dataclass(kind)}


def load_checkpoint(model: Module, folder: str) -> None:
    """Read the weights of a checkpoint (of a folder's newest valid one) into the model."""
    path = Path(folder)
    if step_of(path.absolute()) is not None:
        verify(path)
    else:
        newest = Store(path).newest_valid()
        if newest is None:
            raise CheckpointError(f"{folder} holds no valid checkpoint")
        path = newest[0]
    arrays = {f"model/{name}": tensor.array for name, tensor in model.state_dict().items()}
    read(path, read_manifest(path), arrays)


# ---- inputs


def read_inputs(path: Path, model: Module, name: str | None = None) -> tuple[np.ndarray, ...]:
    """One array for each input of the model; its dimension 0 counts samples. Raises DataError that says what is wrong."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in IMAGES:
        arrays: tuple[np.ndarray, ...] = (_images(path),)
    elif suffix == ".npy":
        arrays = (_loaded(path),)
    elif suffix == ".npz":
        arrays = _of_npz(path, model, name)
    elif suffix in (".csv", ".tsv", ".txt"):
        arrays = (_of_table(path, "\t" if suffix == ".tsv" else ","),)
    else:
        raise DataError(f"{path}: an input is .npy, .npz, .csv, .tsv, an image, or a folder of images")
    parameter = next((p for p in model.parameters() if is_floating(p.dtype)), None)
    dtype = np.dtype(np.float32) if parameter is None else parameter.dtype
    return tuple(array.astype(dtype, copy=False) if is_floating(array.dtype) else array for array in arrays)


def _loaded(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _of_npz(path: Path, model: Module, name: str | None) -> tuple[np.ndarray, ...]:
    """The array of that name, or those that forward's arguments name, or the only one."""
    with _loaded(path) as file:
        there = list(file)
        parameters = inspect.signature(model.forward).parameters
        names = [name] if name is not None else [p for p in parameters if p in there]
        if not names:
            names = there if len(there) == 1 else []
        if not names or any(wanted not in there for wanted in names):
            raise DataError(
                f"{path} holds {', '.join(there)}; forward takes {', '.join(parameters)}: say which array it is with --array"
            )
        try:
            return tuple(file[wanted] for wanted in names)
        except ValueError as error:
            raise DataError(f"{path} cannot be read: {error}") from error


def _of_table(path: Path, between: str) -> np.ndarray:
    """Numbers in lines; a first line of words is a header."""
    rows: list[list[float]] = []
    with open(path, newline="", encoding="utf-8-sig") as file:
        for number, cells in enumerate(csv.reader(file, delimiter=between), start=1):
            if not cells:
                continue
            try:
                rows.append([float(cell) for cell in cells])
            except ValueError as error:
                if number == 1:
                    continue
                raise DataError(f"{path}, line {number}: {error}") from error
            if len(rows[-1]) != len(rows[0]):
                raise DataError(f"{path}, line {number}: {len(rows[0])} columns expected, got {len(rows[-1])}")
    if not rows:
        raise DataError(f"{path} holds no row of numbers")
    return np.asarray(rows, np.float32)


def _images(path: Path) -> np.ndarray:
    """float32 (N, C, H, W) of pixels / 255: one image, or those of a folder in the order of their names."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES)
    if not files:
        raise DataError(f"{path}: no image ({', '.join(IMAGES)}) in this folder")
    arrays = [_image(file) for file in files]
    for file, array in zip(files, arrays, strict=True):
        if array.shape != arrays[0].shape:
            raise DataError(
                f"{file} has shape {array.shape} (channels, height, width), {files[0]} has {arrays[0].shape}"
            )
    return np.stack(arrays)


def _image(path: Path) -> np.ndarray:
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - optional library
    except ImportError as error:
        raise DataError(f"{path}: images need Pillow: pip install pillow") from error
    try:
        with Image.open(path) as image:
            grey = image.mode in ("1", "L")
            pixels = np.asarray(image.convert("L" if grey else "RGB"), np.float32) / 255
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} is no image: {error}") from error
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


# ---- outputs


def as_text(arrays: Mapping[str, np.ndarray]) -> str:
    """One line for each sample, numbers between commas; several outputs stand side by side."""
    flat = [array.reshape(len(array), -1) for array in arrays.values()]
    lines = (",".join(str(value) for part in row for value in part.tolist()) for row in zip(*flat, strict=True))
    return "".join(line + "\n" for line in lines)


def as_file(arrays: Mapping[str, np.ndarray], path: Path) -> bytes:
    """The bytes of an output file, by its suffix."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return as_text(arrays).encode()
    buffer = io.BytesIO()
    if suffix == ".npz":
        np.savez(buffer, allow_pickle=False, **dict[str, Any](arrays))
    elif len(arrays) > 1:
        raise RangeError(f"the model has {len(arrays)} outputs ({', '.join(arrays)}): --output ends in .npz")
    else:
        np.save(buffer, next(iter(arrays.values())), allow_pickle=False)
    return buffer.getvalue()
