"""PyTorch's switches for what a GPU may do: ``phalanx.backends.cuda.matmul.allow_tf32`` and ``phalanx.backends.cudnn``."""

from __future__ import annotations

from .core.amp import precision

__all__ = ["cuda", "cudnn"]


class _Matmul:
    @property
    def allow_tf32(self) -> bool:
        """Whether products of float32 matrices may use TF32."""
        return precision.tf32()

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        precision.set_float32_matmul_precision("high" if allowed else "highest")


class _Cuda:
    def __init__(self) -> None:
        self.matmul = _Matmul()


class _Cudnn:
    benchmark = False
    """Accepted, and changes nothing: which algorithm serves a shape does not depend on a clock."""
    enabled = True

    @property
    def allow_tf32(self) -> bool:
        """Whether float32 convolutions may use TF32."""
        return precision.convolution_tf32()

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        precision.set_convolution_tf32(allowed)

    @property
    def deterministic(self) -> bool:
        """Whether equal runs must give equal bits."""
        return precision.deterministic()

    @deterministic.setter
    def deterministic(self, mode: bool) -> None:
        precision.use_deterministic_algorithms(mode)


cuda = _Cuda()
"""``cuda.matmul.allow_tf32``: whether products of float32 matrices may use TF32; False at first.

>>> phalanx.backends.cuda.matmul.allow_tf32
False
"""
cudnn = _Cudnn()
"""``cudnn.allow_tf32`` for convolutions, ``cudnn.deterministic``, ``cudnn.benchmark``.

>>> phalanx.backends.cudnn.allow_tf32
False
"""
