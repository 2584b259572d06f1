"""How images lie: what one kernel arranges the next ones take as it is, and what is asked for as it lay comes back so."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

import phalanx
from phalanx.core.kernels import reference_conv, table
from phalanx.core.kernels.cpu import channels_last, loops_layout, onednn_conv
from tests.core.onednn_cases import needs_onednn

nn = phalanx.nn
pytestmark = needs_onednn
SHAPES = [(3, 16, 5, 7), (2, 8, 9), (2, 8, 3, 4, 5), (1, 1, 6, 6), (4, 9, 1, 1), (3, 33, 7, 7), (2, 16, 2, 9, 2)]
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "channels first": lambda x: x,
    "channels last": lambda x: channels_last.to_first(np.ascontiguousarray(channels_last.to_last(x))),
    "every second": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
}


@pytest.fixture
def fast() -> Iterator[None]:
    before = table.chosen()
    table.choose("fast")
    yield
    table.choose(before)


@pytest.mark.parametrize("lies", LAYOUTS)
@pytest.mark.parametrize("into", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_images_are_put_wherever_they_lie(shape: tuple[int, ...], into: str, lies: str, fast: None) -> None:
    random = np.random.default_rng(1)
    given = random.standard_normal(shape, np.float32)
    images, out = LAYOUTS[lies](given), LAYOUTS[into](np.full(shape, np.nan, np.float32))
    arranged = onednn_conv.arrange_images(images)
    assert np.array_equal(arranged, given)
    assert channels_last.is_last(arranged)
    assert onednn_conv.put_images(images, out) is out
    assert np.array_equal(out, given)


@pytest.mark.parametrize(
    "shape", [(3, 16, 16), (2, 17, 33), (2, 40, 16), (2, 31, 100), (1, 100, 31), (2, 5, 3), (0, 16, 16)]
)
def test_matrices_are_turned_over(shape: tuple[int, ...]) -> None:
    """Blocks, and what blocks leave over on either side."""
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    out = np.full((shape[0], shape[2], shape[1]), np.nan, np.float32)
    loops_layout.turn(x.size, x, out)
    assert np.array_equal(out, x.transpose(0, 2, 1))


def test_who_copies_depends_on_the_shape(monkeypatch: pytest.MonkeyPatch, fast: None) -> None:
    """The compiled loop where blocks leave little over and numba is there, else oneDNN: the same images."""
    turned: list[int] = []

    def counted(size: int, x: np.ndarray, out: np.ndarray) -> None:
        turned.append(size)
        loops_layout.turn(size, x, out)

    for loop in (counted, None):
        monkeypatch.setattr(channels_last, "_turn", lambda loop=loop: loop)
        for shape in ((3, 16, 4, 4), (3, 16, 5, 5), (3, 15, 4, 4), (3, 64, 7, 7)):
            x = np.random.default_rng(3).standard_normal(shape, np.float32)
            assert np.array_equal(onednn_conv.arrange_images(x), x)
    assert turned == [3 * 16 * 16, 3 * 64 * 49]


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_dtypes_stay_as_they_lie(dtype: type, fast: None) -> None:
    x: np.ndarray = np.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).astype(dtype)
    assert onednn_conv.arrange_images(x) is x
    assert np.array_equal(onednn_conv.put_images(LAYOUTS["channels last"](x), np.zeros(x.shape, np.float32)), x)
    empty = np.zeros((2, 0, 4, 4), np.float32)
    assert onednn_conv.arrange_images(empty) is empty
    assert reference_conv.arrange_images(x) is x


@pytest.mark.parametrize("transposed", [False, True])
def test_a_convolution_arranges_each_image_once(transposed: bool, monkeypatch: pytest.MonkeyPatch, fast: None) -> None:
    """Input, gradient of the output, and gradient of the input back into its slot: three copies; none if nothing lies otherwise."""
    copies: list[bool] = []
    copied = channels_last._copied

    def counted(source: np.ndarray, target: np.ndarray, shape: tuple[int, ...], back: bool) -> bool:
        copies.append(back)
        return copied(source, target, shape, back)

    monkeypatch.setattr(channels_last, "_copied", counted)
    random = np.random.default_rng(2)
    weight = nn.Parameter(phalanx.tensor(random.standard_normal((16, 16, 3, 3), np.float32)))
    function = nn.functional.conv_transpose2d if transposed else nn.functional.conv2d
    x = phalanx.tensor(random.standard_normal((2, 16, 8, 8), np.float32))
    leaf = nn.Parameter(x.clone())
    phalanx.optim.SGD([leaf, weight], lr=1.0)
    y = function(leaf, weight, padding=1)
    y.backward(phalanx.tensor(np.ones(y.shape, np.float32)))
    assert copies == ([False, False] if transposed else [False, False, True])
    copies.clear()
    last = phalanx.from_numpy(LAYOUTS["channels last"](x.numpy()))
    assert channels_last.is_last(last.numpy())
    y = function(last.requires_grad_(), weight, padding=1)
    y.backward(phalanx.ones_like(y))
    assert copies == []
    assert last.grad is not None is not leaf.grad
    assert np.array_equal(last.grad.numpy(), leaf.grad.numpy())


def test_what_is_made_like_an_image_lies_like_it() -> None:
    """As in PyTorch; so the first gradient of a walk lies as the output does."""
    x = phalanx.from_numpy(LAYOUTS["channels last"](np.ones((2, 3, 4, 5), np.float32)))
    for made in (phalanx.zeros_like(x), phalanx.ones_like(x), phalanx.empty_like(x), phalanx.full_like(x, 2)):
        assert made.shape == x.shape
        assert channels_last.is_last(made.numpy())
    assert phalanx.ones_like(phalanx.tensor([[1, 2]])).numpy().flags.c_contiguous
