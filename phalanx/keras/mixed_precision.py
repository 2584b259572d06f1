"""Keras's policies: in which precision layers compute while their weights stay float32."""

from __future__ import annotations

import threading
from typing import Any

from ..core.errors import RangeError
from ..core.rank_local import of_rank

_PRECISION = {"float32": "float32", "mixed_float16": "fp16", "mixed_bfloat16": "bf16"}
"""Policy -> the Trainer's word for it."""


class Policy:
    """``Policy("mixed_bfloat16")``: products in ``compute_dtype``, weights in ``variable_dtype``.

    Raises RangeError for another name than "float32", "mixed_float16" and "mixed_bfloat16".

    >>> from phalanx import keras
    >>> policy = keras.mixed_precision.Policy("mixed_float16")
    >>> policy.compute_dtype, policy.variable_dtype
    ('float16', 'float32')
    """

    def __init__(self, name: str) -> None:
        if name not in _PRECISION:
            raise RangeError(f"a policy is one of {', '.join(map(repr, _PRECISION))}, got {name!r}")
        self.name, self.compute_dtype, self.variable_dtype = name, name.removeprefix("mixed_"), "float32"

    def __repr__(self) -> str:
        return f"<Policy {self.name!r}>"


class _Global(threading.local):
    policy: Policy | None = None


_global = of_rank(_Global())


def set_global_policy(policy: Any) -> None:
    """Models that are fitted from now on compute by ``policy``, a name or a :class:`Policy`; float16's loss is scaled by itself.

    Unlike Keras's it counts for models as a whole, when their training begins, not for layers when they are made.

    >>> from phalanx import keras
    >>> keras.mixed_precision.set_global_policy("mixed_bfloat16")
    >>> keras.mixed_precision.global_policy().name
    'mixed_bfloat16'
    >>> keras.mixed_precision.set_global_policy("float32")
    """
    _global.policy = policy if isinstance(policy, Policy) else Policy(policy)


def global_policy() -> Policy:
    """The policy that was set last; float32 at first.

    >>> from phalanx import keras
    >>> keras.mixed_precision.global_policy()
    <Policy 'float32'>
    """
    return _global.policy or Policy("float32")


def precision() -> str:
    """The Trainer's word for the global policy.

    >>> from phalanx import keras
    >>> keras.mixed_precision.precision()
    'float32'
    """
    return _PRECISION[global_policy().name]


__all__ = ["Policy", "global_policy", "set_global_policy"]
