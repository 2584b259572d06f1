"""Tables of vectors: Embedding and EmbeddingBag."""

from __future__ import annotations

from typing import Any

from ..errors import RangeError, ShapeError
from ..tensor import Tensor
from . import functional as F
from . import init
from .module import Module
from .parameter import Parameter


class _Table(Module):
    """What both share: the rows, the one that is padding, and the options that are not known."""

    weight: Parameter

    def __init__(  # PyTorch's options
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        max_norm: float | None,
        sparse: bool,
        given: Tensor | None,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if max_norm is not None or sparse:
            raise RangeError(
                f"{name}: max_norm (a forward that changes the weight) and sparse (gradients are dense) are not known"
            )
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise RangeError(f"{name}: padding_idx {padding_idx} is outside of {num_embeddings} rows")
            padding_idx %= num_embeddings
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        if given is None:
            self.weight = Parameter.empty((num_embeddings, embedding_dim), dtype, device)
            self.reset_parameters()
            return
        if tuple(given.shape) != (num_embeddings, embedding_dim):
            raise ShapeError(
                f"{name}: weight of shape {(num_embeddings, embedding_dim)} expected, got {tuple(given.shape)}"
            )
        self.weight = Parameter(given)

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.array[self.padding_idx] = 0


class Embedding(_Table):
    """Row ``input[...]`` of the weight for each integer.

    Shapes: input (*) of integers below num_embeddings, output (*, embedding_dim), weight (num_embeddings, embedding_dim).
    The weight starts normal(0, 1); row ``padding_idx`` starts at zero and gets no gradient. Raises RangeError for an
    index out of range.

    >>> nn.Embedding(10, 4)(phalanx.tensor([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, max_norm, sparse, _weight, device, dtype)
        self.scale_grad_by_freq = scale_grad_by_freq
        self.weight.requires_grad = not _freeze

    @classmethod
    def from_pretrained(
        cls, embeddings: Tensor, freeze: bool = True, padding_idx: int | None = None, **options: Any
    ) -> Embedding:
        """An Embedding with the given rows; frozen by default."""
        rows, columns = embeddings.shape
        return cls(rows, columns, padding_idx, _weight=embeddings, _freeze=freeze, **options)

    def forward(self, input: Tensor) -> Tensor:
        """(*) -> (*, embedding_dim)."""
        return F.embedding(input, self.weight, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)

    def extra_repr(self) -> str:
        """Sizes."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        scaled = ", scale_grad_by_freq=True" if self.scale_grad_by_freq else ""
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}{scaled}"


class EmbeddingBag(_Table):
    """Sum, mean or maximum of the rows of each bag of integers.

    Shapes: input (B, N), or one row of all bags' integers with ``offsets`` (B,), where each bag begins; output (B, embedding_dim).
    ``per_sample_weights`` (for "sum") multiply the rows; index ``padding_idx`` counts for nothing.

    >>> nn.EmbeddingBag(10, 4, mode="sum")(phalanx.tensor([[1, 2, 3], [4, 5, 6]])).shape
    (2, 4)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if mode not in ("sum", "mean", "max"):
            raise RangeError(f"EmbeddingBag: mode must be 'sum', 'mean' or 'max', got {mode!r}")
        super().__init__(num_embeddings, embedding_dim, padding_idx, max_norm, sparse, _weight, device, dtype)
        self.scale_grad_by_freq, self.mode, self.include_last_offset = scale_grad_by_freq, mode, include_last_offset

    @classmethod
    def from_pretrained(
        cls, embeddings: Tensor, freeze: bool = True, max_norm: float | None = None, **options: Any
    ) -> EmbeddingBag:
        """An EmbeddingBag with the given rows; frozen by default."""
        rows, columns = embeddings.shape
        table = cls(rows, columns, max_norm, _weight=embeddings, **options)
        table.weight.requires_grad = not freeze
        return table

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """(B, N), or a row with offsets (B,) -> (B, embedding_dim)."""
        return F.embedding_bag(
            input,
            self.weight,
            offsets,
            scale_grad_by_freq=self.scale_grad_by_freq,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )

    def extra_repr(self) -> str:
        """Sizes and mode."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        scaled = ", scale_grad_by_freq=True" if self.scale_grad_by_freq else ""
        return f"{self.num_embeddings}, {self.embedding_dim}{scaled}, mode={self.mode!r}{padding}"
