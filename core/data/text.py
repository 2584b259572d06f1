"""Text as numbers: characters, bytes or words to tokens and back; sequences of unequal length in one array."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, RangeError, ShapeError
from ..tensor import Tensor
from .collate import default_collate
from .fetch import write_atomically

__all__ = [
    "ByteTokenizer",
    "CharTokenizer",
    "PadCollate",
    "Tokenizer",
    "Vocabulary",
    "load_tokenizer",
    "pad_sequences",
    "words",
]

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[^\w\s]")


def words(text: str) -> list[str]:
    """Words in lower case and marks, each for itself.

    >>> phalanx.data.text.words("It's good, isn't it?")
    ["it's", 'good', ',', "isn't", 'it', '?']
    """
    return WORD.findall(text.lower())


class Tokenizer:
    """Base of tokenizers: ``encode(text)`` is an int64 array, ``decode(tokens)`` the text; ``vocab_size`` how many there are.

    A tokenizer is also a transform: ``tokenizer(text)`` encodes.

    >>> from phalanx.data import text
    >>> text.ByteTokenizer()("hi").tolist()
    [104, 105]
    """

    keyed = True

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        raise TypeError(f"{type(self).__name__} must define vocab_size")

    def encode(self, text: str) -> np.ndarray:
        """The tokens of ``text``, int64."""
        raise TypeError(f"{type(self).__name__} must define encode(text)")

    def decode(self, tokens: Any) -> str:
        """The text of ``tokens``."""
        raise TypeError(f"{type(self).__name__} must define decode(tokens)")

    def __call__(self, text: str) -> np.ndarray:
        return self.encode(text)

    def state_dict(self) -> dict[str, Any]:
        """What it knows, in JSON's types."""
        return {"kind": type(self).__name__, **({"tokens": self.tokens} if hasattr(self, "tokens") else {})}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as a JSON file; :func:`load_tokenizer` reads it."""
        write_atomically(Path(path), json.dumps(self.state_dict(), ensure_ascii=False).encode())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.vocab_size} tokens)"


class ByteTokenizer(Tokenizer):
    """The bytes of the text in UTF-8: 256 tokens, nothing to learn, nothing unknown.

    >>> from phalanx.data import text
    >>> text.ByteTokenizer().decode([104, 105])
    'hi'
    """

    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    def decode(self, tokens: Any) -> str:
        return bytes(_integers(tokens).tolist()).decode(errors="replace")


class CharTokenizer(Tokenizer):
    """A token for each character of a text, in sorted order.

    >>> from phalanx.data import text
    >>> letters = text.CharTokenizer("banana")
    >>> letters.encode("nab").tolist(), letters.decode([0, 1, 2]), letters.vocab_size
    ([2, 0, 1], 'abn', 3)
    """

    def __init__(self, text: Iterable[str]) -> None:
        self.tokens = sorted(set(text))
        self._places = {token: place for place, token in enumerate(self.tokens)}
        if not self.tokens:
            raise DataError("CharTokenizer: the text is empty, so there is no character to know")

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> np.ndarray:
        try:
            return np.array([self._places[character] for character in text], np.int64)
        except KeyError as error:
            place = text.index(error.args[0])
            raise DataError(
                f"CharTokenizer: character {error.args[0]!r} at place {place} is not among the {self.vocab_size} that it knows"
            ) from None

    def decode(self, tokens: Any) -> str:
        return "".join(self.tokens[token] for token in _integers(tokens).tolist())


class Vocabulary(Tokenizer):
    """Words to numbers: the most frequent first, after the special ones (``<pad>`` is 0, ``<unk>`` 1, for unknown words).

    ``tokens`` in the order of their numbers; ``tokenize`` cuts a text into words, ``unknown`` stands for those that are not known.

    >>> from phalanx.data import text
    >>> known = text.Vocabulary.from_texts(["a good film", "a bad film"], max_size=4)
    >>> known.tokens, known.encode("a new film").tolist()
    (['<pad>', '<unk>', 'a', 'film'], [2, 1, 3])
    """

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        unknown: str | None = "<unk>",
        tokenize: Callable[[str], list[str]] = words,
    ) -> None:
        self.tokens, self.tokenize = list(tokens), tokenize
        self._places = {token: place for place, token in enumerate(self.tokens)}
        if len(self._places) != len(self.tokens):
            raise DataError("Vocabulary: a token comes more than once")
        self.unknown = self._places.get(unknown) if unknown is not None else None

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        max_size: int | None = None,
        min_count: int = 1,
        specials: Sequence[str] = ("<pad>", "<unk>"),
        tokenize: Callable[[str], list[str]] = words,
    ) -> Vocabulary:
        """The vocabulary of ``texts``: at most ``max_size`` tokens with the special ones; equally frequent ones by name."""
        counts = Counter(token for text in texts for token in tokenize(text))
        common = sorted((-count, token) for token, count in counts.items() if count >= min_count)
        tokens = [*specials, *(token for _, token in common if token not in specials)]
        return cls(tokens[:max_size], tokenize=tokenize)

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, token: str) -> int:
        place = self._places.get(token, self.unknown)
        if place is None:
            raise DataError(f"Vocabulary: {token!r} is not among the {len(self)} known, and there is no <unk>")
        return place

    def encode(self, text: str) -> np.ndarray:
        return np.array([self[token] for token in self.tokenize(text)], np.int64)

    def decode(self, tokens: Any) -> str:
        return " ".join(self.tokens[token] for token in _integers(tokens).tolist())


def load_tokenizer(state: str | os.PathLike[str] | Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in a file that :meth:`Tokenizer.save` wrote, or in its ``state_dict()``: ``state`` is either.

    >>> from phalanx.data import text
    >>> text.load_tokenizer(text.CharTokenizer("abc").state_dict())
    CharTokenizer(3 tokens)
    """
    if not isinstance(state, Mapping):
        try:
            state = json.loads(Path(state).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"no tokenizer can be read from {os.fspath(state)!r}: {error}") from error  # type: ignore[arg-type]
    assert isinstance(state, Mapping)
    kinds: dict[Any, Callable[[], Tokenizer]] = {
        "ByteTokenizer": ByteTokenizer,
        "CharTokenizer": lambda: CharTokenizer(state["tokens"]),
        "Vocabulary": lambda: Vocabulary(state["tokens"]),
    }
    if state.get("kind") not in kinds:
        raise DataError(f"not a tokenizer of this package: kind {state.get('kind')!r}, known are {', '.join(kinds)}")
    return kinds[state["kind"]]()


def pad_sequences(
    sequences: Sequence[Any],
    maxlen: int | None = None,
    dtype: Any = "int64",
    padding: str = "pre",
    truncating: str = "pre",
    value: float = 0,
) -> np.ndarray:
    """``sequences`` of unequal length as one array (N, maxlen), as Keras's function of that name.

    ``maxlen``: the longest by default; ``padding`` and ``truncating``: "pre" or "post", where to fill up (with ``value``) and cut off.

    >>> from phalanx.data import text
    >>> text.pad_sequences([[1], [2, 3, 4]], maxlen=2, padding="post").tolist()
    [[1, 0], [3, 4]]
    """
    for name, side in (("padding", padding), ("truncating", truncating)):
        if side not in ("pre", "post"):
            raise RangeError(f'pad_sequences: {name} is "pre" or "post", got {side!r}')
    rows = [_integers(sequence, dtype) for sequence in sequences]
    if any(row.ndim != 1 for row in rows):
        raise ShapeError("pad_sequences: each sequence is one value after another")
    length = max((len(row) for row in rows), default=0) if maxlen is None else maxlen
    padded = np.full((len(rows), length), value, dtype)
    for line, row in zip(padded, rows, strict=True):
        if not length:
            break
        kept = row[-length:] if truncating == "pre" else row[:length]
        if padding == "post":
            line[: len(kept)] = kept
        elif len(kept):
            line[-len(kept) :] = kept
    return padded


class PadCollate:
    """A ``collate_fn`` for samples (sequence, target): (padded (N, longest), lengths (N,), targets).

    Each shard is padded to its own longest, so that shapes do not depend on the number of ranks. ``maxlen`` cuts; ``value`` fills up,
    before or after the sequence as ``padding`` ("pre", "post") says.

    >>> from phalanx.data import text
    >>> tokens, lengths, labels = text.PadCollate()([(np.array([5, 6]), 0), (np.array([7]), 1)])
    >>> tokens.tolist(), lengths.tolist(), labels.tolist()
    ([[5, 6], [7, 0]], [2, 1], [0, 1])
    """

    keyed = True

    def __init__(self, value: float = 0, padding: str = "post", maxlen: int | None = None) -> None:
        self.value, self.padding, self.maxlen = value, padding, maxlen

    def __call__(self, samples: Sequence[Any]) -> tuple[Tensor, Tensor, Any]:
        rows = [_integers(sequence, None) for sequence, _ in samples]
        longest = max(len(row) for row in rows)
        length = longest if self.maxlen is None else min(longest, self.maxlen)
        padded = pad_sequences(rows, length, rows[0].dtype, self.padding, "post", self.value)
        lengths = np.array([min(len(row), length) for row in rows], np.int64)
        return Tensor(padded), Tensor(lengths), default_collate([target for _, target in samples])


def _integers(tokens: Any, dtype: Any = np.int64) -> np.ndarray:
    array = np.asarray(tokens.numpy() if hasattr(tokens, "numpy") else tokens)
    return array if dtype is None else array.astype(dtype)
