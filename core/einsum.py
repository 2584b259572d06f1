"""``einsum``, composed of transpositions, products and sums."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

from .errors import ShapeError
from .tensor import Tensor

_FREE = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def einsum(equation: Any, *operands: Any) -> Tensor:
    """Sum of products over the indices that the output does not name.

    ``einsum("bij,bjk->bik", a, b)`` is a batched matrix product; "..." stands for dimensions that broadcast; an index that
    occurs twice in one operand takes its diagonal. ``einsum(a, [0, 1], b, [1, 2], [0, 2])`` has numbers for letters.
    Operands are multiplied from left to right.

    >>> phalanx.einsum("ij,j->i", phalanx.ones(2, 3), phalanx.ones(3)).tolist()
    [3.0, 3.0]
    """
    if not isinstance(equation, str):
        equation, operands = _spelt((equation, *operands))
    tensors: Sequence[Tensor] = (
        operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    )
    terms, output = _parsed(equation, tensors)
    tensors, terms = map(list, zip(*map(_once, tensors, terms), strict=True))  # type: ignore[assignment]
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        for letter, size in zip(term, tensor.shape, strict=True):
            known = sizes.get(letter, 1)
            if size not in (1, known) and known != 1:
                raise ShapeError(
                    f"einsum {equation!r}: index {letter!r} is {known} in one operand and {size} in another"
                )
            sizes[letter] = max(known, size) if size != 0 else 0
    left, letters = tensors[0], terms[0]
    for position in range(1, len(tensors)):
        needed = set(output).union(*terms[position + 1 :])
        left, letters = _pair(left, letters, tensors[position], terms[position], needed)
    gone = tuple(i for i, letter in enumerate(letters) if letter not in output)
    if gone:
        left = left.sum(gone)
    letters = [letter for letter in letters if letter in output]
    order = tuple(letters.index(letter) for letter in output)
    return left if order == tuple(range(len(order))) else left.permute(*order)


def _spelt(operands: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """Operands with lists of numbers beside them, as an equation: 0 is a, 1 is b, and so on."""
    letters = string.ascii_lowercase + string.ascii_uppercase

    def word(numbers: Sequence[Any]) -> str:
        return "".join("..." if n is Ellipsis else letters[n] for n in numbers)

    pairs = len(operands) // 2
    if not all(isinstance(x, list | tuple) for x in operands[1 : 2 * pairs : 2]):
        raise ShapeError("einsum: an equation, or pairs of a Tensor and a list of numbers expected")
    equation = ",".join(word(numbers) for numbers in operands[1 : 2 * pairs : 2])
    if len(operands) % 2:
        equation += "->" + word(operands[-1])
    return equation, operands[: 2 * pairs : 2]


def _once(x: Any, letters: list[str]) -> tuple[Any, list[str]]:
    """The diagonal of dimensions of one name, for every name that occurs twice."""
    for letter in dict.fromkeys(letters):
        while letters.count(letter) > 1:
            first = letters.index(letter)
            second = letters.index(letter, first + 1)
            if x.shape[first] != x.shape[second]:
                raise ShapeError(f"einsum: index {letter!r} is {x.shape[first]} and {x.shape[second]} in one operand")
            x = x.diagonal(0, first, second)
            letters = [name for i, name in enumerate(letters) if i not in (first, second)] + [letter]
    return x, letters


def _parsed(equation: str, tensors: Sequence[Tensor]) -> tuple[list[list[str]], list[str]]:
    """Indices of each operand and of the output, "..." spelt out with capital letters that nobody uses."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    parts = inputs.split(",")
    if len(parts) != len(tensors):
        raise ShapeError(f"einsum {equation!r} names {len(parts)} operands, got {len(tensors)}")
    free = [letter for letter in _FREE if letter not in equation]
    longest = 0
    terms = []
    for part, tensor in zip(parts, tensors, strict=True):
        extra = tensor.ndim - len(part.replace("...", "")) if "..." in part else 0
        term = list(part.replace("...", "".join(free[i] for i in range(extra))[::-1]))
        if extra < 0 or len(term) != tensor.ndim:
            raise ShapeError(f"einsum {equation!r}: {part!r} does not name each dimension of shape {tensor.shape}")
        longest = max(longest, extra)
        terms.append(term)
    dots = free[:longest][::-1]
    if arrow:
        before, ellipsis, behind = result.partition("...")
        output = [*before, *(dots if ellipsis else []), *behind]
    else:
        named = [letter for term in terms for letter in term if letter not in dots]
        output = dots + sorted(letter for letter in set(named) if named.count(letter) == 1)
    unknown = set(output).difference(*terms)
    if unknown or len(set(output)) != len(output):
        raise ShapeError(
            f"einsum {equation!r}: the output names {''.join(output)!r}, which the operands do not have once"
        )
    return terms, output


def _pair(
    a: Tensor, a_letters: list[str], b: Tensor, b_letters: list[str], needed: set[str]
) -> tuple[Tensor, list[str]]:
    """The product of two operands, summed over what nobody needs any more, as one batched matrix product."""
    a, a_letters = _without(a, a_letters, needed | set(b_letters))
    b, b_letters = _without(b, b_letters, needed | set(a_letters))
    shared = [letter for letter in a_letters if letter in b_letters]
    batch = [letter for letter in shared if letter in needed]
    inner = [letter for letter in shared if letter not in needed]
    rows = [letter for letter in a_letters if letter not in shared]
    columns = [letter for letter in b_letters if letter not in shared]
    size = dict(zip(a_letters, a.shape, strict=True))
    for letter, length in zip(b_letters, b.shape, strict=True):
        size[letter] = length if size.get(letter, 1) == 1 else size[letter]
    a = _spread(a, a_letters, [*batch, *rows, *inner], size)
    b = _spread(b, b_letters, [*batch, *inner, *columns], size)
    counts = [math.prod(size[letter] for letter in group) for group in (rows, inner, columns)]
    lead = [size[letter] for letter in batch]
    product = a.reshape(*lead, counts[0], counts[1]) @ b.reshape(*lead, counts[1], counts[2])
    letters = [*batch, *rows, *columns]
    return product.reshape([size[letter] for letter in letters]), letters


def _without(x: Tensor, letters: list[str], kept: set[str]) -> tuple[Tensor, list[str]]:
    gone = tuple(i for i, letter in enumerate(letters) if letter not in kept)
    return (x.sum(gone) if gone else x), [letter for letter in letters if letter in kept]


def _spread(x: Tensor, letters: list[str], order: list[str], size: dict[str, int]) -> Tensor:
    """Dimensions in ``order``, those of size 1 that broadcast expanded."""
    x = x.permute(*(letters.index(letter) for letter in order))
    shape = tuple(size[letter] for letter in order)
    return x if x.shape == shape else x.expand(shape)
