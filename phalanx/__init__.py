"""phalanx: data-parallel training whose bits do not depend on how many ranks trained them.

Names load at first use, so that ``import phalanx`` is quick and starts neither MPI nor CUDA nor a socket. What PyTorch keeps
at its top level (``tensor``, ``relu``, ``no_grad``, ...) is here, beside ``nn``, ``optim``, ``data`` and what belongs to the
ranks: ``init``, ``rank``, ``DataParallel``, ``Checkpointer``, ...
"""

from __future__ import annotations

import _signal
import importlib
import os
import sys

__version__ = "0.1.0"

_PARTS = (
    "amp", "autograd", "backends", "callbacks", "compression", "cuda", "data", "keras", "kernels", "linalg", "metrics", "nn", "onnx",
    "optim", "profiler", "special", "utils",
)  # fmt: skip
_NAMES_OF: dict[str, str] = {
    "core.dtypes": """
        Size bool double dtype e float float16 float32 float64 half inf int int16 int32 int64 int8 long nan newaxis pi
        short uint8
    """,
    "core.bfloat16": "bfloat16",
    "core.functions": """
        abs absolute add adjoint all allclose amax amin any arange arctan argmax argmin argsort as_tensor asarray atan
        bernoulli broadcast_to cat ceil chunk clamp clamp_max clamp_min clip clone column_stack concat concatenate cos
        cumsum detach device diag div divide dstack einsum empty empty_like enable_grad eq equal erf exp expm1 eye fix
        flatten flip floor floor_divide from_numpy full full_like gather ge gelu greater greater_equal gt hstack
        index_select inference_mode is_floating_point is_grad_enabled is_tensor isclose isfinite isinf isnan le lerp
        less less_equal linspace log log10 log1p log2 log_softmax logical_and logical_not logical_or logical_xor
        logspace logsumexp lt masked_fill masked_select matmul max maximum mean min minimum moveaxis movedim mul
        multinomial multiply narrow ne neg negative no_grad nonzero normal not_equal numel ones ones_like pow prod
        rand rand_like randint randint_like randn randn_like randperm ravel reciprocal relu remainder
        repeat_interleave roll row_stack rsqrt scalar_tensor select set_grad_enabled sgn sigmoid sign sin softmax sort
        sqrt square squeeze stack std sub subtract sum swapaxes swapdims t tan tanh tensor topk transpose tril triu
        true_divide trunc unbind unflatten unsqueeze var vstack where zeros zeros_like
    """,
    "core.autograd": "grad",
    "core.capture": "capture",
    "core.cuda": "local_device",
    "core.functions_elementary": """
        acos acosh arccos arccosh arcsin arcsinh arctanh asin asinh atanh cosh deg2rad digamma erfc erfinv exp2 frac
        isneginf isposinf lgamma logit nan_to_num positive rad2deg round signbit sinc sinh
    """,
    "core.functions_indexing": """
        argwhere diagonal_scatter index_add index_copy index_fill index_put masked_scatter put scatter scatter_add
        scatter_reduce select_scatter slice_scatter take take_along_dim
    """,
    "core.functions_order": """
        bincount bucketize histc isin kthvalue median mode msort nanmedian nanquantile quantile searchsorted unique
        unique_consecutive
    """,
    "core.functions_pairs": """
        addcdiv addcmul arctan2 atan2 bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift
        bitwise_xor copysign float_power fmax fmin fmod gcd heaviside hypot lcm ldexp logaddexp logaddexp2 nextafter
        rsub xlogy
    """,
    "core.functions_products": """
        addbmm addmm addmv addr baddbmm bmm cdist chain_matmul corrcoef cov cross dot ger inner kron mm mv outer pdist
        tensordot vdot
    """,
    "core.functions_reduce": """
        aminmax count_nonzero cummax cummin cumprod cumulative_trapezoid diff logcumsumexp nanmean nansum norm
        std_mean trapezoid trapz var_mean
    """,
    "core.functions_shape": """
        atleast_1d atleast_2d atleast_3d block_diag broadcast_shapes broadcast_tensors cartesian_prod combinations
        diag_embed diagflat diagonal dsplit fliplr flipud hsplit meshgrid permute reshape rot90 split tensor_split
        tile trace tril_indices triu_indices unravel_index vander vsplit
    """,
    "core.linalg": "cholesky det inverse logdet matrix_power pinverse slogdet",
    "core.tensor": "Tensor",
    "core.generator": "Generator",
    "core.rng": "initial_seed manual_seed",
    "core.errors": "PhalanxError",
    "core.nn.functional_shards": "gather_over_shards",
    "dist.evaluation": "evaluate predict",
    "dist.group": "get_num_threads init rank set_num_threads shutdown size",
    "dist.data_parallel": "DataParallel",
    "dist.checkpoint": "Checkpointer",
    "dist.diagnosis.written": "write_flight",
    "dist.run_shards": "run_shards",
    "dist.numbers": "sum_over_ranks",
    "dist.voting": "agree agreed request_stop vote",
    "ledger": "Ledger",
    "model_io.folder": "load_extra load_model save_model",
    "model_io.state": "load load_into read_metadata save",
    "model_summary": "summary",
    "profiler": "profile",
    "progress_bar": "progress",
    "trainer.trainer": "Trainer",
    "core.dtype_limits": "finfo iinfo promote_types result_type",
    "core.compat": """
        BoolTensor ByteTensor DoubleTensor FloatTensor IntTensor LongTensor compile get_default_dtype
        set_default_dtype
    """,
    "core.amp.autocast": "autocast get_autocast_dtype is_autocast_enabled",
    "core.amp.precision": """
        are_deterministic_algorithms_enabled get_float32_matmul_precision set_float32_matmul_precision
        use_deterministic_algorithms
    """,
}
"""Module (below phalanx) -> the public names that come from it. Type checkers read ``__init__.pyi``: the same names."""

if not os.environ.keys().isdisjoint(("PHALANX_LAUNCHED", "OMPI_COMM_WORLD_RANK", "PMI_RANK")):
    # a rank of phalanx run, Open MPI, MPICH: Ctrl-C may come any moment. dist/env.py, which knows all names, is not loaded for this
    importlib.import_module(".dist.interrupt", __name__).answer()
elif (
    sys.argv[:1] == ["-m"]
    and sys.orig_argv[-len(sys.argv)] in ("phalanx", "-mphalanx")
    and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
):
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # python -m phalanx begins here: see __main__.py

_HOME_OF = {name: home for home, names in _NAMES_OF.items() for name in names.split()}

__all__ = ["__version__", *_PARTS, *_HOME_OF]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
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


if os.environ.get("PHALANX_PROFILE"):
    importlib.import_module(".profiler", __name__).begin_from_environment()
