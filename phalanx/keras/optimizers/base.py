"""Optimizer: what ``compile`` gets, and what it makes once the model has weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ... import optim
from ...core.errors import RangeError
from ...core.optim import clip
from .. import names
from ..described import Described
from .schedules import LearningRateSchedule


class Optimizer(Described):
    """Base of optimizers. ``learning_rate`` is a number, a schedule of ``keras.optimizers.schedules``, or a function without arguments.

    Args:
        weight_decay: a share of each weight that is taken off in each step, times the rate.
        clipnorm: each weight's gradient is scaled to at most this norm; ``global_clipnorm``: all gradients together; ``clipvalue``: each number.

    An own optimizer may be given to ``compile`` as a function of the model's parameters, ``lambda p: optim.LAMB(p)``.

    >>> from phalanx import keras
    >>> adam = keras.optimizers.Adam(learning_rate=0.01, clipnorm=1.0)
    >>> adam.learning_rate = 0.001
    >>> adam.learning_rate
    0.001
    """

    decouples = False
    """Whether the optimizer itself takes off the weight decay apart from the gradient."""

    def __init__(
        self,
        learning_rate: Any,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        name: str | None = None,
        **unused: Any,
    ) -> None:
        known = {
            "ema_momentum",
            "ema_overwrite_frequency",
            "loss_scale_factor",
            "gradient_accumulation_steps",
            "jit_compile",
        }
        if "lr" in unused:
            learning_rate = unused.pop("lr")
        if strange := sorted(unused.keys() - known):
            raise TypeError(f"{type(self).__name__} does not know {', '.join(strange)}")
        if use_ema:
            raise RangeError(f"{type(self).__name__}: for averaged weights give fit() phalanx.callbacks.EMA()")
        if sum(limit is not None for limit in (clipnorm, clipvalue, global_clipnorm)) > 1:
            raise RangeError(f"{type(self).__name__}: give one of clipnorm, clipvalue and global_clipnorm")
        if weight_decay and not self.decouples:
            raise RangeError(
                f"{type(self).__name__}: weight_decay is not known here; use AdamW, or kernel_regularizer=L2(...)"
            )
        self.name = name or names.snake_case(type(self).__name__)
        self.weight_decay, self.clipnorm, self.clipvalue, self.global_clipnorm = (
            weight_decay,
            clipnorm,
            clipvalue,
            global_clipnorm,
        )
        self.schedule: Any = None
        self._rate = 0.0
        self._inner: Any = None
        self._set(learning_rate)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """One of the same options and rate, of no parameters yet."""
        args, kwargs = self.__dict__["_arguments"]
        twin = type(self)(*args, **kwargs)
        twin._rate = self.learning_rate
        return twin

    def options(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """The class of ``phalanx.optim``, and its options without the rate."""
        raise NotImplementedError(f"{type(self).__name__} defines no options()")

    def __call__(self, parameters: Iterable[Any]) -> Any:
        """The optimizer of these parameters."""
        make, options = self.options()
        if self.weight_decay:
            options["weight_decay"] = self.weight_decay
        self._inner = make(parameters, lr=self._rate, **options)
        if self.clipnorm is not None:
            self._inner.register_step_pre_hook(self._clip)
        return self._inner

    def _clip(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        assert self.clipnorm is not None
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    clip.clip_grad_norm_([parameter], self.clipnorm)

    def _set(self, rate: Any) -> None:
        if isinstance(rate, LearningRateSchedule):
            self.schedule, rate = rate, rate(0)
        elif callable(rate):
            rate = rate()
        else:
            self.schedule = None
        self._rate = float(rate)
        if self._inner is not None:
            for group in self._inner.param_groups:
                group["lr"] = self._rate

    @property
    def learning_rate(self) -> float:
        """The rate of the next step; may be set."""
        return self._rate if self._inner is None else float(self._inner.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, rate: Any) -> None:
        self._set(rate)

    lr = learning_rate

    def before_step(self, step: int) -> None:
        """Follow the schedule."""
        if self.schedule is not None:
            rate = float(self.schedule(step))
            self._rate = rate
            for group in self._inner.param_groups:
                group["lr"] = rate

    def get_config(self) -> dict[str, Any]:
        """Name and rate, and what :meth:`options` says."""
        return {"name": self.name, "learning_rate": self.learning_rate, **self.options()[1]}


class SGD(Optimizer):
    """``w -= learning_rate * g``, with momentum and Nesterov's if wanted.

    >>> from phalanx import keras
    >>> keras.optimizers.SGD(momentum=0.9).learning_rate
    0.01
    """

    def __init__(
        self, learning_rate: Any = 0.01, momentum: float = 0.0, nesterov: bool = False, **options: Any
    ) -> None:
        self.decouples = not momentum  # without momentum both are the same
        super().__init__(learning_rate, **options)
        self.momentum, self.nesterov = momentum, nesterov

    def options(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """optim.SGD."""
        return optim.SGD, {"momentum": self.momentum, "nesterov": self.nesterov and self.momentum > 0}


class _Betas(Optimizer):
    make: Any = None

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.betas, self.epsilon = (beta_1, beta_2), epsilon

    def options(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Of ``phalanx.optim``."""
        return type(self).make, {"betas": self.betas, "eps": self.epsilon}


class Adam(_Betas):
    """optim.Adam with epsilon 1e-7. Kingma and Ba, 2014.

    >>> from phalanx import keras
    >>> keras.optimizers.Adam().epsilon
    1e-07
    """

    make, decouples = optim.Adam, True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **options)
        self.amsgrad = amsgrad

    def options(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """optim.Adam, or optim.AdamW where there is weight decay."""
        return optim.AdamW, {"betas": self.betas, "eps": self.epsilon, "amsgrad": self.amsgrad, "weight_decay": 0.0}


class AdamW(Adam):
    """Adam with decoupled weight decay, 0.004. Loshchilov and Hutter, 2017.

    >>> from phalanx import keras
    >>> keras.optimizers.AdamW().weight_decay
    0.004
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay=weight_decay, **options)


class Adamax(_Betas):
    """Adam by the infinity norm.

    >>> from phalanx import keras
    >>> keras.optimizers.Adamax().learning_rate
    0.001
    """

    make = optim.Adamax


class Nadam(_Betas):
    """Adam with Nesterov momentum. Dozat, 2016.

    >>> from phalanx import keras
    >>> keras.optimizers.Nadam().learning_rate
    0.001
    """

    make = optim.NAdam

    def options(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """optim.NAdam; its momentum rises as Keras's does."""
        make, options = super().options()
        return make, options | {"momentum_decay": 1.0}


class RMSprop(Optimizer):
    """The gradient by the root of its mean square; epsilon 1e-7 stands beside the root, not below it as in Keras.

    >>> from phalanx import keras
    >>> keras.optimizers.RMSprop().rho
    0.9
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.rho, self.momentum, self.epsilon, self.centered = rho, momentum, epsilon, centered

    def options(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """optim.RMSprop."""
        return optim.RMSprop, {
            "alpha": self.rho,
            "momentum": self.momentum,
            "eps": self.epsilon,
            "centered": self.centered,
        }


class Adagrad(Optimizer):
    """The gradient by the root of the sum of its squares, which begins at 0.1.

    >>> from phalanx import keras
    >>> keras.optimizers.Adagrad().learning_rate
    0.001
    """

    def __init__(
        self, learning_rate: Any = 0.001, initial_accumulator_value: float = 0.1, epsilon: float = 1e-7, **options: Any
    ) -> None:
        super().__init__(learning_rate, **options)
        self.start, self.epsilon = initial_accumulator_value, epsilon

    def options(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """optim.Adagrad."""
        return optim.Adagrad, {"initial_accumulator_value": self.start, "eps": self.epsilon}


class Adadelta(Optimizer):
    """Updates of the size of earlier updates. Zeiler, 2012.

    >>> from phalanx import keras
    >>> keras.optimizers.Adadelta().rho
    0.95
    """

    def __init__(self, learning_rate: Any = 0.001, rho: float = 0.95, epsilon: float = 1e-7, **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self.rho, self.epsilon = rho, epsilon

    def options(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """optim.Adadelta."""
        return optim.Adadelta, {"rho": self.rho, "eps": self.epsilon}


class Lion(Optimizer):
    """The sign of a mean of gradients. Chen et al., 2023.

    >>> from phalanx import keras
    >>> keras.optimizers.Lion().betas
    (0.9, 0.99)
    """

    decouples = True

    def __init__(self, learning_rate: Any = 0.001, beta_1: float = 0.9, beta_2: float = 0.99, **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self.betas = (beta_1, beta_2)

    def options(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """optim.Lion."""
        return optim.Lion, {"betas": self.betas}
