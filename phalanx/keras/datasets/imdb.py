"""25,000 and 25,000 reviews of films as numbers of words, half of them positive (Maas et al., 2011)."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np

from ...core.data.datasets import IMDB

__all__ = ["get_word_index", "load_data"]

Arrays = tuple[np.ndarray, np.ndarray]
_NO_WORD = re.compile(r"<br\s*/?>|[!\"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~\t\n]")


@lru_cache(maxsize=1)
def _texts() -> tuple[list[list[str]], np.ndarray, list[list[str]], np.ndarray]:
    train, test = IMDB(train=True), IMDB(train=False)
    words = [[_NO_WORD.sub(" ", text.lower()).split() for text in part.texts] for part in (train, test)]
    return words[0], train.targets, words[1], test.targets


@lru_cache(maxsize=1)
def _ranks() -> dict[str, int]:
    train, _, test, _ = _texts()
    counts = Counter(word for text in [*train, *test] for word in text)
    return {
        word: rank for rank, (word, _) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0])), 1)
    }


def get_word_index(path: Any = None) -> dict[str, int]:
    """Word -> its rank by how often it comes, from 1. The words are counted here: ranks differ a little from Keras's file.

    >>> from phalanx import keras
    >>> keras.datasets.imdb.get_word_index()["the"]  # doctest: +SKIP
    1
    """
    return dict(_ranks())


def load_data(
    path: Any = None,
    num_words: int | None = None,
    skip_top: int = 0,
    maxlen: int | None = None,
    seed: int = 113,
    start_char: int | None = 1,
    oov_char: int | None = 2,
    index_from: int = 3,
    **unused: Any,
) -> tuple[Arrays, Arrays]:
    """((x_train, y_train), (x_test, y_test)): arrays of lists of word numbers, and labels 0 and 1, in an order drawn by ``seed``.

    Args:
        num_words, skip_top: words of these ranks only; others become ``oov_char`` (None: are left out).
        maxlen: longer reviews are left out.
        start_char: the number in front of each review. index_from: is added to the ranks.

    >>> from phalanx import keras
    >>> (x, y), test = keras.datasets.imdb.load_data(num_words=10000)  # doctest: +SKIP
    """
    train, train_labels, test, test_labels = _texts()
    ranks, top = _ranks(), num_words if num_words is not None else 1 << 60
    rng = np.random.RandomState(seed)

    def numbered(text: list[str]) -> list[int]:
        row = [] if start_char is None else [start_char]
        for word in text:
            number = ranks[word] + index_from
            if skip_top <= number < top:
                row.append(number)
            elif oov_char is not None:
                row.append(oov_char)
        return row

    def part(texts: list[list[str]], labels: np.ndarray) -> Arrays:
        order = rng.permutation(len(texts))
        rows = [(numbered(texts[place]), int(labels[place])) for place in order]
        rows = [row for row in rows if maxlen is None or len(row[0]) < maxlen]
        x = np.empty(len(rows), dtype=object)
        x[:] = [row for row, _ in rows]
        return x, np.array([label for _, label in rows], np.int64)

    return part(train, train_labels), part(test, test_labels)
