"""Token files: flat binary arrays of small integers, memory-mapped, cut into blocks for language models."""

from __future__ import annotations

import hashlib
import json
import math
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, RangeError
from ..tensor import Tensor
from .dataset import Dataset
from .fetch import write_atomically
from .text import ByteTokenizer, CharTokenizer, Tokenizer, load_tokenizer

HEAD_TOKENS = 1 << 14
"""How many tokens of each file stand for its content."""


class TokenDataset(Dataset):
    """Blocks of ``block_size`` tokens and the same moved on by one: sample i is (x, y), int64 of (block_size,) each.

    ``files``: one path or several, of raw tokens of ``dtype`` (what :func:`tokenize_file` noted, else uint16), mapped into
    memory and never read as a whole. ``stride`` tokens lie between the beginnings of neighbouring blocks: by default
    ``block_size``, so that each token is a target once; 1 gives all windows. A block lies in one file.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/tokens.bin"
    >>> np.arange(10, dtype=np.uint16).tofile(path)
    >>> data = phalanx.data.TokenDataset(path, block_size=4)
    >>> len(data), [part.tolist() for part in data[1]]
    (2, [[4, 5, 6, 7], [5, 6, 7, 8]])
    """

    keyed = True

    def __init__(
        self,
        files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        block_size: int,
        dtype: Any = None,
        stride: int | None = None,
    ) -> None:
        named = [files] if isinstance(files, str | os.PathLike) else list(files)
        self.files = [Path(name) for name in named]
        self.block_size, self.stride = block_size, block_size if stride is None else stride
        if not self.files or block_size < 1 or self.stride < 1:
            raise RangeError(
                f"TokenDataset needs a file, and block_size and stride of at least 1; got {len(self.files)} files, "
                f"block_size={block_size}, stride={stride}"
            )
        self.dtype = np.dtype(_noted(self.files[0]).get("dtype", "uint16") if dtype is None else dtype)
        if self.dtype.kind not in "iu":
            raise RangeError(f"TokenDataset: tokens are integers, got dtype {self.dtype}")
        self._map()
        counts = [max(0, (len(tokens) - block_size - 1) // self.stride + 1) for tokens in self._tokens]
        self._ends = list(accumulate(counts))
        if not self._ends[-1]:
            longest = max(len(tokens) for tokens in self._tokens)
            raise DataError(
                f"no file has the {block_size + 1} tokens of a block and its targets; the longest has {longest}"
            )

    def _map(self) -> None:
        self._tokens = []
        for path in self.files:
            try:
                size = path.stat().st_size
                if size % self.dtype.itemsize:
                    raise DataError(f"{path} has {size} bytes, no whole number of {self.dtype} tokens")
                self._tokens.append(np.memmap(path, self.dtype, "r") if size else np.zeros(0, self.dtype))
            except OSError as error:
                raise DataError(f"{path} cannot be mapped: {error}") from error

    @property
    def tokenizer(self) -> Tokenizer:
        """What :func:`tokenize_file` noted beside the first file."""
        noted = _noted(self.files[0])
        if "tokenizer" not in noted:
            raise DataError(f"no tokenizer is noted beside {self.files[0]} (tokenize_file does that)")
        return load_tokenizer(noted["tokenizer"])

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        x, y = self.take(np.array([index % len(self)]))
        return Tensor(x[0]), Tensor(y[0])

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blocks = np.empty((len(indices), self.block_size + 1), np.int64)
        for row, index in zip(blocks, np.asarray(indices).tolist(), strict=True):
            place = bisect_right(self._ends, index)
            start = (index - (self._ends[place - 1] if place else 0)) * self.stride
            row[:] = self._tokens[place][start : start + self.block_size + 1]
        return np.ascontiguousarray(blocks[:, :-1]), np.ascontiguousarray(blocks[:, 1:])

    def identity(self) -> str:
        """Sizes and beginnings of the files, and how they are cut."""
        heads = []
        for path, tokens in zip(self.files, self._tokens, strict=True):
            head = hashlib.blake2b(tokens[:HEAD_TOKENS].tobytes(), digest_size=8).hexdigest()
            heads.append(f"{path.name} {len(tokens)} {head}")
        return f"{'; '.join(heads)}; {self.dtype}, {self.block_size}, {self.stride}"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tokens"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def __repr__(self) -> str:
        return f"TokenDataset({len(self)} blocks of {self.block_size} tokens from {len(self.files)} files)"


def tokenize_file(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    tokenizer: str | Tokenizer = "bytes",
    encoding: str = "utf-8",
) -> Tokenizer:
    """Write the tokens of a text file as a file for :class:`TokenDataset`; beside it, as JSON, dtype, count and tokenizer.

    ``source`` is read, ``destination`` written.
    ``tokenizer``: "bytes", "chars" (those that the text has) or one of your own. Returns the tokenizer. All ranks may
    call it: each writes the same, and a file is there whole or not at all.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = open(folder + "/text", "w").write("to be or not to be")
    >>> letters = phalanx.data.tokenize_file(folder + "/text", folder + "/tokens.bin", "chars")
    >>> letters.decode(phalanx.data.TokenDataset(folder + "/tokens.bin", block_size=5)[0][1])
    'o be '
    """
    try:
        text = Path(source).read_text(encoding=encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{os.fspath(source)} cannot be read as text: {error}") from error
    return write_tokens(text, destination, tokenizer)


def write_tokens(text: str, destination: str | os.PathLike[str], tokenizer: str | Tokenizer = "bytes") -> Tokenizer:
    """Write the tokens of ``text``, which is in memory, to ``destination``: as :func:`tokenize_file`.

    >>> import tempfile
    >>> phalanx.data.write_tokens("abc", tempfile.mkdtemp() + "/tokens.bin")
    ByteTokenizer(256 tokens)
    """
    if isinstance(tokenizer, str):
        if tokenizer not in ("bytes", "chars"):
            raise RangeError(f'tokenizer is "bytes", "chars" or a Tokenizer, got {tokenizer!r}')
        tokenizer = ByteTokenizer() if tokenizer == "bytes" else CharTokenizer(text)
    tokens = tokenizer.encode(text)
    dtype = np.dtype(
        "uint8" if tokenizer.vocab_size <= 1 << 8 else "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    )
    noted = {"dtype": dtype.name, "count": math.prod(tokens.shape), "tokenizer": tokenizer.state_dict()}
    write_atomically(Path(destination), tokens.astype(dtype).tobytes())
    write_atomically(_beside(Path(destination)), json.dumps(noted, ensure_ascii=False).encode())
    return tokenizer


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _noted(path: Path) -> dict[str, Any]:
    try:
        noted = json.loads(_beside(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}
