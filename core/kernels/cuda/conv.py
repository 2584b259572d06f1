"""Convolution over one to three dimensions by cuDNN: forward and both gradients; so is its transpose.

Nothing is rearranged here. cuDNN is told how each array lies: inputs and gradients as (N, C, S) or with channels last, weights as the
flat store has them, (O, C/G, K). Its fast engines want channels last everywhere and copy what lies otherwise within the same call: a
weight costs its own bytes twice (all of ResNet-50's that are not 1 x 1: 23 MB in bfloat16), an input with channels first or fewer than 8
channels, which is the first layer's alone, is widened to channels last and 8 channels. What comes out has channels last in memory, so
that no later layer copies.

float16 and bfloat16 are multiplied in tensor cores and summed in float32; float32 is exact unless TF32 was allowed. float64, empty
arrays and shapes for which cuDNN has no plan go to ``im2col.py``, or from there to the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ...amp import precision
from ...backend import array_module
from ...op import Array
from ..reference import deliver
from ..window import Size, Window
from . import cudnn, im2col
from .channels_last import empty, is_last, to_first, to_last

# ---- how arrays lie --------------------------------------------------------------------------------------------------


def first_strides(shape: Size) -> Size:
    """Strides in elements of a C-contiguous array."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def last_strides(shape: Size) -> Size:
    """Strides in elements of a logical (N, C, S) that lies as (N, S, C)."""
    inner = first_strides((shape[0], *shape[2:], shape[1]))
    return (inner[0], inner[-1], *inner[1:-1])


def aligned(x: Array) -> bool:
    """Whether a plan may be given this array's address."""
    return bool(x.data.ptr % cudnn.ALIGNMENT == 0)


def arranged(x: Array) -> tuple[Array, bool]:
    """``x`` (N, C, S) and whether its channels lie last: itself if it is dense either way, else a copy with channels last."""
    if aligned(x):
        if is_last(x):
            return x, True
        if x.flags.c_contiguous:
            return x, False
    return to_first(to_last(x).copy(order="C")), True


def dense(x: Array) -> Array:
    """``x`` itself if C-contiguous and aligned, else a copy."""
    return x if x.flags.c_contiguous and aligned(x) else x.copy(order="C")


# ---- what to plan ----------------------------------------------------------------------------------------------------


class Convolution(NamedTuple):
    """One convolution or gradient, with at least two dimensions (a sequence is an image of one row)."""

    kind: str
    """"forward", "input gradient" or "weight gradient"."""
    dtype: str
    shape: Size
    """(N, C, S) of the input."""
    weight: Size
    """(O, C/G, K)."""
    output: Size
    """(N, O, P)."""
    stride: Size
    padding: Size
    dilation: Size
    input_last: bool = True
    """Whether the input's channels lie last, where the input is read."""
    gradient_last: bool = True
    """The same for the gradient of the output."""
    bias: bool = False
    relu: bool = False
    exact: bool = False
    """Whether float32 must not become TF32."""
    deterministic: bool = False

    @property
    def limit(self) -> int | None:
        return cudnn.WORKSPACE_LIMIT

    def __str__(self) -> str:
        extra = "".join(f", {name}" for name, there in (("bias", self.bias), ("relu", self.relu)) if there)
        return (
            f"the {self.kind} of a convolution of {self.dtype} {self.shape} with {self.weight} to {self.output} "
            f"(stride {self.stride}, padding {self.padding}, dilation {self.dilation}{extra})"
        )

    def forbidden(self, library: Any) -> list[Any]:
        """Engines that lose precision, and those whose sums depend on timing where that matters."""
        note = library.numerical_note
        notes = [note.DOWN_CONVERT_INPUTS, note.REDUCED_PRECISION_REDUCTION]
        if self.exact:
            notes.append(note.TENSOR_CORE)
        if self.deterministic:
            notes.append(note.NONDETERMINISTIC)
        return notes

    def describe(self, graph: Any, library: Any) -> list[Any]:
        """Tensors in the order of the kernels' arguments; the result is last."""

        def given(shape: Size, strides: Size) -> Any:
            return graph.tensor(dim=list(shape), stride=list(strides))

        def place(shape: Size, last: bool) -> Size:
            return last_strides(shape) if last else first_strides(shape)

        steps = {
            "pre_padding": list(self.padding),
            "post_padding": list(self.padding),
            "stride": list(self.stride),
            "dilation": list(self.dilation),
        }
        kernel = last_strides(self.weight) if math.prod(self.weight[2:]) == 1 else first_strides(self.weight)
        if self.kind == "weight gradient":
            tensors = [
                given(self.shape, place(self.shape, self.input_last)),
                given(self.output, place(self.output, self.gradient_last)),
            ]
            result, shape, strides = graph.conv_wgrad(image=tensors[0], loss=tensors[1], **steps), self.weight, kernel
        elif self.kind == "input gradient":
            tensors = [given(self.output, place(self.output, self.gradient_last)), given(self.weight, kernel)]
            result = graph.conv_dgrad(loss=tensors[0], filter=tensors[1], **steps)
            shape, strides = self.shape, last_strides(self.shape)
        else:
            tensors = [given(self.shape, place(self.shape, self.input_last)), given(self.weight, kernel)]
            result = graph.conv_fprop(image=tensors[0], weight=tensors[1], **steps)
            shape, strides = self.output, last_strides(self.output)
            if self.bias:
                row = (1, self.weight[0], *(1 for _ in self.stride))
                tensors.append(given(row, last_strides(row)))
                result = graph.bias(input=result, bias=tensors[-1])
            if self.relu:
                result = graph.relu(input=result)
        result.set_output(True).set_dim(list(shape)).set_stride(list(strides))
        return [*tensors, result]


def _lifted(shape: Size) -> Size:
    """A sequence (N, C, L) as images (N, C, 1, L)."""
    return (*shape[:2], 1, shape[2]) if len(shape) == 3 else tuple(shape)


def request(
    kind: str, dtype: str, shape: Size, weight: Size, output: Size, window: Window, **options: bool
) -> Convolution:
    """What to plan for these shapes under the precision and determinism that are set now."""
    one = len(shape) == 3
    return Convolution(
        kind,
        dtype,
        _lifted(shape),
        _lifted(weight),
        _lifted(output),
        (1, *window.stride) if one else tuple(window.stride),
        (0, *window.padding) if one else tuple(window.padding),
        (1, *window.dilation) if one else tuple(window.dilation),
        exact=dtype == "float32" and not precision.convolution_tf32(),
        deterministic=precision.deterministic(),
        **options,
    )


def _serves(*shapes_and_dtypes: Any) -> bool:
    """Whether all are of one dtype that cuDNN serves, and none is empty."""
    shapes, dtypes = shapes_and_dtypes[::2], shapes_and_dtypes[1::2]
    return dtypes[0].name in cudnn.FLOATS and len(set(dtypes)) == 1 and all(min(shape) > 0 for shape in shapes)


# ---- kernels ---------------------------------------------------------------------------------------------------------


def conv_forward(
    x: Array, weight: Array, bias: Array | None, window: Window, groups: int = 1, relu: bool = False
) -> Array:
    """As ``reference_conv.conv_forward``; with ``relu`` its positive part. A bias, and relu behind it, are of the same pass."""
    shape = (x.shape[0], weight.shape[0], *window.output(x.shape[2:]))
    if not _serves(x.shape, x.dtype, weight.shape, weight.dtype) or min(shape) <= 0:
        return _rectified(im2col.conv_forward(x, weight, bias, window, groups), relu)
    image, last = arranged(x)
    asked = request("forward", x.dtype.name, x.shape, weight.shape, shape, window, input_last=last)
    y = to_first(empty(shape, x))
    if bias is not None and (made := cudnn.plan(asked._replace(bias=True, relu=relu))) is not None:
        cudnn.run(made, image, dense(weight), dense(bias), y)
        return y
    made = cudnn.plan(asked)
    if made is None:
        return _rectified(im2col.conv_forward(x, weight, bias, window, groups), relu)
    cudnn.run(made, image, dense(weight), y)
    if bias is not None:
        y += bias.reshape((-1,) + (1,) * (x.ndim - 2))
    return _rectified(y, relu)


def _rectified(y: Array, relu: bool) -> Array:
    return array_module(y).maximum(y, y.dtype.type(0), out=y) if relu else y


def _exact(size: Size, window: Window, output: Size) -> bool:
    """Whether the window has ``output`` places on an input of ``size`` (a transposed convolution may leave one more)."""
    return window.output(size) == output


def conv_input_gradient(gradient: Array, weight: Array, shape: Size, window: Window, groups: int = 1) -> Array:
    """As ``reference_conv.conv_input_gradient``."""
    shape, made = tuple(shape), None
    if (
        _serves(gradient.shape, gradient.dtype, weight.shape, weight.dtype)
        and min(shape) > 0
        and _exact(shape[2:], window, gradient.shape[2:])
    ):
        loss, last = arranged(gradient)
        made = cudnn.plan(
            request(
                "input gradient", gradient.dtype.name, shape, weight.shape, gradient.shape, window, gradient_last=last
            )
        )
    if made is None:
        return im2col.conv_input_gradient(gradient, weight, shape, window, groups)
    dx = to_first(empty(shape, gradient))
    cudnn.run(made, loss, dense(weight), dx)
    return dx


def conv_weight_gradient(
    gradient: Array, x: Array, shape: Size, window: Window, groups: int = 1, out: Array | None = None
) -> Array:
    """As ``reference_conv.conv_weight_gradient``: straight into ``out`` where that has the dtype of ``x``.

    cuDNN sums in float32 and rounds once; a wider ``out`` gets what was rounded, since no fast engine writes float32 from bfloat16.
    """
    shape, made = tuple(shape), None
    if _serves(x.shape, x.dtype, gradient.shape, gradient.dtype) and _exact(x.shape[2:], window, gradient.shape[2:]):
        image, input_last = arranged(x)
        loss, gradient_last = arranged(gradient)
        made = cudnn.plan(
            request(
                "weight gradient", x.dtype.name, x.shape, shape, gradient.shape, window,
                input_last=input_last, gradient_last=gradient_last,
            )
        )  # fmt: skip
    if made is None:
        return im2col.conv_weight_gradient(gradient, x, shape, window, groups, out)
    slot = out is not None and out.dtype == x.dtype and out.flags.c_contiguous and aligned(out)
    dw = out if slot and out is not None else array_module(x).empty(shape, x.dtype)
    cudnn.run(made, image, loss, dw)
    return deliver(dw, x.dtype, out)


KERNELS: dict[str, Callable[..., Any]] = {
    "conv_forward": conv_forward,
    "conv_input_gradient": conv_input_gradient,
    "conv_weight_gradient": conv_weight_gradient,
}
