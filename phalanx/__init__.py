"""phalanx: data-parallel training whose bits do not depend on how many ranks trained them.

Names load at first use, so that ``import phalanx`` is quick and starts neither MPI nor CUDA nor a socket. What PyTorch keeps
at its top level (``tensor``, ``relu``, ``no_grad``, ...) is here, beside ``nn``, ``optim``, ``data`` and what belongs to the
ranks: ``init``, ``rank``, ``DataParallel``, ``Checkpointer``, ...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PARTS = ("data", "nn", "optim")
_NAMES_OF: dict[str, str] = {
    "core.functions": """
        abs all allclose any arange argmax argmin argsort as_tensor bmm cat ceil chunk clamp concat concatenate cos
        cumsum dot einsum empty empty_like enable_grad eq equal exp eye flatten floor from_numpy full full_like gather
        gelu is_grad_enabled is_tensor isclose isfinite isinf isnan linspace log log1p log_softmax logical_and
        logical_not logical_or logsumexp matmul max maximum mean min minimum mm movedim mul multinomial ne no_grad norm
        numel ones ones_like outer permute pow prod rand rand_like randint randn randn_like randperm relu
        repeat_interleave reshape round set_grad_enabled sigmoid sign sin softmax sort split sqrt squeeze stack std sum
        tan tanh tensor topk transpose tril triu unbind unsqueeze var where zeros zeros_like
    """,
    "core.backend": "Device",
    "core.tensor": "Tensor",
    "core.rng": "initial_seed manual_seed",
    "core.errors": "PhalanxError",
    "dist.group": "init rank shutdown size",
    "dist.data_parallel": "DataParallel",
    "dist.checkpoint": "Checkpointer",
    "dist.numbers": "sum_over_ranks",
    "ledger": "Ledger",
    "progress_bar": "progress",
}
"""Module (below phalanx) -> the public names that come from it. The imports for type checkers below are the same."""

_HOME_OF = {name: home for home, names in _NAMES_OF.items() for name in names.split()}

__all__ = ["__version__", *_PARTS, *_HOME_OF]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Find a public name at its first use and keep it."""
    if name in _PARTS:
        return importlib.import_module(f".{name}", __name__)
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'phalanx' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{home}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from . import data as data
    from . import nn as nn
    from . import optim as optim
    from .core.backend import Device as Device
    from .core.errors import PhalanxError as PhalanxError
    from .core.functions import abs as abs
    from .core.functions import all as all
    from .core.functions import allclose as allclose
    from .core.functions import any as any
    from .core.functions import arange as arange
    from .core.functions import argmax as argmax
    from .core.functions import argmin as argmin
    from .core.functions import argsort as argsort
    from .core.functions import as_tensor as as_tensor
    from .core.functions import bmm as bmm
    from .core.functions import cat as cat
    from .core.functions import ceil as ceil
    from .core.functions import chunk as chunk
    from .core.functions import clamp as clamp
    from .core.functions import concat as concat
    from .core.functions import concatenate as concatenate
    from .core.functions import cos as cos
    from .core.functions import cumsum as cumsum
    from .core.functions import dot as dot
    from .core.functions import einsum as einsum
    from .core.functions import empty as empty
    from .core.functions import empty_like as empty_like
    from .core.functions import enable_grad as enable_grad
    from .core.functions import eq as eq
    from .core.functions import equal as equal
    from .core.functions import exp as exp
    from .core.functions import eye as eye
    from .core.functions import flatten as flatten
    from .core.functions import floor as floor
    from .core.functions import from_numpy as from_numpy
    from .core.functions import full as full
    from .core.functions import full_like as full_like
    from .core.functions import gather as gather
    from .core.functions import gelu as gelu
    from .core.functions import is_grad_enabled as is_grad_enabled
    from .core.functions import is_tensor as is_tensor
    from .core.functions import isclose as isclose
    from .core.functions import isfinite as isfinite
    from .core.functions import isinf as isinf
    from .core.functions import isnan as isnan
    from .core.functions import linspace as linspace
    from .core.functions import log as log
    from .core.functions import log1p as log1p
    from .core.functions import log_softmax as log_softmax
    from .core.functions import logical_and as logical_and
    from .core.functions import logical_not as logical_not
    from .core.functions import logical_or as logical_or
    from .core.functions import logsumexp as logsumexp
    from .core.functions import matmul as matmul
    from .core.functions import max as max
    from .core.functions import maximum as maximum
    from .core.functions import mean as mean
    from .core.functions import min as min
    from .core.functions import minimum as minimum
    from .core.functions import mm as mm
    from .core.functions import movedim as movedim
    from .core.functions import mul as mul
    from .core.functions import multinomial as multinomial
    from .core.functions import ne as ne
    from .core.functions import no_grad as no_grad
    from .core.functions import norm as norm
    from .core.functions import numel as numel
    from .core.functions import ones as ones
    from .core.functions import ones_like as ones_like
    from .core.functions import outer as outer
    from .core.functions import permute as permute
    from .core.functions import pow as pow
    from .core.functions import prod as prod
    from .core.functions import rand as rand
    from .core.functions import rand_like as rand_like
    from .core.functions import randint as randint
    from .core.functions import randn as randn
    from .core.functions import randn_like as randn_like
    from .core.functions import randperm as randperm
    from .core.functions import relu as relu
    from .core.functions import repeat_interleave as repeat_interleave
    from .core.functions import reshape as reshape
    from .core.functions import round as round
    from .core.functions import set_grad_enabled as set_grad_enabled
    from .core.functions import sigmoid as sigmoid
    from .core.functions import sign as sign
    from .core.functions import sin as sin
    from .core.functions import softmax as softmax
    from .core.functions import sort as sort
    from .core.functions import split as split
    from .core.functions import sqrt as sqrt
    from .core.functions import squeeze as squeeze
    from .core.functions import stack as stack
    from .core.functions import std as std
    from .core.functions import sum as sum
    from .core.functions import tan as tan
    from .core.functions import tanh as tanh
    from .core.functions import tensor as tensor
    from .core.functions import topk as topk
    from .core.functions import transpose as transpose
    from .core.functions import tril as tril
    from .core.functions import triu as triu
    from .core.functions import unbind as unbind
    from .core.functions import unsqueeze as unsqueeze
    from .core.functions import var as var
    from .core.functions import where as where
    from .core.functions import zeros as zeros
    from .core.functions import zeros_like as zeros_like
    from .core.rng import initial_seed as initial_seed
    from .core.rng import manual_seed as manual_seed
    from .core.tensor import Tensor as Tensor
    from .dist.checkpoint import Checkpointer as Checkpointer
    from .dist.data_parallel import DataParallel as DataParallel
    from .dist.group import init as init
    from .dist.group import rank as rank
    from .dist.group import shutdown as shutdown
    from .dist.group import size as size
    from .dist.numbers import sum_over_ranks as sum_over_ranks
    from .ledger import Ledger as Ledger
    from .progress_bar import progress as progress
