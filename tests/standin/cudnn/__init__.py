"""A stand-in for nvidia-cudnn-frontend 1.23 over cuDNN 9.19: the part of its interface that we use, computed by NumPy in host memory.

Graphs are drawn, validated, planned and executed in the order that the real one wants, and refused where it refuses: results that are
not outputs, gradients without a shape, float32 gradients of bfloat16 weights, widths of heads that it has no kernel for. What it reads
and writes are addresses, by the shapes and strides of the graph. With tensor cores allowed float32 is rounded to TF32 first.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _compute
from ._types import (
    build_plan_policy,
    convolution_mode,
    data_type,
    diagonal_alignment,
    heur_mode,
    numerical_note,
    tensor,
)

__version__ = "1.23.0"
ALIGNMENT = 16
WORKSPACE_BYTES = 512
"""Every plan wants some, and scribbles over it."""


class cudnnGraphNotSupportedError(Exception):
    """There is no engine for a graph."""


_HALF = (data_type.HALF, data_type.BFLOAT16)


def backend_version() -> int:
    return 91900


# ---- handles ---------------------------------------------------------------------------------------------------------

_streams: dict[int, int] = {}
_handles = itertools.count(0x7000, 16)


def create_handle() -> int:
    handle = next(_handles)
    _streams[handle] = 0
    return handle


def destroy_handle(handle: int) -> None:
    del _streams[handle]


def set_stream(handle: int, stream: int) -> None:
    if handle not in _streams:
        raise RuntimeError("CUDNN_STATUS_BAD_PARAM: no such handle")
    _streams[handle] = int(stream)


def get_stream(handle: int) -> int:
    return _streams[handle]


# ---- graphs ----------------------------------------------------------------------------------------------------------


class _Node:
    """One operation of a graph."""

    def __init__(self, kind: str, inputs: list[tensor], outputs: list[tensor], options: dict[str, Any]) -> None:
        self.kind, self.inputs, self.outputs, self.options = kind, inputs, outputs, options


class pygraph:
    """A graph of operations on tensors, and the plan that was made for it."""

    def __init__(
        self,
        name: str = "test_graph",
        io_data_type: data_type = data_type.NOT_SET,
        intermediate_data_type: data_type = data_type.NOT_SET,
        compute_data_type: data_type = data_type.NOT_SET,
        handle: int | None = None,
    ) -> None:
        if handle not in _streams:
            raise RuntimeError("CUDNN_STATUS_BAD_PARAM: a graph wants a handle that was created and not destroyed")
        self._io, self._intermediate, self._compute = io_data_type, intermediate_data_type, compute_data_type
        self._nodes: list[_Node] = []
        self._given: list[tensor] = []
        self._deselected: set[numerical_note] = set()
        self._limit: int | None = None
        self._stage = "drawn"
        self._template: list[tensor] | None = None

    def tensor(
        self,
        dim: Sequence[int],
        stride: Sequence[int],
        data_type: data_type = data_type.NOT_SET,
        is_virtual: bool = False,
        is_pass_by_value: bool = False,
        ragged_offset: Any = None,
        reordering_type: Any = None,
        name: str = "",
        uid: int = -1,
    ) -> tensor:
        if len(dim) != len(stride):
            raise RuntimeError("dim and stride differ in length")
        made = tensor(dim, stride, data_type, is_virtual)
        made.uid = uid
        self._given.append(made)
        return made

    def _node(self, kind: str, inputs: list[tensor], count: int = 1, **options: Any) -> list[tensor]:
        outputs = [tensor() for _ in range(count)]
        self._nodes.append(_Node(kind, inputs, outputs, options))
        return outputs

    def _convolution(
        self, kind: str, one: tensor, other: tensor, pre: Any, post: Any, stride: Any, dilation: Any, compute: data_type
    ) -> tensor:
        spread = len(one.dim) - 2
        for numbers in (pre, post, stride, dilation):
            if len(numbers) != spread:
                raise RuntimeError(f"{spread} numbers for each of padding, stride and dilation expected")
        return self._node(kind, [one, other], pre=pre, post=post, stride=stride, dilation=dilation)[0]

    def conv_fprop(
        self,
        image: tensor,
        weight: tensor,
        pre_padding: Sequence[int] = (),
        post_padding: Sequence[int] = (),
        stride: Sequence[int] = (),
        dilation: Sequence[int] = (),
        convolution_mode: convolution_mode = convolution_mode.CROSS_CORRELATION,
        compute_data_type: data_type = data_type.NOT_SET,
        name: str = "",
    ) -> tensor:
        return self._convolution("fprop", image, weight, pre_padding, post_padding, stride, dilation, compute_data_type)

    def conv_dgrad(
        self,
        loss: tensor,
        filter: tensor,
        pre_padding: Sequence[int] = (),
        post_padding: Sequence[int] = (),
        stride: Sequence[int] = (),
        dilation: Sequence[int] = (),
        convolution_mode: convolution_mode = convolution_mode.CROSS_CORRELATION,
        compute_data_type: data_type = data_type.NOT_SET,
        name: str = "",
    ) -> tensor:
        return self._convolution("dgrad", loss, filter, pre_padding, post_padding, stride, dilation, compute_data_type)

    def conv_wgrad(
        self,
        image: tensor,
        loss: tensor,
        pre_padding: Sequence[int] = (),
        post_padding: Sequence[int] = (),
        stride: Sequence[int] = (),
        dilation: Sequence[int] = (),
        convolution_mode: convolution_mode = convolution_mode.CROSS_CORRELATION,
        compute_data_type: data_type = data_type.NOT_SET,
        name: str = "",
    ) -> tensor:
        return self._convolution("wgrad", image, loss, pre_padding, post_padding, stride, dilation, compute_data_type)

    def bias(
        self, input: tensor, bias: tensor, compute_data_type: data_type = data_type.NOT_SET, name: str = ""
    ) -> tensor:
        return self._node("bias", [input, bias])[0]

    def relu(
        self,
        input: tensor,
        negative_slope: float | None = None,
        lower_clip: float | None = None,
        upper_clip: float | None = None,
        compute_data_type: data_type = data_type.NOT_SET,
        name: str = "",
    ) -> tensor:
        return self._node("relu", [input])[0]

    def sdpa(
        self,
        q: tensor,
        k: tensor,
        v: tensor,
        attn_scale: float | None = None,
        diagonal_alignment: diagonal_alignment = diagonal_alignment.TOP_LEFT,
        diagonal_band_right_bound: int | None = None,
        generate_stats: bool | None = None,
    ) -> list[tensor]:
        options = {"scale": attn_scale, "causal": _causal(diagonal_alignment, diagonal_band_right_bound)}
        return self._node("sdpa", [q, k, v], 2 if generate_stats else 1, **options)

    def sdpa_backward(
        self,
        q: tensor,
        k: tensor,
        v: tensor,
        o: tensor,
        dO: tensor,
        stats: tensor,
        attn_scale: float | None = None,
        diagonal_alignment: diagonal_alignment = diagonal_alignment.TOP_LEFT,
        diagonal_band_right_bound: int | None = None,
        use_deterministic_algorithm: bool = False,
    ) -> list[tensor]:
        options = {"scale": attn_scale, "causal": _causal(diagonal_alignment, diagonal_band_right_bound)}
        return self._node(
            "sdpa_backward", [q, k, v, o, dO, stats], 3, deterministic=use_deterministic_algorithm, **options
        )

    # ---- from drawing to plan ----------------------------------------------------------------------------------------

    def _next(self, before: str, now: str) -> None:
        if self._stage != before:
            raise RuntimeError(f"a graph that is {self._stage} cannot become {now}")
        self._stage = now

    def validate(self) -> None:
        """Shapes and types of everything."""
        self._next("drawn", "validated")
        for given in self._given:
            if given.kind is data_type.NOT_SET:
                given.kind = self._io
        for node in self._nodes:
            if node.kind in ("dgrad", "wgrad") and not node.outputs[0].dim:
                raise ValueError(f"For {node.kind} node, output dimension inferencing is not possible.")
            if node.kind.startswith("sdpa"):
                _check_heads(node)
            for out in node.outputs:
                if out.kind is data_type.NOT_SET:
                    out.kind = self._intermediate if out.virtual else self._io
                if out.virtual and not out.dim and node.kind in ("fprop", "bias", "relu"):
                    out.dim = _compute.output_dim(node.kind, node.inputs, node.options)
                if not out.virtual and (len(out.dim) != len(out.stride) or not out.dim):
                    raise ValueError("an output has a shape and as many strides")

    def build_operation_graph(self) -> None:
        self._next("validated", "built")
        for node in self._nodes:
            if node.kind in ("fprop", "dgrad", "wgrad"):
                x, w, y = _compute.roles(node.kind, node.inputs, node.outputs)
                if x.dim[1] % w.dim[1] or w.dim[0] % (x.dim[1] // w.dim[1]):
                    raise RuntimeError("(0 != xDimA[1] % wDimA[1]), and code: CUDNN_STATUS_BAD_PARAM")
                if _compute.places(x.dim, w.dim, node.options) != y.dim[2:] or y.dim[:2] != [x.dim[0], w.dim[0]]:
                    raise RuntimeError("is_valid_spatial_dim(...), and code: CUDNN_STATUS_BAD_PARAM")

    def create_execution_plans(self, modes: list[heur_mode]) -> None:
        self._next("built", "planned")
        for node in self._nodes:
            real = [t for t in (*node.inputs, *node.outputs) if not t.virtual]
            if self._compute is not data_type.FLOAT:
                raise cudnnGraphNotSupportedError("compute in float32 expected")
            if any(t.kind not in (*_HALF, data_type.FLOAT) for t in real):
                raise cudnnGraphNotSupportedError(f"No valid engine configs for {node.kind}: data type")
            if node.kind in ("fprop", "dgrad", "wgrad") and len({t.kind for t in real}) > 1:
                raise cudnnGraphNotSupportedError(f"No valid engine configs for {node.kind}: mixed data types")
            if node.kind == "sdpa_backward" and node.inputs[0].kind not in _HALF:
                raise cudnnGraphNotSupportedError("No valid engine configs for sdpa_backward: data type")
        if all(out.virtual for out in self._nodes[-1].outputs):
            raise cudnnGraphNotSupportedError("No valid engine configs: the result is not an output")

    def get_execution_plan_count(self) -> int:
        return 1

    def deselect_numeric_notes(self, notes: list[numerical_note]) -> None:
        self._deselected |= set(notes)

    def deselect_workspace_greater_than(self, workspace: int) -> None:
        self._limit = workspace

    def build_plans(self, policy: build_plan_policy = build_plan_policy.HEURISTICS_CHOICE) -> None:
        self._next("planned", "ready")
        exact = numerical_note.TENSOR_CORE in self._deselected
        kinds = [node.kind for node in self._nodes]
        if exact and "relu" in kinds and "bias" not in kinds:
            raise cudnnGraphNotSupportedError("No valid execution plans built.")
        if self._limit is not None and self._limit < WORKSPACE_BYTES:
            raise cudnnGraphNotSupportedError("No valid execution plans built.")
        identities = [t.uid for t in self._pack()]
        if -1 in identities or len(set(identities)) != len(identities):
            raise RuntimeError("identities of tensors are not distinct")

    def get_workspace_size(self) -> int:
        return WORKSPACE_BYTES

    # ---- execution ---------------------------------------------------------------------------------------------------

    def _pack(self) -> list[tensor]:
        outputs = [out for node in self._nodes for out in node.outputs if not out.virtual]
        return sorted([*self._given, *outputs], key=lambda t: t.uid)

    def _prepare_variant_pack_template(self) -> None:
        self._template = self._pack()

    def _get_variant_pack_uids_sorted(self) -> list[int]:
        return [t.uid for t in self._pack()]

    def _execute_with_ptrs(self, user_ptrs: list[int], workspace: int, handle: int) -> None:
        if self._template is None or len(user_ptrs) != len(self._template):
            raise RuntimeError("the pack of tensors is not prepared, or has another length")
        self._execute_on({t.uid: ptr for t, ptr in zip(self._template, user_ptrs, strict=True)}, workspace, handle)

    def execute(self, tensor_to_device_buffer: dict[Any, int], workspace: int, handle: int | None = None) -> None:
        pack = {t if isinstance(t, int) else t.uid: ptr for t, ptr in tensor_to_device_buffer.items()}
        self._execute_on(pack, workspace, handle)

    def _execute_on(self, pack: dict[int, int], workspace: int, handle: int | None) -> None:
        if self._stage != "ready":
            raise RuntimeError(f"a graph that is {self._stage} cannot be executed")
        if handle not in _streams:
            raise RuntimeError("handle == __null, and code: CUDNN_STATUS_BAD_PARAM")
        if sorted(pack) != [t.uid for t in self._pack()]:
            raise RuntimeError("tensors of the pack are not those of the graph")
        for ptr in (*pack.values(), workspace):
            if type(ptr) is not int or ptr == 0 or ptr % ALIGNMENT:
                raise RuntimeError(f"an address that is a multiple of {ALIGNMENT} expected, got {ptr!r}")
        from cupy import _order
        from cupy._state import run

        outputs = {out.uid for node in self._nodes for out in node.outputs}
        for t in self._pack():
            _order.at_address(
                pack[t.uid], _compute.extent(t.dim, t.stride, t.kind.name), t.uid in outputs, _streams[handle]
            )
        _order.at_address(workspace, WORKSPACE_BYTES, True, _streams[handle])
        run(lambda: self._compute_all(pack, workspace), _streams[handle])

    def _compute_all(self, pack: dict[int, int], workspace: int) -> None:
        ctypes.memset(workspace, 0xA7, WORKSPACE_BYTES)
        values: dict[int, np.ndarray] = {}
        exact = self._io is not data_type.FLOAT or numerical_note.TENSOR_CORE in self._deselected

        def value(t: tensor) -> np.ndarray:
            if id(t) in values:
                return values[id(t)]
            x = _compute.view(pack[t.uid], t.dim, t.stride, t.kind.name).astype(np.float64)
            return x if exact else _compute.tf32(x)

        for node in self._nodes:
            found = _compute.compute(node.kind, [value(t) for t in node.inputs], node.outputs, node.options)
            for out, array in zip(node.outputs, found, strict=True):
                values[id(out)] = array
                if not out.virtual:
                    _compute.view(pack[out.uid], out.dim, out.stride, out.kind.name)[...] = array


def _causal(alignment: diagonal_alignment, right: int | None) -> bool:
    if right not in (None, 0) or alignment is not diagonal_alignment.TOP_LEFT:
        raise cudnnGraphNotSupportedError("this stand-in knows no other diagonal than the upper left one")
    return right == 0


def _check_heads(node: _Node) -> None:
    q, k, v = node.inputs[:3]
    widths = (q.dim[3], v.dim[3])
    if any(width % 8 for width in widths):
        raise cudnnGraphNotSupportedError("hidden_dim should be multiple of 8")
    if max(widths) > 256:
        raise cudnnGraphNotSupportedError("Num hidden_dim should be less than or equal to 256")
    if any(t.stride[3] != 1 for t in (q, k, v)):
        raise cudnnGraphNotSupportedError("the last dimension must be the fastest")
    if node.kind == "sdpa_backward" and q.dim[2] == k.dim[2] == 1:
        raise cudnnGraphNotSupportedError("s_q = s_kv = 1 is not supported.")
