"""Words of memory that other processes read and write meanwhile, for compiled loops: their order is the order that others see."""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

_PAUSE = "llvm.x86.sse2.pause" if platform.machine() in ("x86_64", "AMD64") else ""


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    made = make_array(kind)(context, builder, array)
    return cgutils.get_item_pointer(context, builder, kind, made, [index], wraparound=False)


@intrinsic
def load_first(typing_context, words, index):  # type: ignore[no-untyped-def]
    """``words[index]``; what follows in the program is read after it."""

    def make(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        return builder.load_atomic(pointer, "acquire", words.dtype.bitwidth // 8)

    return words.dtype(words, types.intp), make


@intrinsic
def store_last(typing_context, words, index, value):  # type: ignore[no-untyped-def]
    """``words[index] = value``; what comes before in the program is written before it, and what follows is read after it."""

    def make(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, at, word = arguments
        pointer = _pointer(context, builder, signature.args[0], array, at)
        builder.store_atomic(word, pointer, "release", words.dtype.bitwidth // 8)
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(words, types.intp, words.dtype), make


@intrinsic
def pointer(typing_context, address, kind):  # type: ignore[no-untyped-def]
    """To what lies at ``address``, as elements of ``kind``; whoever gives the address keeps what lies there."""

    def make(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind.dtype)(types.int64, kind), make  # type: ignore[attr-defined]


yield_core = types.ExternalFunction("sched_yield", types.int32())
"""Let another thread that waits for this core go first, if there is one."""


@intrinsic
def pause(typing_context):  # type: ignore[no-untyped-def]
    """Let a core's other thread go first for some cycles."""

    def make(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if _PAUSE:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, _PAUSE), [])
        return context.get_dummy_value()

    return types.void(), make
