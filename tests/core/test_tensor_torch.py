"""What a plain PyTorch script types: the same expression on both libraries, values, dtypes, shapes and gradients."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx.core.tensor import Tensor

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

X = np.array([[0.5, -1.25, 2.0, 0.1], [1.5, 0.75, -0.3, -2.0], [0.2, 1.1, 0.9, 3.0]])
Y = np.array([[1.0, 2.0, 0.5, -0.5], [0.25, -1.5, 1.0, 2.5], [2.0, 0.3, -0.7, 1.2]])
N = np.array([[0, 2, 1, 3], [3, 1, 1, 0], [2, 2, 0, 1]])

EXPRESSIONS: list[str] = """
x + y; x - y; x * y; x / y; x + 1; 2 - x; 2 * x; 1 / y; x ** 2; x ** 3; (x * x) ** 0.5; 2 ** x; -x; +x; abs(x)
x @ y.T; x @ y[0]; y[0] @ x.T; x.T @ y; x.matmul(y.t()); t.matmul(x, y.T); t.mm(x, y.T); t.mv(x, y[0]); t.dot(x[0], y[0])
t.outer(x[0], y[1]); t.bmm(x.reshape(3, 2, 2), y.reshape(3, 2, 2)); t.addmm(x[:, :3], x, y.T, beta=0.5, alpha=2)
x.add(y, alpha=2); x.sub(y, alpha=0.5); x.mul(y); x.div(y); x.pow(2); t.add(x, y, alpha=2); t.div(x, y); t.pow(x, 2)
x.exp(); x.abs().log(); (x * x).sqrt(); (x * x + 1).rsqrt(); x.sin(); x.cos(); x.tanh(); x.sigmoid(); x.relu(); t.erf(x)
x.square(); x.reciprocal(); t.log1p(x * x); t.expm1(x); t.log2(x * x); t.log10(x * x); x.atan(); x.sign(); t.floor(x); x.ceil()
x.round(); x.trunc(); x.clamp(-1, 1); x.clamp(min=0); x.clamp_max(0.5); t.clamp(x, max=1.0); x.clip(0, 1); x.lerp(y, 0.25)
x.clamp(min=y * 0.5, max=y * 0.5 + 1)
t.maximum(x, y); t.minimum(x, y); t.max(x, y); t.where(x > y, x, y); t.where(x > 0, x, 0.0); t.where(x > 0, 1.0, x)
t.where(x > 0, 1.0, 0.0); t.where(x > 0); x.where(x > 0, y); x.masked_fill(x > 1, 0.0); x.masked_fill(x > 1, float("-inf")).exp()
x.sum(); x.sum(0); x.sum(-1, keepdim=True); x.sum((0, 1)); x.sum(dim=1); t.sum(x, 1); t.sum(x, dim=[0, 1]); x.mean(); x.mean(1)
x.mean(dim=(0, 1), keepdim=True); x.prod(); x.prod(1); x.var(); x.var(0); x.var(1, unbiased=False); x.std(); x.std(dim=1, keepdim=True)
t.var(x, dim=0, correction=0); t.std(x); x.norm(); x.norm(dim=1); x.norm(p=1); x.norm(p=3, dim=0); x.norm(float("inf"))
x.max(); x.min(); x.max(1); x.max(dim=0, keepdim=True); x.min(1)[0]; x.max(1).values; x.min(0).indices; t.max(x, 1)[1]; x.amax(1)
x.amin((0, 1)); x.argmax(); x.argmax(1); x.argmin(dim=0, keepdim=True); t.argmax(x, dim=-1); x.cumsum(1); t.cumsum(x, dim=0)
x.logsumexp(1); t.logsumexp(x, dim=(0, 1)); x.logsumexp(0, keepdim=True); x.softmax(1); t.softmax(x, dim=0); x.log_softmax(-1)
x.sort(); x.sort(0, descending=True); x.argsort(1); t.topk(x, 2); x.topk(2, dim=0, largest=False); x.topk(1)[1]
(x > 0).any(); (x > 0).all(1); (x > 0).any(dim=0, keepdim=True); (x > 0).sum(); (x == y).sum(); (x > y).float().mean()
x == y; x != y; x < y; x >= 1; x.eq(0.5); x.gt(y); t.isnan(x); t.isfinite(x / 0); t.logical_not(x > 0); (x > 0) & (y > 0)
(x > 0) | (y > 0); (x > 0) ^ (y > 0); ~(x > 0); t.logical_and(x > 0, y > 0)
x.reshape(2, 6); x.reshape(-1); x.reshape((4, 3)); x.view(12); x.view(-1, 2); x.flatten(); t.flatten(x, 0); x.unsqueeze(0)
x.unsqueeze(-1); x[None]; x.reshape(3, 1, 4).squeeze(); x.reshape(3, 1, 4).squeeze(1); x.reshape(3, 1, 4).squeeze(0)
x.transpose(0, 1); x.T; x.t(); x.mT; x.permute(1, 0); x.reshape(3, 2, 2).permute(2, 0, 1); x.reshape(3, 2, 2).movedim(0, -1)
t.transpose(x, 0, 1); x.reshape(3, 2, 2).flatten(1); x.unflatten(1, (2, 2)); x[:1].expand(3, 4); x[:, :1].expand(-1, 5)
x.expand(2, 3, 4); x[0].expand_as(x); x.repeat(2, 1); x.repeat(2, 1, 3); t.tile(x, (1, 2)); x.repeat_interleave(2, dim=1)
x.repeat_interleave(3); x.flip(0); t.flip(x, [0, 1]); x.roll(1, 0); t.roll(x, (1, -1), (0, 1)); x.roll(2); x.contiguous()
t.cat([x, y]); t.cat((x, y), dim=1); t.concat([x, y], -1); t.stack([x, y]); t.stack([x, y], dim=2); t.vstack([x, y[0]])
t.hstack([x, y]); x.split(2); x.split([1, 3], dim=1); x.chunk(2); t.chunk(x, 3, dim=1); x.unbind(0); x.narrow(1, 1, 2); x.select(0, 1)
x[0]; x[-1, 2]; x[:, 1]; x[1:, ::2]; x[..., 0]; x[x > 0]; x[[0, 2]]; x[:, [1, 1, 3]]; x[n[:, 0] % 3]; x[[0, 1, 2], [3, 2, 1]]
x[t.arange(3), n[:, 0]]; x[0, [1, 2]]; x[[0, 2], 1]; x[[0, 2], :, None]; x.reshape(3, 2, 2)[0, :, [1, 0, 1]]
x.reshape(3, 2, 2)[:, 1, [0, 0]]; x[n[0, 0]]; x.reshape(3, 2, 2)[..., 0, [1, 1]]; x[t.tensor([True, False, True])]; x[(x > 0) & (y > 0)]
x.gather(1, n); t.gather(x, 0, n % 3); x.index_select(0, n[0] % 3); t.index_select(x, 1, n[0]); x.masked_select(x > 0)
t.nonzero(x > 0); (x > 0).nonzero(as_tuple=True); x.tril(); x.triu(1); t.tril(t.ones(3, 3)); x[:, :3].diag(); t.diag(x[0])
t.diag(x[0], 1); x.diag(-1); t.einsum("ij,kj->ik", x, y); t.einsum("ij,ij->i", x, y); t.einsum("ij->ji", x); t.einsum("ij->", x)
t.einsum("i,j->ij", x[0], y[1]); t.einsum("bij,bjk->bik", x.reshape(3, 2, 2), y.reshape(3, 2, 2)); t.einsum("ij,jk", x, y.T)
t.einsum("...i,ji->...j", x.reshape(3, 1, 4), y); t.einsum("ij,jk,kl->il", x, y.T, x); t.einsum("bhid,bhjd->bhij", x.reshape(1, 3, 2, 2), y.reshape(1, 3, 2, 2))
x.float(); x.double(); x.to(t.float32); x.half().float(); x.long(); x.int(); (x > 0).float(); x.bool(); x.type_as(y); x.to(y); n.float() * x
n + x; n * 2; n / 2; n // 2; n % 2; x % 1.5; x.detach() // 0.5; n.float().mean(); n.sum(); n.max(); n + 0.5; n > 1; n.bool().sum(); n.prod(1)
n.cumsum(0); n.sum(dtype=t.float32); -n; n.abs(); n ** 2; t.exp(n); t.sqrt(n); n.float().std(); t.sigmoid(n); n.to(t.uint8) + 1
x.clone(); x.detach() * y; x * 2.5 + n; x.new_zeros(2, 3); x.new_ones((2,)); t.zeros_like(x); t.ones_like(n); t.full_like(x, 3)
t.zeros(2, 3); t.zeros((2, 3)); t.ones(3, dtype=t.int64); t.full((2, 2), 7); t.full((2,), 1.5); t.arange(5); t.arange(1, 10, 3)
t.arange(0, 1, 0.25); t.arange(5.0); t.linspace(0, 1, 5); t.eye(3); t.tensor([1, 2]); t.tensor([1.5, 2]); t.tensor([[True, False]])
t.tensor(3); t.tensor(2.5); t.tensor([]); t.tensor([1, 2], dtype=t.float64); t.as_tensor([1.0, 2.0]); t.empty(0, 3); t.tensor([x[0, 0].item(), 1.0])
t.allclose(x, x + 1e-9); t.equal(x, x.clone()); t.isclose(x, y); t.numel(x); t.is_tensor(x); x.numel(); x.dim(); x.ndim; x.size(0); len(x)
x.size(-1); x.is_floating_point(); n.is_floating_point(); x.tolist(); x[0, 0].item(); float(x[0, 0]); int(n[0, 1]); bool(x[0, 0] > 0); x.stride()
x.T.is_contiguous(); [float(v) for v in x[0]]; f"{x.sum():.4f}"; n[0, 1] in [2]; sum([x, y]); 2.0 in x; x.element_size()
t.unique(n); t.bincount(n.flatten()); t.meshgrid(t.arange(2), t.arange(3), indexing="ij"); t.unbind(x, 1); t.t(x); t.squeeze(x[:1]); t.numel(n)
x.new_tensor([1, 2]); x.new_full((2,), 3.0); t.remainder(x, 2); t.floor_divide(n, 2); x.logical_and(y); x.div(y, rounding_mode="floor")
x.unsqueeze(1).matmul(y.unsqueeze(2)); x.reshape(3, 2, 2) @ y.reshape(3, 2, 2); x[0] @ y[0]; x.mean(0) - y.mean(0); ((x - y) ** 2).mean()
(x - x.mean(0)) / (x.std(0) + 1e-5); x.ravel(); x.swapaxes(0, 1); x.view(3, 2, 2).transpose(1, 2).reshape(3, 4); x[0].tolist(); x.sum().item()
x.sum(axis=1); x.mean(axis=0, keepdims=True); x.argmax(axis=1); t.max(x, axis=0); t.cat([x, y], axis=1); t.stack([x, y], axis=0)
t.softmax(x, axis=1); x.std(axis=0); t.norm(x, dim=1); x[0].reshape(1, 4).squeeze(axis=0); x[0].unsqueeze(axis=0)
np.exp(x.detach()); np.array(n)
"""  # the line ends separate as well
EXPRESSIONS = [part.strip() for line in EXPRESSIONS.strip().split("\n") for part in line.split("; ")]  # type: ignore[attr-defined]


def evaluate(expression: str, library: Any, make: Any) -> tuple[Any, list[Any]]:
    """The value of an expression of x, y (leaves) and n (integers), and the leaves' gradients."""
    x, y = make(X.copy()).requires_grad_(True), make(Y.copy()).requires_grad_(True)
    value = eval(expression, {"t": library, "x": x, "y": y, "n": make(N.copy()), "np": np})
    total: Any = None
    for part in value if isinstance(value, tuple | list) else (value,):
        if getattr(part, "requires_grad", False):
            scale = library.arange(part.numel(), dtype=part.dtype).reshape(part.shape) * 0.1 + 1.0
            total = (part * scale).sum() + (0 if total is None else total)
    if total is not None:
        total.backward()
    return value, [None if v.grad is None else np.asarray(v.grad) for v in (x, y)]


def same(ours: Any, theirs: Any) -> None:
    """Equal values, shapes and dtypes, through tuples and lists."""
    if isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    elif isinstance(theirs, torch.Tensor):
        assert isinstance(ours, Tensor)
        expected = theirs.detach().numpy()
        assert ours.shape == expected.shape
        assert ours.dtype == expected.dtype
        assert ours.requires_grad == theirs.requires_grad
        loose = 1e-6 if expected.dtype == np.float32 else 1e-3 if expected.dtype == np.float16 else 1e-10
        np.testing.assert_allclose(ours.array, expected, rtol=loose, atol=loose)
    elif isinstance(theirs, np.ndarray):
        np.testing.assert_allclose(np.asarray(ours), theirs)
    else:
        assert type(ours) is type(theirs)
        assert ours == theirs


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression(expression: str) -> None:
    theirs, their_gradients = evaluate(expression, torch, torch.tensor)
    ours, our_gradients = evaluate(expression, phalanx, phalanx.tensor)
    same(ours, theirs)
    for a, b in zip(our_gradients, their_gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


@pytest.mark.parametrize("shapes", [((2,), (2,)), ((2,), ()), ((), (2,)), ((), ())], ids=str)
@pytest.mark.parametrize("a,b", list(itertools.product(DTYPES, DTYPES)), ids=str)
def test_two_dtypes_meet_as_in_pytorch(a: str, b: str, shapes: Any) -> None:
    arrays = [np.ones(shape, dtype) for shape, dtype in zip(shapes, (a, b), strict=True)]
    ours = [phalanx.tensor(x) for x in arrays]
    theirs = [torch.tensor(x) for x in arrays]
    for operate in (lambda p, q: p * q, lambda p, q: p / q):
        expected = operate(*theirs)
        assert operate(*ours).dtype == expected.numpy().dtype


@pytest.mark.parametrize("number", [True, 2, 2.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_number_meets_a_dtype_as_in_pytorch(dtype: str, number: Any) -> None:
    for shape in ((2,), ()):
        ours, theirs = phalanx.tensor(np.ones(shape, dtype)), torch.tensor(np.ones(shape, dtype))
        for operate in (
            lambda x, n: x * n,
            lambda x, n: n * x,
            lambda x, n: x / n,
            lambda x, n: n / x,
            lambda x, n: x + n,
            lambda x, n: x == n,
        ):
            assert operate(ours, number).dtype == operate(theirs, number).numpy().dtype
