"""The stand-in's enumerations and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum


class data_type(Enum):
    NOT_SET = 0
    FLOAT = 1
    DOUBLE = 2
    HALF = 3
    BFLOAT16 = 4


class heur_mode(Enum):
    A = 0
    B = 1
    FALLBACK = 2


class numerical_note(Enum):
    TENSOR_CORE = 1
    DOWN_CONVERT_INPUTS = 2
    REDUCED_PRECISION_REDUCTION = 3
    NONDETERMINISTIC = 5


class diagonal_alignment(Enum):
    TOP_LEFT = 0
    BOTTOM_RIGHT = 1


class build_plan_policy(Enum):
    HEURISTICS_CHOICE = 0
    ALL = 1


class convolution_mode(Enum):
    CONVOLUTION = 1
    CROSS_CORRELATION = 2


_Kind = data_type


class tensor:
    """What a graph knows of an operand."""

    def __init__(
        self,
        dim: Sequence[int] = (),
        stride: Sequence[int] = (),
        kind: data_type = data_type.NOT_SET,
        virtual: bool = True,
    ) -> None:
        self.dim, self.stride, self.kind, self.virtual = list(dim), list(stride), kind, virtual
        self.uid = -1

    def set_output(self, is_output: bool) -> tensor:
        self.virtual = not is_output
        return self

    def set_dim(self, dim: Sequence[int]) -> tensor:
        self.dim = list(dim)
        return self

    def set_stride(self, stride: Sequence[int]) -> tensor:
        self.stride = list(stride)
        return self

    def set_data_type(self, data_type: data_type) -> tensor:
        if not isinstance(data_type, _Kind):
            raise Exception(f"No available conversion from type {data_type} to a library type.")
        self.kind = data_type
        return self

    def set_uid(self, uid: int) -> tensor:
        self.uid = uid
        return self

    def get_uid(self) -> int:
        return self.uid

    def get_dim(self) -> list[int]:
        return list(self.dim)

    def get_stride(self) -> list[int]:
        return list(self.stride)

    def get_data_type(self) -> data_type:
        return self.kind
