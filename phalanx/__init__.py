"""phalanx: data-parallel training whose bits do not depend on how many ranks trained them.

Names load at first use, so that ``import phalanx`` is quick and starts neither MPI nor CUDA nor a socket. What PyTorch keeps
at its top level (``tensor``, ``relu``, ``no_grad``, ...) is here, beside ``nn``, ``optim``, ``data`` and what belongs to the
ranks: ``init``, ``rank``, ``DataParallel``, ``Checkpointer``, ...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PARTS = ("callbacks", "compression", "cuda", "data", "metrics", "nn", "onnx", "optim")
_NAMES_OF: dict[str, str] = {
    "core.dtypes": """
        bool double float float16 float32 float64 half int int16 int32 int64 int8 long short uint8
    """,
    "core.functions": """
        abs absolute add addmm all allclose amax amin any arange argmax argmin argsort as_tensor atan bernoulli bincount
        bmm broadcast_to cat ceil chunk clamp clip clone concat concatenate cos cumsum detach device diag div divide dot
        einsum empty empty_like enable_grad eq equal erf exp expm1 eye flatten flip floor floor_divide from_numpy full
        full_like gather ge gelu gt hstack index_select inference_mode is_floating_point is_grad_enabled is_tensor
        isclose isfinite isinf isnan le lerp linspace log log10 log1p log2 log_softmax logical_and logical_not
        logical_or logical_xor logsumexp lt masked_fill masked_select matmul max maximum mean meshgrid min minimum mm
        movedim mul multinomial multiply mv narrow ne neg negative no_grad nonzero norm normal numel ones ones_like
        outer permute pow prod rand rand_like randint randint_like randn randn_like randperm ravel reciprocal relu
        remainder repeat_interleave reshape roll round rsqrt select set_grad_enabled sigmoid sign sin softmax sort split
        sqrt square squeeze stack std sub subtract sum swapaxes swapdims t tan tanh tensor tile topk transpose tril triu
        true_divide trunc unbind unflatten unique unsqueeze var vstack where zeros zeros_like
    """,
    "core.tensor": "Tensor",
    "core.generator": "Generator",
    "core.rng": "initial_seed manual_seed",
    "core.errors": "PhalanxError",
    "dist.evaluation": "evaluate predict",
    "dist.group": "init rank shutdown size",
    "dist.data_parallel": "DataParallel",
    "dist.checkpoint": "Checkpointer",
    "dist.diagnosis.written": "write_flight",
    "dist.numbers": "sum_over_ranks",
    "dist.voting": "agree agreed request_stop vote",
    "ledger": "Ledger",
    "model_io.state": "load load_into read_metadata save",
    "progress_bar": "progress",
    "trainer.trainer": "Trainer",
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
    from . import callbacks as callbacks
    from . import compression as compression
    from . import cuda as cuda
    from . import data as data
    from . import metrics as metrics
    from . import nn as nn
    from . import onnx as onnx
    from . import optim as optim
    from .core.dtypes import bool as bool
    from .core.dtypes import double as double
    from .core.dtypes import float as float
    from .core.dtypes import float16 as float16
    from .core.dtypes import float32 as float32
    from .core.dtypes import float64 as float64
    from .core.dtypes import half as half
    from .core.dtypes import int as int
    from .core.dtypes import int8 as int8
    from .core.dtypes import int16 as int16
    from .core.dtypes import int32 as int32
    from .core.dtypes import int64 as int64
    from .core.dtypes import long as long
    from .core.dtypes import short as short
    from .core.dtypes import uint8 as uint8
    from .core.errors import PhalanxError as PhalanxError
    from .core.functions import abs as abs
    from .core.functions import absolute as absolute
    from .core.functions import add as add
    from .core.functions import addmm as addmm
    from .core.functions import all as all
    from .core.functions import allclose as allclose
    from .core.functions import amax as amax
    from .core.functions import amin as amin
    from .core.functions import any as any
    from .core.functions import arange as arange
    from .core.functions import argmax as argmax
    from .core.functions import argmin as argmin
    from .core.functions import argsort as argsort
    from .core.functions import as_tensor as as_tensor
    from .core.functions import atan as atan
    from .core.functions import bernoulli as bernoulli
    from .core.functions import bincount as bincount
    from .core.functions import bmm as bmm
    from .core.functions import broadcast_to as broadcast_to
    from .core.functions import cat as cat
    from .core.functions import ceil as ceil
    from .core.functions import chunk as chunk
    from .core.functions import clamp as clamp
    from .core.functions import clip as clip
    from .core.functions import clone as clone
    from .core.functions import concat as concat
    from .core.functions import concatenate as concatenate
    from .core.functions import cos as cos
    from .core.functions import cumsum as cumsum
    from .core.functions import detach as detach
    from .core.functions import device as device
    from .core.functions import diag as diag
    from .core.functions import div as div
    from .core.functions import divide as divide
    from .core.functions import dot as dot
    from .core.functions import einsum as einsum
    from .core.functions import empty as empty
    from .core.functions import empty_like as empty_like
    from .core.functions import enable_grad as enable_grad
    from .core.functions import eq as eq
    from .core.functions import equal as equal
    from .core.functions import erf as erf
    from .core.functions import exp as exp
    from .core.functions import expm1 as expm1
    from .core.functions import eye as eye
    from .core.functions import flatten as flatten
    from .core.functions import flip as flip
    from .core.functions import floor as floor
    from .core.functions import floor_divide as floor_divide
    from .core.functions import from_numpy as from_numpy
    from .core.functions import full as full
    from .core.functions import full_like as full_like
    from .core.functions import gather as gather
    from .core.functions import ge as ge
    from .core.functions import gelu as gelu
    from .core.functions import gt as gt
    from .core.functions import hstack as hstack
    from .core.functions import index_select as index_select
    from .core.functions import inference_mode as inference_mode
    from .core.functions import is_floating_point as is_floating_point
    from .core.functions import is_grad_enabled as is_grad_enabled
    from .core.functions import is_tensor as is_tensor
    from .core.functions import isclose as isclose
    from .core.functions import isfinite as isfinite
    from .core.functions import isinf as isinf
    from .core.functions import isnan as isnan
    from .core.functions import le as le
    from .core.functions import lerp as lerp
    from .core.functions import linspace as linspace
    from .core.functions import log as log
    from .core.functions import log1p as log1p
    from .core.functions import log2 as log2
    from .core.functions import log10 as log10
    from .core.functions import log_softmax as log_softmax
    from .core.functions import logical_and as logical_and
    from .core.functions import logical_not as logical_not
    from .core.functions import logical_or as logical_or
    from .core.functions import logical_xor as logical_xor
    from .core.functions import logsumexp as logsumexp
    from .core.functions import lt as lt
    from .core.functions import masked_fill as masked_fill
    from .core.functions import masked_select as masked_select
    from .core.functions import matmul as matmul
    from .core.functions import max as max
    from .core.functions import maximum as maximum
    from .core.functions import mean as mean
    from .core.functions import meshgrid as meshgrid
    from .core.functions import min as min
    from .core.functions import minimum as minimum
    from .core.functions import mm as mm
    from .core.functions import movedim as movedim
    from .core.functions import mul as mul
    from .core.functions import multinomial as multinomial
    from .core.functions import multiply as multiply
    from .core.functions import mv as mv
    from .core.functions import narrow as narrow
    from .core.functions import ne as ne
    from .core.functions import neg as neg
    from .core.functions import negative as negative
    from .core.functions import no_grad as no_grad
    from .core.functions import nonzero as nonzero
    from .core.functions import norm as norm
    from .core.functions import normal as normal
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
    from .core.functions import randint_like as randint_like
    from .core.functions import randn as randn
    from .core.functions import randn_like as randn_like
    from .core.functions import randperm as randperm
    from .core.functions import ravel as ravel
    from .core.functions import reciprocal as reciprocal
    from .core.functions import relu as relu
    from .core.functions import remainder as remainder
    from .core.functions import repeat_interleave as repeat_interleave
    from .core.functions import reshape as reshape
    from .core.functions import roll as roll
    from .core.functions import round as round
    from .core.functions import rsqrt as rsqrt
    from .core.functions import select as select
    from .core.functions import set_grad_enabled as set_grad_enabled
    from .core.functions import sigmoid as sigmoid
    from .core.functions import sign as sign
    from .core.functions import sin as sin
    from .core.functions import softmax as softmax
    from .core.functions import sort as sort
    from .core.functions import split as split
    from .core.functions import sqrt as sqrt
    from .core.functions import square as square
    from .core.functions import squeeze as squeeze
    from .core.functions import stack as stack
    from .core.functions import std as std
    from .core.functions import sub as sub
    from .core.functions import subtract as subtract
    from .core.functions import sum as sum
    from .core.functions import swapaxes as swapaxes
    from .core.functions import swapdims as swapdims
    from .core.functions import t as t
    from .core.functions import tan as tan
    from .core.functions import tanh as tanh
    from .core.functions import tensor as tensor
    from .core.functions import tile as tile
    from .core.functions import topk as topk
    from .core.functions import transpose as transpose
    from .core.functions import tril as tril
    from .core.functions import triu as triu
    from .core.functions import true_divide as true_divide
    from .core.functions import trunc as trunc
    from .core.functions import unbind as unbind
    from .core.functions import unflatten as unflatten
    from .core.functions import unique as unique
    from .core.functions import unsqueeze as unsqueeze
    from .core.functions import var as var
    from .core.functions import vstack as vstack
    from .core.functions import where as where
    from .core.functions import zeros as zeros
    from .core.functions import zeros_like as zeros_like
    from .core.generator import Generator as Generator
    from .core.rng import initial_seed as initial_seed
    from .core.rng import manual_seed as manual_seed
    from .core.tensor import Tensor as Tensor
    from .dist.checkpoint import Checkpointer as Checkpointer
    from .dist.data_parallel import DataParallel as DataParallel
    from .dist.diagnosis.written import write_flight as write_flight
    from .dist.evaluation import evaluate as evaluate
    from .dist.evaluation import predict as predict
    from .dist.group import init as init
    from .dist.group import rank as rank
    from .dist.group import shutdown as shutdown
    from .dist.group import size as size
    from .dist.numbers import sum_over_ranks as sum_over_ranks
    from .dist.voting import agree as agree
    from .dist.voting import agreed as agreed
    from .dist.voting import request_stop as request_stop
    from .dist.voting import vote as vote
    from .ledger import Ledger as Ledger
    from .model_io.state import load as load
    from .model_io.state import load_into as load_into
    from .model_io.state import read_metadata as read_metadata
    from .model_io.state import save as save
    from .progress_bar import progress as progress
    from .trainer.trainer import Trainer as Trainer
