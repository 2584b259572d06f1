"""Sequences of unequal lengths: packed, padded, unpacked, with the names of ``torch.nn.utils.rnn``.

A packed batch keeps the rows of all sequences without padding, step after step, the longest sequence first: recurrent layers
then compute nothing for places that do not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backend import array_module, to_device, to_host
from ..errors import DTypeError, RangeError, ShapeError
from ..functions import cat
from ..graph import apply
from ..ops.recurrent import PUT_ROWS, TAKE_ROWS
from ..tensor import Tensor

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


class Layout(NamedTuple):
    """Where the rows of a packed batch come from: ``order[k]`` is the sequence at place k, ``sizes[t]`` how many have a step t."""

    order: np.ndarray
    sizes: tuple[int, ...]
    sequence: np.ndarray
    """For each row its sequence."""
    step: np.ndarray
    """For each row its step within the sequence."""

    @classmethod
    def of(cls, lengths: np.ndarray, order: np.ndarray) -> Layout:
        """For ``lengths`` of the sequences, taken in ``order`` (longest first)."""
        longest = int(lengths.max()) if lengths.size else 0
        steps = np.arange(longest)
        sizes = (lengths[None, :] > steps[:, None]).sum(axis=1)
        step = np.repeat(steps, sizes)
        place = np.arange(len(step)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return cls(order, tuple(sizes.tolist()), order[place], step)


def longest_first(lengths: np.ndarray) -> np.ndarray:
    """The sequences by falling length; equal ones keep their order."""
    return np.argsort(-lengths, kind="stable")


class _Packed(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Packed):
    """A batch of sequences without padding: ``data`` (sum of the lengths, *) holds all first steps, then all second ones, ...

    ``batch_sizes[t]`` sequences have a step t. ``sorted_indices`` says which sequence stands at which place, ``unsorted_indices``
    the reverse; both are None if the sequences were given longest first and ``enforce_sorted``. Made by
    :func:`pack_padded_sequence` and :func:`pack_sequence`; taken and returned by RNN, LSTM and GRU.

    >>> packed = nn.utils.rnn.pack_sequence([phalanx.ones(3), phalanx.zeros(1)])
    >>> packed.data.tolist(), packed.batch_sizes.tolist()
    ([1.0, 0.0, 1.0, 1.0], [2, 1, 1])
    """

    __slots__ = ()

    def __new__(
        cls,
        data: Tensor,
        batch_sizes: Tensor | None = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:
        if batch_sizes is None:
            raise DTypeError(
                "PackedSequence: batch_sizes is needed; pack_sequence() and pack_padded_sequence() make it"
            )
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The data on another device or in another dtype."""
        data = self.data.to(*args, **kwargs)
        places = [None if t is None else t.to(data.device) for t in (self.sorted_indices, self.unsorted_indices)]
        return self._replace(data=data, sorted_indices=places[0], unsorted_indices=places[1])

    def cpu(self) -> PackedSequence:
        """The data on the host."""
        return self.to("cpu")

    def cuda(self) -> PackedSequence:
        """The data on the GPU."""
        return self.to("cuda")

    def half(self) -> PackedSequence:
        """The data in float16."""
        return self.to(np.float16)

    def float(self) -> PackedSequence:
        """The data in float32."""
        return self.to(np.float32)

    def double(self) -> PackedSequence:
        """The data in float64."""
        return self.to(np.float64)

    def long(self) -> PackedSequence:
        """The data in int64."""
        return self.to(np.int64)

    def pin_memory(self) -> PackedSequence:
        """Itself: host memory is not pinned here."""
        return self

    @property
    def is_cuda(self) -> bool:
        """Whether the data lies on a GPU."""
        return self.data.is_cuda

    def layout(self) -> Layout:
        """Where each row stands."""
        sizes = to_host(self.batch_sizes.array)
        count = int(sizes[0]) if len(sizes) else 0
        order = np.arange(count) if self.sorted_indices is None else to_host(self.sorted_indices.array)
        lengths = (sizes[None, :] > np.arange(count)[:, None]).sum(axis=1)
        return Layout.of(lengths, order)


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes ``permutation``; None for None.

    >>> nn.utils.rnn.invert_permutation(phalanx.tensor([2, 0, 1])).tolist()
    [1, 2, 0]
    """
    if permutation is None:
        return None
    return Tensor(to_device(np.argsort(to_host(permutation.array)), permutation.device))


def _lengths(op: str, lengths: Any, count: int, longest: int) -> np.ndarray:
    array = (
        np.asarray([int(n) for n in lengths], np.int64)
        if isinstance(lengths, (list, tuple))
        else to_host(lengths.array)
    )
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ShapeError(f"{op}: expected one integer length for each of the {count} sequences, got {array.tolist()}")
    if count and not 0 < array.min() <= array.max() <= longest:
        raise RangeError(f"{op}: lengths must be from 1 to {longest}, the padded length, got {array.tolist()}")
    return array.astype(np.int64)


def _order(op: str, lengths: np.ndarray, enforce_sorted: bool) -> np.ndarray:
    if enforce_sorted and (np.diff(lengths) > 0).any():
        raise RangeError(
            f"{op}: lengths must fall, got {lengths.tolist()}; sort the sequences or pass enforce_sorted=False"
        )
    return longest_first(lengths)


def take_rows(padded: Tensor, rows: np.ndarray) -> Tensor:
    """The rows (the first two dimensions taken as one) of a padded batch, each at most once."""
    flat = padded.reshape(padded.shape[0] * padded.shape[1], *padded.shape[2:])
    return apply(TAKE_ROWS, flat, rows=array_module(flat.array).asarray(rows))


def put_rows(data: Tensor, rows: np.ndarray, shape: tuple[int, int], fill: float = 0.0) -> Tensor:
    """A padded batch of ``shape`` (its first two dimensions) with ``data`` in ``rows`` and ``fill`` elsewhere."""
    flat = apply(PUT_ROWS, data, rows=array_module(data.array).asarray(rows), count=shape[0] * shape[1], fill=fill)
    return flat.reshape(*shape, *data.shape[1:])


def flat_rows(sequence: np.ndarray, step: np.ndarray, shape: Sequence[int], batch_first: bool) -> np.ndarray:
    """The row of each (sequence, step) when the first two dimensions of ``shape`` are taken as one."""
    return sequence * shape[1] + step if batch_first else step * shape[1] + sequence


def pack_padded_sequence(
    input: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Leave out the padding of ``input`` (L, N, *), with ``batch_first`` (N, L, *); ``lengths`` (N,) are from 1 to L.

    With ``enforce_sorted=False`` the sequences may come in any order of lengths. Raises RangeError for lengths that are too large,
    not positive, or (with ``enforce_sorted``) not falling.

    >>> x = phalanx.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    >>> nn.utils.rnn.pack_padded_sequence(x, [3, 1], batch_first=True).data.tolist()
    [1.0, 4.0, 2.0, 3.0]
    """
    op = "pack_padded_sequence"
    if input.ndim < 2:
        raise ShapeError(f"{op}: expected a padded batch of 2 or more dimensions, got shape {tuple(input.shape)}")
    count, longest = input.shape[:2] if batch_first else input.shape[1::-1]
    found = _lengths(op, lengths, count, longest)
    order = _order(op, found, enforce_sorted)
    layout = Layout.of(found, order)
    data = take_rows(input, flat_rows(layout.sequence, layout.step, input.shape, batch_first))
    sizes, places = Tensor(np.asarray(layout.sizes, np.int64)), Tensor(to_device(order, input.device))
    return PackedSequence(data, sizes, None if enforce_sorted else places)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Back to a padded batch (L, N, *), with ``batch_first`` (N, L, *), and the lengths (N,), in the original order.

    L is the longest sequence, or ``total_length``. Raises RangeError if that is too short.

    >>> packed = nn.utils.rnn.pack_sequence([phalanx.ones(2), phalanx.ones(1)])
    >>> padded, lengths = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
    >>> padded.tolist(), lengths.tolist()
    ([[1.0, 1.0], [1.0, 0.0]], [2, 1])
    """
    layout = sequence.layout()
    count, longest = len(layout.order), len(layout.sizes)
    if total_length is not None and total_length < longest:
        raise RangeError(f"pad_packed_sequence: total_length {total_length} is below the longest sequence's {longest}")
    longest = longest if total_length is None else total_length
    shape = (count, longest) if batch_first else (longest, count)
    rows = flat_rows(layout.sequence, layout.step, shape, batch_first)
    lengths = np.bincount(layout.sequence, minlength=count)
    return put_rows(sequence.data, rows, shape, padding_value), Tensor(lengths.astype(np.int64))


def pad_sequence(
    sequences: Sequence[Tensor] | Tensor,
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Sequences (L_i, *) as one batch (L, N, *), with ``batch_first`` (N, L, *), the shorter ones filled with ``padding_value``.

    ``padding_side`` is "right" or "left". Raises ShapeError for no sequence, or for sequences that differ beyond their length.

    >>> nn.utils.rnn.pad_sequence([phalanx.ones(3), phalanx.ones(1)], batch_first=True).tolist()
    [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    """
    if padding_side not in ("right", "left"):
        raise RangeError(f"pad_sequence: padding_side is 'right' or 'left', got {padding_side!r}")
    given = _alike("pad_sequence", sequences)
    lengths = np.asarray([len(x.array) for x in given])
    longest = int(lengths.max())
    sequence = np.repeat(np.arange(len(given)), lengths)
    step = np.arange(len(sequence)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if padding_side == "left":
        step = step + np.repeat(longest - lengths, lengths)
    shape = (len(given), longest) if batch_first else (longest, len(given))
    return put_rows(cat(given), flat_rows(sequence, step, shape, batch_first), shape, padding_value)


def _alike(op: str, sequences: Sequence[Tensor] | Tensor) -> list[Tensor]:
    given = list(sequences)
    shapes = [tuple(x.shape) for x in given]
    if not given or any(not shape or shape[1:] != shapes[0][1:] for shape in shapes):
        raise ShapeError(
            f"{op}: expected one or more sequences that differ in their first dimension alone, got shapes {shapes}"
        )
    return given


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences (L_i, *), longest first; with ``enforce_sorted=False`` in any order.

    >>> nn.utils.rnn.pack_sequence([phalanx.ones(1), phalanx.ones(4)], enforce_sorted=False).sorted_indices.tolist()
    [1, 0]
    """
    given = _alike("pack_sequence", sequences)
    lengths = [len(x.array) for x in given]
    return pack_padded_sequence(pad_sequence(given), lengths, enforce_sorted=enforce_sorted)


def unpad_sequence(
    padded_sequences: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False
) -> list[Tensor]:
    """The sequences (L_i, *) of a padded batch: the reverse of :func:`pad_sequence`.

    >>> [x.tolist() for x in nn.utils.rnn.unpad_sequence(phalanx.ones(2, 3), [3, 1], batch_first=True)]
    [[1.0, 1.0, 1.0], [1.0]]
    """
    count, longest = padded_sequences.shape[:2] if batch_first else padded_sequences.shape[1::-1]
    found = _lengths("unpad_sequence", lengths, count, longest).tolist()
    if batch_first:
        return [padded_sequences[i, :length] for i, length in enumerate(found)]
    return [padded_sequences[:length, i] for i, length in enumerate(found)]


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences (L_i, *) of a packed batch: the reverse of :func:`pack_sequence`.

    >>> packed = nn.utils.rnn.pack_sequence([phalanx.ones(2), phalanx.zeros(1)])
    >>> [x.tolist() for x in nn.utils.rnn.unpack_sequence(packed)]
    [[1.0, 1.0], [0.0]]
    """
    return unpad_sequence(*pad_packed_sequence(packed_sequences, batch_first=True), batch_first=True)
