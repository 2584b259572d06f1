"""DataParallel: a module whose gradients are those of the global batch."""

from __future__ import annotations

import copy
import math
import sys
import weakref
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ..core.backend import device_kind
from ..core.data.scope import Observer, observers
from ..core.errors import GraphError, NonFiniteError, RangeError
from ..core.live import live
from ..core.nn.finite import first_non_finite
from ..core.nn.module import Module
from ..core.nn.statistics import collect, discard
from ..core.optim.optimizer import own_gradient
from .compression import Scheme, scheme
from .compression.fold import CompressedFold
from .errors import MismatchError
from .group import Group, current
from .processor import of_gpu
from .reducer import Reducer
from .step_end import StepEnd
from .zero.memory import memory_report
from .zero.ownership import check_mode

if TYPE_CHECKING:
    from ..core.data.step import Step

_SHOWN = 12
"""So many differences between two ranks' models are listed."""


class DataParallel(Module):
    """Wrap ``module`` so that each optimizer step uses the gradient of the global batch, on all ranks alike.

    Every rank holds a replica. The gradient is the weighted mean over all shards: with ``phalanx.init(shards=V)`` it is summed by
    a fixed tree over shard numbers and has the same bits on any number of ranks; without, each rank is one shard. Parameters
    and buffers are rank 0's at the start. Alone and without shards every gradient is PyTorch's.

    Args:
        module: the model; names in ``state_dict()`` are the module's own, without a prefix.
        group: the ranks; by default those of ``phalanx.init()``.
        bucket_bytes: size of the slices that are reduced while backward goes on.
        overlap: start reductions within backward; the bits are the same without. None: unless all ranks are on one host and
            leave no core of it to spare: what does not wait for a wire could only take the core from backward.
        compression: what gradients become before they travel: ``"fp16"``, ``"bf16"``, ``"int8"``, ``"1bit"``, ``"topk"``,
            ``"powersgd"``, or one of ``phalanx.compression`` with options. The bits then depend on it and on the number of shards,
            still not on ranks or wire. Alone and without shards it does nothing.
        shard: ``"optimizer"``: each rank keeps and updates its part of the optimizer state (ZeRO-1); ``"gradients"``: and of
            the gradients (ZeRO-2). The bits are the same; on one rank it changes nothing.
        check_replicas: after every so many steps compare a hash of parameters, optimizer state and buffers over ranks and end
            with an error that names the first differing tensor and the odd rank. None: as ``phalanx run --check-replicas`` says.
        heal_replicas: take the majority's values instead of ending.

    Attributes:
        step_loss: mean loss of the last completed step over the global batch; None before the first.
        exposed_s: seconds of the last step in which this rank waited for others' messages: what computing did not hide.

    All ranks must construct it, and must call ``optimizer.step()`` equally often.

    >>> import phalanx
    >>> model = phalanx.DataParallel(phalanx.nn.Linear(2, 1))
    >>> list(model.state_dict())
    ['weight', 'bias']
    """

    def __init__(
        self,
        module: Module,
        *,
        group: Group | None = None,
        bucket_bytes: int | None = None,
        overlap: bool | None = None,
        compression: str | Scheme | None = None,
        shard: str | None = None,
        check_replicas: int | None = None,
        heal_replicas: bool = False,
    ) -> None:
        super().__init__()
        check_mode(shard)
        chosen = _compression(compression, shard)
        if not isinstance(module, Module):
            raise TypeError(f"DataParallel expects a Module (phalanx.nn.Module), got {type(module).__name__}")
        if isinstance(module, DataParallel):
            raise GraphError("DataParallel got a module that is a DataParallel already")
        self.module = module
        self.group = group or current()
        if chosen is not None and self.group.elastic is not None:
            raise RangeError(
                f"DataParallel: compression={compression!r} keeps on each rank what it left out of the gradients, which is lost with the "
                "rank; leave it out in an elastic job"
            )
        self._inputs: list[Any] = []
        self._options: dict[str, Any] = {
            "bucket_bytes": bucket_bytes, "overlap": overlap, "compression": chosen, "shard": shard,
        }  # fmt: skip
        _same_start(module, self.group, f"shard={shard!r}")
        self.reducer = Reducer(
            module, self.group, bucket_bytes=bucket_bytes, overlap=overlap, shard=shard, compression=chosen
        )
        if chosen is not None and self.reducer.trivial:
            print("phalanx: alone and without shards nothing travels: compression does nothing", file=sys.stderr)
        self.reducer.check_finite = self._check_finite
        self.reducer.end = StepEnd(self.group, module, check_replicas, heal_replicas)
        _observe(self.reducer)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        with self.forward_scope(*inputs):
            return self.module(*inputs, **options)

    def forward_scope(self, *inputs: Any) -> AbstractContextManager[Any]:
        """Where the statistics of a forward on ``inputs`` go; a captured step enters it at each replay."""
        reducer = self.reducer
        self._inputs[:] = inputs
        if reducer.trivial:
            return nullcontext()
        return discard() if reducer.with_shards and not reducer.in_shard else collect(reducer.now.records)

    def memory_report(self) -> str:
        """What this rank holds of parameters, gradients, partial sums and optimizer state: bytes on paper and as measured."""
        return memory_report(self.reducer)

    @live
    def synchronize(self) -> None:
        """Complete the sum of the gradients now, for a loop that reads them itself; all ranks must call."""
        self.reducer.synchronize()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Accumulate over several backward passes without starting a reduction (fast mode; refused with shards)."""
        if self.reducer.with_shards:
            raise GraphError(
                "no_sync() belongs to the fast mode; with shards, micro-batches accumulate inside their shard"
            )
        self.reducer.paused += 1
        try:
            yield
        finally:
            self.reducer.paused -= 1

    @property
    def step_loss(self) -> float | None:
        """Mean loss of the last completed step over the global batch."""
        return self.reducer.step_loss.value

    @property
    def extra_state(self) -> CompressedFold | None:
        """What a checkpoint holds beside parameters, buffers and optimizers: residuals of compression."""
        return self.reducer.compressed

    @property
    def exposed_s(self) -> float:
        """Seconds of the last completed step in which this rank waited for others' messages."""
        return self.reducer.end.exposed_s

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients of the module."""
        if set_to_none or self.reducer.spread is None:
            self.module.zero_grad(set_to_none)
            return
        for parameter in self.reducer.parameters:  # of each this rank has its part
            if parameter._grad is not None:
                own_gradient(parameter)[...] = 0

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            where = first_non_finite(self.module, *self._inputs)
            group, step = self.group, self.group.steps_committed
            raise NonFiniteError(
                f"rank {group.rank} of {group.size}: the loss is {loss} in step {step}; "
                + (
                    f"the first value that is not finite is in {where}"
                    if where
                    else "every layer's output is finite, so it arises in the loss itself"
                )
                + ". Nothing was updated: lower the learning rate, clip the gradients, or look at this batch."
            )

    # names are the module's own, so that a checkpoint fits with and without the wrapper

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return self.module.state_dict(*args, **options)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        return self.module.load_state_dict(*args, **options)

    def named_parameters(self, *args: Any, **options: Any) -> Any:
        return self.module.named_parameters(*args, **options)

    def named_buffers(self, *args: Any, **options: Any) -> Any:
        return self.module.named_buffers(*args, **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> DataParallel:
        """A wrapper of its own around a copy of the module; all ranks must copy."""
        return DataParallel(copy.deepcopy(self.module, memo), group=self.group, **self._options)

    def __getattr__(self, name: str) -> Any:
        module = self.__dict__.get("module")
        if module is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(module, name)


class _Observer:
    """Tells a reducer what the loader does, as long as the reducer lives."""

    def __init__(self, reducer: Reducer) -> None:
        self._reducer = weakref.ref(reducer)

    @property
    def reducer(self) -> Reducer | None:
        """None once nobody holds it any more."""
        return self._reducer()

    def step_opens(self, step: Step) -> None:
        if (reducer := self._reducer()) is not None:
            reducer.step_opens(step)

    def shard_opens(self, step: Step, shard: int, samples: int) -> None:
        if (reducer := self._reducer()) is not None:
            reducer.shard_opens(step, shard, samples)

    def shard_closes(self) -> None:
        if (reducer := self._reducer()) is not None:
            reducer.shard_closes()

    def step_closes(self, step: Step) -> None:
        """What counts is the optimizer's step."""


def _observe(reducer: Reducer) -> None:
    observer, registered = _Observer(reducer), observers()
    registered.append(observer)
    weakref.finalize(reducer, _forget, registered, observer)


def _forget(registered: list[Observer], observer: Observer) -> None:
    if observer in registered:
        registered.remove(observer)


def _compression(given: str | Scheme | None, shard: str | None) -> Scheme | None:
    if given is None:
        return None
    if shard == "gradients":
        raise RangeError(
            'DataParallel: compression and shard="gradients" do not go together: residuals need whole gradients on every rank. '
            'Use shard="optimizer", or no compression'
        )
    return scheme(given)


def _same_start(module: Module, group: Group, options: str) -> None:
    """Same structure on all ranks, or an error that names the odd one; then rank 0's values everywhere."""
    state = module.state_dict()
    gpu = of_gpu() if any(device_kind(t.array) == "cuda" for t in state.values()) else {}
    group.fingerprint = group.fingerprint | gpu
    if group.size == 1:
        return
    table = [[name, str(t.array.dtype), list(t.array.shape)] for name, t in state.items()]
    digest = zlib.crc32(repr(table).encode())
    found = group.control.all_gather_object([digest, gpu], name=f"DataParallel({options}): structure").wait()
    _same_gpus([row[1] for row in found])
    rows = [row[0] for row in found]
    if any(row != rows[0] for row in rows):
        tables = group.control.all_gather_object(table, name="DataParallel tables").wait()
        odd = next(rank for rank, row in enumerate(rows) if row != rows[0])
        raise MismatchError(_differences(tables[0], tables[odd], odd))
    for name, tensor in state.items():
        array = tensor.array if tensor.array.flags.c_contiguous else tensor.array.copy()
        group.control.broadcast(array, root=0, name=f"initial {name}").wait()
        if array is not tensor.array:
            tensor.array[...] = array


def _same_gpus(rows: list[dict[str, Any]]) -> None:
    """Updates are computed by every rank: on unequal GPUs the replicas would drift apart."""
    for rank, row in enumerate(rows):
        keys = [key for key in rows[0] | row if row.get(key) != rows[0].get(key)]
        if keys:
            shown = "; ".join(
                f"{key}: {rows[0].get(key, 'none')!r} on rank 0, {row.get(key, 'none')!r} on rank {rank}"
                for key in keys
            )
            raise MismatchError(
                f"DataParallel: rank {rank} differs from rank 0: {shown}. All ranks must compute on GPUs of one model with the same "
                "libraries, or all on the CPU."
            )


def _differences(ours: list[Any], theirs: list[Any], odd: int) -> str:
    """What the model of rank ``odd`` has otherwise than rank 0's: names, dtypes and shapes."""
    here, there = ({name: f"{dtype}{shape}" for name, dtype, shape in table} for table in (ours, theirs))
    differing = [
        f"{name} is {there.get(name, 'missing')} on rank {odd}, {here.get(name, 'missing')} on rank 0"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]
    shown = "; ".join(differing[:_SHOWN]) or "the same tensors stand in another order"
    more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    return f"DataParallel: the model of rank {odd} differs from rank 0's: {shown}{more}. Build the same model on all ranks."
