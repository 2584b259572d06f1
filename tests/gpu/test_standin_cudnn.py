"""The stand-in for cuDNN knows nothing that the real one does not know, and refuses what the real one refuses."""

from __future__ import annotations

import inspect
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

LIST = Path(__file__).resolve().parents[1] / "standin" / "cudnn-1.23.txt"


@pytest.fixture
def library(standins: None) -> Any:
    import cudnn

    if not hasattr(cudnn, "_compute"):
        pytest.skip("this is the real one")
    return cudnn


def known() -> dict[str, list[list[str]]]:
    """The real one's names -> the alternatives of their parameters."""
    found = {}
    for line in LIST.read_text().splitlines():
        name, _, parameters = line.partition(" ")
        found[name] = [choice.split(", ") for choice in parameters[1:-1].split(" | ")]
    return found


def public(library: Any) -> dict[str, Any]:
    """What the stand-in shows, functions and methods alike."""
    own = {"Any", "ALIGNMENT", "WORKSPACE_BYTES", "annotations", "ctypes", "itertools", "np", "Enum", "Sequence"}
    found = {name: value for name, value in vars(library).items() if not name.startswith("_") and name not in own}
    for kind in [value for value in found.values() if isinstance(value, type)]:
        if issubclass(kind, Enum):
            found |= {f"{kind.__name__}.{member.name}": None for member in kind}
        elif not issubclass(kind, Exception):
            methods = {n: v for n, v in vars(kind).items() if inspect.isfunction(v)}
            names = [
                n for n in methods if not n.startswith("_") or n == "_execute_with_ptrs" or n.endswith("_template")
            ]
            found |= {f"{kind.__name__}.{n}": methods[n] for n in names}
    return found


def test_it_knows_no_name_and_no_parameter_that_the_real_one_does_not_know(library: Any) -> None:
    real = known()
    names = public(library)
    names = {
        name: value for name, value in names.items() if not name.startswith("convolution_mode")
    }  # not exported there
    assert len(names) > 40
    assert not names.keys() - real.keys()
    for name, value in names.items():
        if not inspect.isfunction(value):
            continue
        mine = list(inspect.signature(value).parameters)
        unnamed = all(parameter.startswith(("arg", "self")) for choice in real[name] for parameter in choice)
        fits = [choice for choice in real[name] if set(mine) <= set(choice)]
        assert fits or (unnamed and any(len(mine) == len(choice) for choice in real[name])), (name, mine, real[name])


def test_conv_has_the_paddings_that_it_is_given(library: Any) -> None:
    """Of the two forms of each convolution ours is the one with padding before and behind."""
    for name in ("conv_fprop", "conv_dgrad", "conv_wgrad"):
        mine = list(inspect.signature(getattr(library.pygraph, name)).parameters)
        assert mine in known()[f"pygraph.{name}"]


# ---- what it refuses -------------------------------------------------------------------------------------------------


def graph(library: Any, io: str = "BFLOAT16") -> Any:
    wide = library.data_type.FLOAT
    return library.pygraph(
        io_data_type=getattr(library.data_type, io), intermediate_data_type=wide, compute_data_type=wide,
        handle=library.create_handle(),
    )  # fmt: skip


STEPS = {"pre_padding": [1, 1], "post_padding": [1, 1], "stride": [1, 1], "dilation": [1, 1]}


def operand(g: Any, *shape: int) -> Any:
    _, c, h, w = shape
    return g.tensor(dim=list(shape), stride=[c * h * w, 1, w * c, c])


def planned(g: Any, library: Any) -> Any:
    g.validate()
    g.build_operation_graph()
    g.create_execution_plans([library.heur_mode.A])
    g.build_plans()
    return g


def convolution(library: Any, io: str = "BFLOAT16", channels: int = 8, output: bool = True) -> Any:
    g = graph(library, io)
    x, w = operand(g, 1, channels, 4, 4).set_uid(1), operand(g, 8, 8, 3, 3).set_uid(2)
    y = g.conv_fprop(image=x, weight=w, **STEPS)
    if output:
        y.set_output(True).set_dim([1, 8, 4, 4]).set_stride([128, 1, 32, 8]).set_uid(3)
    return g


def weight_gradient(library: Any, **set_: Any) -> Any:
    g = graph(library)
    dw = g.conv_wgrad(image=operand(g, 1, 8, 4, 4), loss=operand(g, 1, 8, 4, 4), **STEPS).set_output(True)
    for name, value in set_.items():
        getattr(dw, name)(value)
    return g


def heads(library: Any, width: int, io: str = "BFLOAT16", places: int = 4, backward: bool = False) -> Any:
    g = graph(library, io)
    shape, strides = [1, 2, places, width], [2 * places * width, places * width, width, 1]
    q, k, v, o, do = (g.tensor(dim=shape, stride=strides) for _ in range(5))
    if backward:
        rows = g.tensor(dim=[1, 2, places, 1], stride=[2 * places, places, 1, 1], data_type=library.data_type.FLOAT)
        made = g.sdpa_backward(q=q, k=k, v=v, o=o, dO=do, stats=rows, attn_scale=1.0)
    else:
        made = g.sdpa(q=q, k=k, v=v, attn_scale=1.0, generate_stats=False)
    for uid, tensor in enumerate((q, k, v, o, do, *made)):
        tensor.set_uid(uid)
    for out in made:
        out.set_output(True).set_dim(shape).set_stride(strides)
    return g


def test_what_has_no_plan(library: Any) -> None:
    no = library.cudnnGraphNotSupportedError
    krsc = {"set_dim": [8, 8, 3, 3], "set_stride": [72, 1, 24, 8]}
    for make, error in (
        (lambda: convolution(library, output=False), no),
        (lambda: convolution(library, "DOUBLE"), no),
        (lambda: convolution(library, channels=7), RuntimeError),
        (lambda: weight_gradient(library), ValueError),
        (lambda: weight_gradient(library, **krsc, set_data_type=library.data_type.FLOAT), no),
        (lambda: heads(library, 12), no),
        (lambda: heads(library, 264), no),
        (lambda: heads(library, 64, "FLOAT", backward=True), no),
        (lambda: heads(library, 64, places=1, backward=True), no),
    ):
        with pytest.raises(error):
            planned(make(), library)
    for make in (lambda: convolution(library), lambda: heads(library, 64, "FLOAT"), lambda: heads(library, 64)):
        planned(make(), library)


def test_order_handles_and_addresses(library: Any) -> None:
    with pytest.raises(RuntimeError, match="cannot become"):
        convolution(library).build_plans()
    g = planned(convolution(library), library)
    handle, place = library.create_handle(), np.zeros(1 << 16, np.uint8)
    start = place.ctypes.data + -place.ctypes.data % 16
    pack = [start + 4096 * i for i in range(4)]
    with pytest.raises(RuntimeError, match="not prepared"):
        g._execute_with_ptrs(pack[:3], pack[3], handle)
    g._prepare_variant_pack_template()
    g._execute_with_ptrs(pack[:3], pack[3], handle)
    with pytest.raises(RuntimeError, match="multiple of 16"):
        g._execute_with_ptrs([start + 8, *pack[1:3]], pack[3], handle)
    with pytest.raises(RuntimeError, match="multiple of 16"):
        g._execute_with_ptrs(pack[:3], 0, handle)
    library.destroy_handle(handle)
    with pytest.raises(RuntimeError, match="handle"):
        g._execute_with_ptrs(pack[:3], pack[3], handle)
