"""Expressions of everyday tensor code that either library (``t``) evaluates: of x and y (leaves) and n (integers).

Nothing here needs PyTorch: the tables serve comparisons with it and comparisons between devices.
"""

from __future__ import annotations

from typing import Any

import numpy as np

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

_MORE = """
x.sinh(); t.cosh(x); t.asin(x * 0.3); t.arccos(x * 0.3); t.asinh(x); t.acosh(x * x + 1.5); t.atanh(x * 0.3); t.arctanh(x * 0.3)
t.exp2(x); t.sinc(x); t.erfc(x); t.erfinv(x * 0.3); t.lgamma(x.abs()); t.frac(x); t.rad2deg(x); x.deg2rad(); t.logit(x.sigmoid())
t.logit(x.sigmoid(), eps=0.3); t.nan_to_num(x / (x - 0.5)); t.nan_to_num(x.log(), nan=2.0, posinf=1.0, neginf=-1.0); +x; t.positive(x)
t.round(x, decimals=1); x.round(decimals=2); (x * 100).round(decimals=-1); t.fix(x); t.arctan(x); t.isposinf(1 / (x - x))
t.isneginf(-1 / (x - x)); t.signbit(x); t.signbit(n - 1); t.sinh(n); n.round(); t.nan_to_num(n); t.clamp_min(x, 0.2); t.clamp_max(x, y)
t.atan2(x, y); x.arctan2(y); t.hypot(x, y); t.logaddexp(x, y); t.logaddexp2(x, y); t.xlogy(x, y.abs()); t.xlogy(2.0, y.abs()); x.xlogy(3)
t.fmod(x, y); x.fmod(0.7); t.fmod(n, 2); t.fmod(-n, 2); t.copysign(x, y); x.copysign(-1.0); t.fmax(x, y); t.fmin(x, y); t.fmax(n, n.T[:3, :1])
t.heaviside(x.detach(), y.detach()); t.gcd(n, n + 2); t.lcm(n, n + 1); t.bitwise_and(n, 2); n.bitwise_or(4); n ^ 1; t.bitwise_not(n); ~n
n << 2; n >> 1; t.bitwise_left_shift(n, n); t.ldexp(x, n); t.float_power(x.abs(), 0.5); t.float_power(n, 2); t.addcmul(x, y, y, value=0.5)
t.addcdiv(x, y, y.abs() + 1, value=2); x.addcmul(y, y); t.rsub(x, 3); x.dist(y); x.dist(y, 1); x.greater(y); t.less_equal(x, y)
t.not_equal(n, 2); t.atan2(n, n + 1); t.nextafter(x.detach(), y.detach())
t.aminmax(x); t.aminmax(x, dim=1); t.aminmax(x, dim=0, keepdim=True)[1]; t.nansum(x.log()); t.nanmean(x.log(), 1); t.nanmean(x, dim=(0, 1), keepdim=True)
t.var_mean(x, 1); t.std_mean(x, dim=0, keepdim=True); t.var_mean(x, dim=1, correction=0); t.count_nonzero(n); t.count_nonzero(n, dim=1); t.count_nonzero(x, dim=(0, 1))
(x * 0 + 1).std(); (x * 0 + 1).std(0); x.detach().norm(p=0); t.norm(x, p=0.5, dim=1); t.norm(x, 3); x.norm(p=float("-inf"), dim=1); x.norm(1, 1); t.norm(x - x); t.norm(x - x, 3, 1)
t.norm(x, p=2.5, dim=(0, 1)); t.norm(x, dim=0, keepdim=True); t.norm(x - x, 1.5); x.norm(p="fro")
t.cumprod(x, 1); x.cumprod(0); t.cummax(x, 1); t.cummin(n, 0); x.logcumsumexp(0); t.diff(x); t.diff(x, n=2, dim=1); t.diff(n, dim=0); t.diff(x > 0)
t.diff(x, prepend=y[:, :1], append=y[:, :2]); t.diff(x, n=9); t.trapezoid(x); t.trapezoid(x, dx=0.5, dim=0); t.trapezoid(x, y); t.trapezoid(x, t.arange(4.0))
t.cumprod(n, 1); t.cumsum(x > 0, 0); x.cummax(0)[1]
t.msort(x); t.kthvalue(x, 2); x.kthvalue(3, 0, keepdim=True); t.median(x); t.median(x, 1); x.median(0, keepdim=True)[0]; t.median(n); n.median(1)[0]; t.nanmedian(x.log())
t.median(x.log()); t.median(x.log(), 1); t.nanmedian(x.log(), 1); t.nanmedian(x.log(), dim=0, keepdim=True)[0]; t.mode(n, 1); t.mode(n, 0); t.mode(n.flatten())[0]
t.median(t.cat([x, x])); t.quantile(x, 0.3); t.quantile(x, 0.5, 1); t.quantile(x, t.tensor([0.1, 0.6], dtype=t.float64), 0, keepdim=True); t.quantile(x, 0.3, 1, True, interpolation="nearest")
t.quantile(x, 0.3, 1, interpolation="lower"); t.quantile(x, 0.3, 0, interpolation="higher"); t.quantile(x, 0.3, interpolation="midpoint"); t.nanquantile(x.log(), 0.4, 1)
t.quantile(x.log(), 0.4, 1); t.nanquantile(x.log(), t.tensor([0.0, 1.0], dtype=t.float64)); t.quantile(x, t.tensor([0.25], dtype=t.float64), keepdim=True)
t.searchsorted(t.tensor([1, 3, 5]), n); t.searchsorted(t.tensor([1, 1, 2]), n, right=True); t.searchsorted(x.detach().sort(1)[0], y.detach(), side="right")
t.searchsorted(t.tensor([1.0, 2.0]), t.tensor(1.5)); t.bucketize(n, t.tensor([1, 2])); t.bucketize(n, t.tensor([1, 2]), right=True, out_int32=True)
t.searchsorted(t.tensor([5, 1, 3]), n, sorter=t.tensor([1, 2, 0])); t.isin(n, t.tensor([1, 3])); t.isin(n, t.tensor([1, 3]), invert=True); t.histc(x.detach(), 5); t.histc(x.detach(), 4, -1, 1)
t.bincount(n.flatten(), minlength=6); t.bincount(n[0], x[0].detach()); t.unique(n, return_counts=True); t.unique(n, return_inverse=True); t.unique(n % 2, dim=0)
t.unique(n % 2, dim=1, return_inverse=True, return_counts=True); t.unique_consecutive(n.flatten(), return_inverse=True, return_counts=True); t.unique_consecutive(n); t.unique_consecutive(n % 1, dim=0)
n.unique(); t.unique_consecutive(t.tensor([1, 1, 2]), return_inverse=True)
t.index_put(x, (n[:, 0] % 3, n[:, 1]), y[0, :3]); x.index_put((n[:, 0] % 3,), y[:1], accumulate=True); t.index_put(x, (x > 0,), y[0, 0]); t.index_add(x, 1, n[0], y)
x.index_add(0, n[0] % 3, y.repeat(2, 1)[:4], alpha=0.5); t.index_copy(x, 1, t.tensor([3, 0]), y[:, :2]); t.index_fill(x, 0, t.tensor([0, 2]), 5.0); x.index_fill(1, t.tensor([1]), y[0, 0])
t.scatter(x.detach(), 1, n[:, :1], y.detach()); t.scatter(x, 1, n, y); x.scatter(0, n[:2] % 3, 2.5); t.scatter(x.detach(), 1, n[:, :1], y.detach(), reduce="add"); t.scatter_add(x, 1, n, y); t.scatter_add(x, 0, n[:1] % 3, y[:1])
t.scatter_reduce(x, 1, n, y, "sum"); t.scatter_reduce(x, 1, n, y, "mean"); t.scatter_reduce(x, 1, n, y, "prod"); t.scatter_reduce(x, 1, n, y, "amax"); t.scatter_reduce(x, 1, n, y, "amin")
t.scatter_reduce(x, 1, n, y, "sum", include_self=False); t.scatter_reduce(x, 1, n, y, "mean", include_self=False); t.scatter_reduce(x, 1, n, y, "prod", include_self=False)
t.scatter_reduce(x, 1, n, y * 3, "amax", include_self=False); t.scatter_reduce(x, 0, n % 3, y, "amin", include_self=False); t.scatter_reduce(n, 1, n, n, "mean"); t.scatter_reduce(n, 1, n, -n, "amax", include_self=False)
t.masked_scatter(x, x > 0, y); x.masked_scatter(t.tensor([True, False, True, False]), y); t.take(x, n); x.take(n[0]); t.take_along_dim(x, n, 1); t.take_along_dim(x, x.argsort(1), dim=1)
t.take_along_dim(x, n[:1] % 3, 0); t.take_along_dim(x, n); x.put(n[0] * 2, y[0]); t.Tensor.put(x, n, y, accumulate=True); t.argwhere(n); t.select_scatter(x, y[0], 0, 1)
t.slice_scatter(x, y[:1], 0, 1, 2); t.slice_scatter(x, y[:, :2], dim=1, start=0, step=2); t.diagonal_scatter(x, y[0, :3]); t.diagonal_scatter(x, y[0, :3], 1)
t.tensor_split(x, 3, 1); t.tensor_split(x, (1, 3), 1); t.hsplit(x, 2); t.vsplit(x, [1]); t.dsplit(x.reshape(3, 2, 2), 2); t.hsplit(x[0], 2); x.unfold(1, 2, 1); x.unfold(0, 2, 1); x.unfold(1, 3, 2)
t.atleast_1d(t.tensor(1.0)); t.atleast_2d(x[0]); t.atleast_3d(x); t.atleast_3d(x[0], y); t.block_diag(x[:2], y[0], y[:, :1]); t.meshgrid(x[0], y[1], indexing="xy"); t.meshgrid(x[0], y[0, :2], x[0, :1], indexing="ij")
t.cartesian_prod(x[0], y[0, :2]); t.combinations(x[0]); t.combinations(n[0], 3); t.combinations(n[0], with_replacement=True); t.fliplr(x); t.flipud(x); t.rot90(x); t.rot90(x, 2); t.rot90(x, 3); t.rot90(x, -1, (1, 0)); t.rot90(x, 4)
t.tile(x, (2,)); t.tile(x, (2, 1, 2)); x.tile(2, 1); t.diagonal(x); t.diagonal(x, 1); x.reshape(3, 2, 2).diagonal(0, 1, 2); t.diag_embed(x); t.diag_embed(x, 1); t.diag_embed(x, -1, 0, 2); t.diagflat(x, -1)
t.trace(x); t.tril_indices(3, 4); t.triu_indices(3, 4, 1); t.tril_indices(2, 3, -1); t.dstack([x, y]); t.column_stack([x[:, 0], y]); t.row_stack([x, y[0]]); t.moveaxis(x, 0, 1); x.adjoint(); x.mH; x.T
t.addmm(x[:, :3], x, y.T); t.addmm(x[0, :3], x, y.T, beta=0); t.addmv(x[0, :3], x, y[0], alpha=2); t.addr(x, x[:, 0], y[0]); t.baddbmm(x.reshape(3, 2, 2), x.reshape(3, 2, 2), y.reshape(3, 2, 2), beta=2)
t.addbmm(x[:2, :2], x.reshape(3, 2, 2), y.reshape(3, 2, 2)); t.inner(x, y); t.inner(x[0], y[0]); t.vdot(x[0], y[0]); t.tensordot(x, y.T, 1); t.tensordot(x, y, 2); t.tensordot(x.reshape(3, 2, 2), y.reshape(3, 2, 2), ([0, 1], [0, 2]))
t.tensordot(x[0], y[0], 0); t.kron(x, y[:2, :2]); t.kron(x[0], y); t.cross(x.T, y.T, dim=1); t.cross(x, y, dim=0); t.matrix_power(x[:, :3], 3); t.matrix_power(x[:, :3].detach(), 0); t.matrix_power(x[:, :3], -1); t.chain_matmul(x, y.T, x)
t.cdist(x, y); t.cdist(x, y, p=1.0); t.cdist(x, y, p=3.0); t.cdist(x, y * 1.1, p=float("inf")); t.cdist(x, x); t.pdist(x); t.cov(x); t.cov(x[0]); t.cov(x, correction=0); t.corrcoef(x); t.outer(x[0], y[0]); t.ger(x[0], y[0])
t.linalg.inv(x[:, :3]); t.inverse(x[:, 1:]); t.linalg.det(x[:, :3]); t.logdet(x @ x.T); t.slogdet(x[:, :3])[1]; t.slogdet(x[:, :3].detach()); t.linalg.solve(x[:, :3], y); t.linalg.solve(x[:, :3], y[:, 0]); t.linalg.solve(x[:, :3], y.T, left=False)
t.linalg.cholesky(x @ x.T); t.linalg.cholesky(x @ x.T, upper=True); t.linalg.eigvalsh(x @ x.T); t.linalg.svdvals(x); t.linalg.pinv(x); t.linalg.matrix_rank(x); t.linalg.norm(x); t.linalg.norm(x, dim=1); t.linalg.norm(x, 1)
t.linalg.norm(x, "nuc"); t.linalg.norm(x, 2); t.linalg.norm(x, -2); t.linalg.norm(x, float("inf")); t.linalg.norm(x, -1); t.linalg.norm(x[0], 3); t.linalg.norm(x, 3, dim=0); t.linalg.norm(x, "fro", dim=(0, 1), keepdim=True); t.linalg.vector_norm(x, 3, 1)
t.linalg.matrix_norm(x.reshape(3, 2, 2)); t.linalg.matrix_norm(x.reshape(3, 2, 2), 2, dim=(0, 2), keepdim=True); t.linalg.vecdot(x, y); t.linalg.multi_dot([x, y.T, x]); t.linalg.multi_dot([x[0], y.T, x[:, 0]]); t.linalg.cond(x[:, :3]); t.linalg.cond(x[:, :3].detach(), 1)
t.linalg.cross(x.T, y.T); t.linalg.diagonal(x); t.linalg.matmul(x, y.T); t.pinverse(x); t.linalg.matrix_power(x[:, :3], 2); t.linalg.lstsq(x.T.detach(), y.T.detach())[0]
t.einsum("ii->i", x[:, :3]); t.einsum("ii", x[:, :3]); t.einsum("iij->ij", x.reshape(3, 2, 2)[:2]); t.einsum("iji->j", x.reshape(3, 2, 2)[:2]); t.einsum("ii,jj->ij", x[:, :3], y[:, :3]); t.einsum("bii->b", x.reshape(3, 2, 2))
t.einsum(x, [0, 1], y, [2, 1], [0, 2]); t.einsum(x, [0, 1], y, [0, 1]); t.einsum(x.reshape(3, 2, 2), [..., 0, 1], [..., 1, 0]); t.einsum("i...->...", x); t.einsum("ij,kj,lj->ikl", x, y, x); t.einsum("...ii->...i", x.reshape(3, 2, 2))
t.broadcast_shapes((2, 1), (3,)); t.broadcast_shapes(3, (2, 3)); t.broadcast_tensors(x, y[:1], x[0]); t.unravel_index(n, (2, 3)); t.vander(x[0].detach()); t.vander(x[0].detach(), 3, increasing=True)
t.cumulative_trapezoid(x); t.cumulative_trapezoid(x, y, dim=0); t.trapz(x, dx=2.0); t.logspace(0, 2, 5); t.logspace(-1, 1, 3, base=2.0); t.scalar_tensor(2); t.asarray([1.0, 2.0])
x.short(); n.byte(); n.char(); x.arctan(); x.fix(); x.split_with_sizes([1, 3], 1); x.sum_to_size(1, 4); x.sum_to_size(4); x.sum_to_size(3, 4); x.sum_to_size(1); x.is_complex(); n.is_signed(); n.byte().is_signed()
x[0, 0].is_nonzero(); x.is_same_size(y); x.is_same_size(y[0]); float(t.finfo(t.float32).eps); float(t.finfo(t.float64).min); t.iinfo(t.int16).max; t.pi; t.inf; t.e; t.newaxis; x[:, t.newaxis]; t.zeros(2, dtype=t.promote_types(t.int64, t.float32))
t.zeros(2, dtype=t.result_type(n, 1.5)); t.zeros(2, dtype=t.result_type(n, x)); t.zeros(2, dtype=t.promote_types(t.int32, t.uint8))
t.special.expit(x); t.special.entr(x); t.special.ndtr(x); t.special.ndtri(x.sigmoid()); t.special.xlog1py(x, y.abs()); t.special.gammaln(x.abs()); t.special.psi(x.abs().detach()); t.special.logit(x.sigmoid())
t.zeros(size=(2, 3)); t.ones(size=(2,)); t.empty(size=(0, 2)); t.randn(size=(2, 3)).shape == (2, 3); t.rand(size=(2,)).shape == (2,); x.new_zeros(2, dtype=t.int64); x.new_ones((2, 2), dtype=t.float32, device="cpu")
x.new_full((2,), 3, dtype=t.int32); x.new_full((2,), 3); x.new_tensor([1, 2], dtype=t.int64); x.new_zeros(2, requires_grad=True) * 1; x.new_empty(0, 3); n.new_ones(2); n.prod(1, dtype=t.float64); x.cumsum(1, dtype=t.float32)
t.cumprod(n, 1, dtype=t.float64); t.nansum(x, dtype=t.float32); t.prod(x, dtype=t.float32)
t.mm(input=x, mat2=y.T); t.bmm(x.reshape(3, 2, 2), mat2=y.reshape(3, 2, 2)); t.mv(x, vec=y[0]); t.dot(x[0], tensor=y[0]); t.reshape(x, shape=(2, 6)); t.permute(x, dims=(1, 0)); t.split(x, split_size_or_sections=2); t.sum(input=x, dim=1)
t.scatter(x, 1, n[:, :1], value=2.0); x.scatter(1, n[:, :1], 3.0); t.nanmean(x.log().float(), dtype=t.float64); x.mm(y.T); x.mv(y[0]); x[0].dot(y[0])
"""  # the line ends separate as well
# what is the same in both libraries but for a kind of argument or result that ours refuses or names otherwise
DIFFERS = {"t.linalg.lstsq(x.T.detach(), y.T.detach())[0]": "t.linalg.lstsq(x.T.detach(), y.T.detach())"}
FUNCTIONS = [part.strip() for line in _MORE.strip().split("\n") for part in line.split("; ")]


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
    return value, [None if v.grad is None else np.asarray(v.grad.cpu()) for v in (x, y)]
