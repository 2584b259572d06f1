"""Module: owns parameters, buffers and modules by assignment of attributes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ..errors import DTypeError, RangeError, ShapeError
from ..live import live, structure
from ..tensor import Tensor
from ..tree import join, walk
from .convert import Convertible
from .hooks import Hooked
from .parameter import Buffer, Parameter
from .recorded import Recorded
from .state import IncompatibleKeys, load, tensors_of

Self = TypeVar("Self", bound="Module")


class Module(Hooked, Recorded, Convertible):
    """Base class of all layers and models, as ``torch.nn.Module``.

    A Parameter, Module or registered buffer that is assigned to an attribute belongs to the module. Subclasses call
    ``super().__init__()`` first and define ``forward``.

    >>> from phalanx import nn
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hidden = nn.Linear(4, 3)
    ...     def forward(self, x):
    ...         return self.hidden(x).relu()
    >>> [name for name, _ in Net().named_parameters()]
    ['hidden.weight', 'hidden.bias']
    """

    # The registries hold names in order of registration; the values live in __dict__ alone, so that reading an
    # attribute costs what it costs in any Python object.
    _parameter_names: dict[str, None]
    _buffer_names: dict[str, bool]  # name -> persistent
    _module_names: dict[str, None]
    _penalties: dict[str, Callable[[Tensor], Tensor]]
    training: bool

    def __init__(self) -> None:
        self.__dict__.update(
            training=True,
            _parameter_names={},
            _buffer_names={},
            _module_names={},
            _penalties={},
            _forward_hooks={},
            _forward_pre_hooks={},
            _backward_hooks={},
            _backward_pre_hooks={},
            _state_hooks={},
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; every subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks:
                return self._call_with_hooks(args, kwargs)
            return self.forward(*args, **kwargs)
        except (ShapeError, DTypeError, RangeError) as error:
            self._name_layer(error)
            raise
        except TypeError as error:
            self._name_absent(error)
            raise

    def _name_layer(self, error: Exception) -> None:
        """Put the failing layer's dotted name before the message; the outermost module knows the longest one."""
        layer, message = getattr(error, "layer", None), getattr(error, "message", None)
        if layer is None:
            layer, message = self, str(error)
            error.layer, error.message = layer, message  # type: ignore[attr-defined]
        name = next((name for name, module in self.named_modules() if module is layer), "")
        where = f"{name!r} ({layer._one_line()})" if name else layer._one_line()
        error.args = (f"in layer {where}: {message}",)

    def _name_absent(self, error: TypeError) -> None:
        """A call of None says nothing of which layer is missing."""
        absent = [name for name in self._module_names if self.__dict__[name] is None]
        if absent and str(error) == "'NoneType' object is not callable":
            error.args = (f"{error}: of {type(self).__name__} these layers are None: {', '.join(absent)}",)

    # ------------------------------------------------------------------ registration

    def __setattr__(self, name: str, value: Any) -> None:
        self._set(name, value)
        structure.stamp = object()

    def _set(self, name: str, value: Any) -> None:
        own = self.__dict__
        if isinstance(value, Parameter):
            self._claim(name, "_parameter_names")[name] = None
            own[name] = value
        elif isinstance(value, Module):
            self._claim(name, "_module_names")[name] = None
            own[name] = value
        elif isinstance(value, Buffer):
            self._claim(name, "_buffer_names")[name] = value.persistent
            own[name] = value
        elif "_parameter_names" not in own:
            object.__setattr__(self, name, value)
        elif name in self._parameter_names or name in self._module_names:
            if value is not None:
                kind = "a parameter (Parameter" if name in self._parameter_names else "a module (Module"
                raise TypeError(
                    f"{type(self).__name__}.{name} is {kind} or None expected), got {type(value).__name__}; "
                    f"`del` the attribute first to use its name for something else"
                )
            own[name] = None
        elif name in self._buffer_names:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"{type(self).__name__}.{name} is a buffer (Tensor or None expected), got {type(value).__name__}"
                )
            own[name] = value
        else:
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        structure.stamp = object()
        for registry in ("_parameter_names", "_buffer_names", "_module_names"):
            self.__dict__[registry].pop(name, None)

    def _claim(self, name: str, registry: str) -> dict[str, Any]:
        """The registry that ``name`` goes into; leaves the other ones."""
        if registry not in self.__dict__:
            raise AttributeError(
                f"cannot assign {name!r} before Module.__init__() of {type(self).__name__}: "
                f"call super().__init__() first in its __init__"
            )
        if not isinstance(name, str) or not name or "." in name:
            raise KeyError(
                f"the name of a parameter, buffer or module is a non-empty string without dots, got {name!r}"
            )
        for other in ("_parameter_names", "_buffer_names", "_module_names"):
            if other != registry:
                self.__dict__[other].pop(name, None)
        return self.__dict__[registry]

    def _refuse_taken(self, name: str, registry: str) -> None:
        if hasattr(self, name) and name not in self.__dict__.get(registry, ()):
            raise KeyError(f"{type(self).__name__} already has an attribute {name!r}")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Own ``param`` under ``name``; None keeps the name without a parameter."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"register_parameter({name!r}) expects a Parameter or None, got {type(param).__name__}")
        self._refuse_taken(name, "_parameter_names")
        self._claim(name, "_parameter_names")[name] = None
        self.__dict__[name] = param
        structure.stamp = object()

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Own a tensor that is no parameter; a ``persistent`` one is part of the state dict."""
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"register_buffer({name!r}) expects a Tensor or None, got {type(tensor).__name__}")
        self._refuse_taken(name, "_buffer_names")
        self._claim(name, "_buffer_names")[name] = persistent
        self.__dict__[name] = tensor
        structure.stamp = object()

    def add_module(self, name: str, module: Module | None) -> None:
        """Own ``module`` under ``name``; None keeps the name without a module."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"add_module({name!r}) expects a Module or None, got {type(module).__name__}")
        self._refuse_taken(name, "_module_names")
        self._claim(name, "_module_names")[name] = None
        self.__dict__[name] = module
        structure.stamp = object()

    register_module = add_module

    # ------------------------------------------------------------------ walking

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below, each once, with the names of their attributes."""
        seen: set[int] = set()
        for name, module in self._branches():
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def _branches(self) -> list[tuple[str, Module]]:
        return [(name, module) for name in self._module_names if (module := self.__dict__[name]) is not None]

    def children(self) -> Iterator[Module]:
        """The modules directly below, each once."""
        return (module for _, module in self.named_children())

    def named_modules(
        self, memo: set[int] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below with dotted names, a parent before its children, each once."""
        return walk(self, Module._branches, prefix, once=remove_duplicate, seen=memo)

    def modules(self) -> Iterator[Module]:
        """This module and all below, each once."""
        return (module for _, module in self.named_modules())

    def _named_tensors(
        self, registry: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        owners = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in owners:
            for name in module.__dict__[registry]:
                tensor = module.__dict__[name]
                if tensor is None or (remove_duplicate and id(tensor) in seen):
                    continue
                seen.add(id(tensor))
                yield join(path, name), tensor

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """All parameters with dotted names; a tied one comes once, under its first name."""
        return self._named_tensors("_parameter_names", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters; a tied one comes once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """All buffers with dotted names."""
        return self._named_tensors("_buffer_names", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module of that dotted name; "" is this one. Raises AttributeError where there is none."""
        module = self
        for part in target.split(".") if target else ():
            if part not in module._module_names or (below := module.__dict__[part]) is None:
                raise AttributeError(f"{type(module).__name__} has no module {part!r} (of {target!r})")
            module = below
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put ``module`` at that dotted name. Raises AttributeError where the way leads nowhere, and with ``strict`` where nothing was."""
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        if not name or (strict and name not in owner._module_names):
            raise AttributeError(f"{type(owner).__name__} has no module {name!r} (of {target!r})")
        owner.add_module(name, module)

    def _get_tensor(self, target: str, registry: str, kind: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if name not in module.__dict__[registry]:
            raise AttributeError(f"{type(module).__name__} has no {kind} {name!r} (of {target!r})")
        return module.__dict__[name]

    def get_parameter(self, target: str) -> Parameter:
        """The parameter of that dotted name. Raises AttributeError where there is none."""
        return self._get_tensor(target, "_parameter_names", "parameter")

    def get_buffer(self, target: str) -> Tensor:
        """The buffer of that dotted name. Raises AttributeError where there is none."""
        return self._get_tensor(target, "_buffer_names", "buffer")

    # ------------------------------------------------------------------ state

    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Parameters and persistent buffers by dotted name, a tied one under each of its names.

        The tensors are detached but share the module's memory (with ``keep_vars`` they are the parameters themselves):
        copy what shall survive the next step.
        """
        state: dict[str, Any] = OrderedDict() if destination is None else destination
        prefix = prefix.removesuffix(".")
        hooked = [
            (path and f"{path}.", module) for path, module in self.named_modules(prefix=prefix) if module._state_hooks
        ]
        for path, module in hooked:
            for hook in tuple(module._state_hooks.get("saving", {}).values()):
                hook(module, path, keep_vars)
        for name, tensor in tensors_of(self, prefix).items():
            state[name] = tensor if keep_vars else tensor.detach()
        for path, module in hooked:
            for hook in tuple(module._state_hooks.get("saved", {}).values()):
                hook(module, state, path, {})
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy values by name into the parameters and buffers, in place; all of it or nothing.

        Values may be Tensors, arrays or PyTorch tensors. With ``assign`` the values' own arrays take the place of the old ones, in their
        dtype. Returns ``(missing_keys, unexpected_keys)``. Raises StateError that lists all missing and unexpected names (with
        ``strict``) and all of another shape or dtype (always; with ``assign`` of another shape).
        """
        return load(self, state_dict, strict, assign)

    # ------------------------------------------------------------------ changing all of it

    def apply(self: Self, fn: Callable[[Module], Any]) -> Self:
        """Call ``fn`` on every module, children before parents; returns self."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self: Self, mode: bool = True) -> Self:
        """Set training (or evaluation) behaviour here and below; returns self."""
        if not isinstance(mode, bool):
            raise ValueError(f"train() expects True or False, got {mode!r}")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self: Self) -> Self:
        """The same as ``train(False)``."""
        return self.train(False)

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Freeze or unfreeze all parameters; returns self."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    @live
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or with ``set_to_none=False`` fill them with zeros."""
        for parameter in self.parameters():
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad.zero_()

    # ------------------------------------------------------------------ penalties and words

    def register_penalty(self, name: str, penalty: Callable[[Tensor], Tensor] | None) -> None:
        """Let :meth:`penalty` count ``penalty(parameter)`` (``nn.L1``, ``nn.L2``, ``nn.L1L2``) for the own parameter ``name``; None: no longer."""
        if self.__dict__.get(name) is None or name not in self._parameter_names:
            raise RangeError(f"register_penalty: {type(self).__name__} has no parameter {name!r}")
        if penalty is None:
            self._penalties.pop(name, None)
        else:
            self._penalties[name] = penalty

    def penalty(self) -> Tensor | None:
        """The sum of all registered penalties here and below, of parameters that are not frozen; None if there is none.

        ``loss + model.penalty()`` keeps the loss's weight: the penalty counts once in the mean over all shards.
        """
        total: Tensor | None = None
        for module in self.modules():
            for name, penalty in module._penalties.items():
                parameter = module.__dict__.get(name)
                if parameter is not None and parameter.requires_grad:
                    term = penalty(parameter)
                    term.weight = 0.0  # of a user's own, too: it averages no items
                    total = term if total is None else total + term
        return total

    def extra_repr(self) -> str:
        """What a layer says of itself between the brackets of its repr."""
        return ""

    def _one_line(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})" if not self._module_names else type(self).__name__

    def __repr__(self) -> str:
        if not self._module_names:
            return f"{type(self).__name__}({self.extra_repr()})"
        lines = [self.extra_repr()] if self.extra_repr() else []
        lines += [f"({name}): {self.__dict__[name]!r}" for name in self._module_names]
        body = "\n".join(lines).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {body}\n)"
