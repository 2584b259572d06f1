"""What tutorials of PyTorch type, in short: each piece runs on either library and gives one finite number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn as phalanx_nn
from phalanx import optim as phalanx_optim

PIECES: list[Any] = []


def _piece(function: Any) -> Any:
    PIECES.append(function)
    return function


@_piece
def positional_encoding(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    d = 8
    pe = torch.zeros(10, d)
    pos = torch.arange(0, 10, dtype=torch.float).unsqueeze(1)
    div = torch.exp(torch.arange(0, d, 2).float() * (-math.log(10000.0) / d))
    pe[:, 0::2] = torch.sin(pos * div)
    pe[:, 1::2] = torch.cos(pos * div)
    pe = pe.unsqueeze(0).transpose(0, 1)
    return pe.sum()


@_piece
def variational_autoencoder(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.rand(4, 10)
    mu = torch.randn(4, 3, requires_grad=True)
    lv = torch.randn(4, 3, requires_grad=True)
    z = mu + torch.randn_like(lv) * torch.exp(0.5 * lv)
    y = torch.sigmoid(z @ torch.ones(3, 10))
    loss = F.binary_cross_entropy(y, x, reduction="sum") - 0.5 * torch.sum(1 + lv - mu.pow(2) - lv.exp())
    loss.backward()
    return loss


@_piece
def causal_mask_by_tril(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    T = 5
    m = torch.tril(torch.ones(T, T)).view(1, 1, T, T)
    a = torch.randn(2, 2, T, T).masked_fill(m[:, :, :T, :T] == 0, float("-inf"))
    return F.softmax(a, dim=-1).sum()


@_piece
def causal_mask_by_triu(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    m = torch.triu(torch.full((5, 5), float("-inf")), diagonal=1)
    return torch.softmax(torch.randn(5, 5) + m, -1).sum()


@_piece
def causal_mask_by_finfo(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    m = torch.ones(5, 5, dtype=torch.bool).tril()
    b = torch.zeros(5, 5).masked_fill_(m.logical_not(), torch.finfo(torch.float32).min)
    return b.softmax(-1).sum()


@_piece
def heads_of_attention(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(2, 5, 12)
    q, k, v = nn.Linear(12, 36)(x).split(12, dim=2)
    q = q.view(2, 5, 3, 4).transpose(1, 2)
    k = k.view(2, 5, 3, 4).transpose(1, 2)
    v = v.view(2, 5, 3, 4).transpose(1, 2)
    y = (q @ k.transpose(-2, -1) * (1.0 / math.sqrt(k.size(-1)))).softmax(-1) @ v
    return y.transpose(1, 2).contiguous().view(2, 5, 12).sum()


@_piece
def sampling_of_the_likeliest(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    logits = torch.randn(1, 20) / 0.8
    v, _ = torch.topk(logits, min(5, logits.size(-1)))
    logits[logits < v[:, [-1]]] = -float("Inf")
    p = F.softmax(logits, dim=-1)
    i = torch.multinomial(p, num_samples=1)
    return torch.cat((torch.zeros(1, 3, dtype=torch.long), i), dim=1).float().sum()


@_piece
def q_learning(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    q = torch.randn(4, 3, requires_grad=True)
    a = torch.tensor([[0], [1], [2], [0]])
    s = q.gather(1, a)
    nxt = torch.zeros(4)
    mask = torch.tensor([True, False, True, True])
    nxt[mask] = q.detach()[mask].max(1).values
    loss = F.smooth_l1_loss(s, (nxt * 0.9 + 1).unsqueeze(1))
    loss.backward()
    return loss


@_piece
def gram_matrix(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(2, 3, 4, 4)
    a, b, c, d = x.size()
    f = x.view(a * b, c * d)
    return torch.mm(f, f.t()).div(a * b * c * d).sum()


@_piece
def k_means(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(20, 2)
    c = x[:3].clone()
    d = torch.cdist(x, c)
    a = d.argmin(dim=1)
    s = torch.zeros_like(c)
    s.scatter_add_(0, a.unsqueeze(1).expand(-1, 2), x)
    n = torch.bincount(a, minlength=3).clamp(min=1)
    return (s / n.unsqueeze(1)).sum()


@_piece
def adversarial_labels(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    real = torch.full((4,), 1.0, dtype=torch.float)
    o = torch.rand(4, requires_grad=True)
    loss = nn.BCELoss()(o, real)
    loss.backward()
    return loss


@_piece
def accuracy_in_two_ways(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    o = torch.randn(8, 5)
    y = torch.randint(0, 5, (8,))
    p = o.argmax(dim=1, keepdim=True)
    c = p.eq(y.view_as(p)).sum().item()
    _, pred = torch.max(o.data, 1)
    return (pred == y).sum().item() * 1.0 + c


@_piece
def accuracy_of_five(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    o = torch.randn(8, 5)
    y = torch.randint(0, 5, (8,))
    _, p = o.topk(3, 1, True, True)
    p = p.t()
    c = p.eq(y.view(1, -1).expand_as(p))
    return c[:3].reshape(-1).float().sum(0, keepdim=True)


@_piece
def recurrence_by_hand(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    h = torch.zeros(1, 6)
    i2h = nn.Linear(3 + 6, 6)
    for k in range(3):
        x = torch.zeros(1, 3)
        x[0][k] = 1
        h = torch.tanh(i2h(torch.cat((x, h), 1)))
    return h.sum()


@_piece
def weights_along_a_ray(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    a = torch.rand(4, 6)
    w = a * torch.cumprod(torch.cat([torch.ones(4, 1), 1.0 - a + 1e-10], -1), -1)[:, :-1]
    return w.sum()


@_piece
def padded_sequences(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    s = [torch.ones(3, 2), torch.ones(2, 2)]
    p = nn.utils.rnn.pad_sequence(s, batch_first=True)
    return p.sum()


@_piece
def clipped_step(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    m = nn.Linear(3, 1)
    o = optim.SGD(m.parameters(), lr=0.1, momentum=0.9)
    loss = m(torch.ones(2, 3)).mean()
    o.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(m.parameters(), 1.0)
    o.step()
    return loss


@_piece
def descent_by_hand(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    w = torch.randn(3, requires_grad=True)
    loss = (w * w).sum()
    loss.backward()
    with torch.no_grad():
        w -= 0.1 * w.grad
        w.grad.zero_()
    return w.sum()


@_piece
def one_hot_in_three_ways(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    y = torch.tensor([1, 0, 2])
    return (
        torch.zeros(3, 3).scatter_(1, y.unsqueeze(1), 1).sum() + F.one_hot(y, 3).float().sum() + torch.eye(3)[y].sum()
    )


@_piece
def scaled_pictures(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randint(0, 255, (10, 4), dtype=torch.uint8)
    f = x.float() / 255
    m, s = (f.mean(0), f.std(0))
    return ((f - m) / s).sum()


@_piece
def masked_mean(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    m = mask.unsqueeze(-1).expand(x.size()).float()
    return ((x * m).sum(1) / torch.clamp(m.sum(1), min=1e-09)).sum()


@_piece
def contrastive_loss(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    a = F.normalize(torch.randn(4, 8), dim=1)
    sim = a @ a.T / 0.1
    eye = torch.eye(4, dtype=torch.bool)
    sim = sim[~eye].view(4, -1)
    return torch.logsumexp(sim, 1).mean()


@_piece
def moving_average(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    a, b = (nn.Linear(2, 2), nn.Linear(2, 2))
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        p.data.mul_(0.9).add_(q.data, alpha=0.1)
    return a.weight.sum()


@_piece
def grid_of_coordinates(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    g = torch.meshgrid(torch.linspace(-1, 1, 3), torch.linspace(-1, 1, 4), indexing="ij")
    return torch.stack(g, -1).flatten(0, 1).sum()


@_piece
def rotary_encoding(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    d = 4
    f = 1.0 / 10000 ** (torch.arange(0, d, 2)[: d // 2].float() / d)
    fr = torch.outer(torch.arange(5), f)
    emb = torch.cat((fr, fr), -1)
    x = torch.randn(2, 5, d)
    x1, x2 = (x[..., : d // 2], x[..., d // 2 :])
    return (x * emb.cos() + torch.cat((-x2, x1), -1) * emb.sin()).sum()


@_piece
def gradient_penalty(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(3, 2, requires_grad=True)
    y = (x**2).sum()
    g = torch.autograd.grad(outputs=y, inputs=x, grad_outputs=torch.ones_like(y))[0]
    return g.norm(2, dim=1).mean()


@_piece
def confusion_matrix(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    p = torch.tensor([0, 1, 1, 2])
    y = torch.tensor([0, 1, 2, 2])
    cm = torch.zeros(3, 3, dtype=torch.int64)
    for a, b in zip(y, p, strict=True):
        cm[a, b] += 1
    return cm.diag().float().sum() / cm.sum() + (cm.float() / cm.sum(1, keepdim=True)).sum()


@_piece
def mixup(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(6, 2)
    i = torch.randperm(x.size(0))
    lam = 0.3
    return (lam * x + (1 - lam) * x[i, :]).sum()


@_piece
def device_and_seed(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    dev = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(1)
    torch.cuda.manual_seed_all(1)
    x = torch.randn(2, device=dev)
    return x.to(dev, non_blocking=True).sum()


@_piece
def shapes_and_dtypes(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(2, 3, 4)
    b, *_ = x.shape
    assert x.size() == torch.Size([2, 3, 4])
    assert isinstance(x.dtype, torch.dtype)
    return x.reshape(b, -1).sum()


@_piece
def where_in_three_ways(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(5)
    i = torch.where(x > 0)[0]
    return x[i].sum() + torch.where(x > 0, x, torch.zeros_like(x)).sum() + torch.where(x > 0, x, 0.0).sum()


@_piece
def numbers_of_tensors(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.tensor(3.5)
    return (
        float(x)
        + int(x)
        + x.item()
        + round(x.item())
        + max(torch.tensor([1.0, 2.0])).item()
        + sum(torch.tensor([1.0, 2.0]))
    )


@_piece
def assignment_by_position(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.zeros(3, 3)
    x[1] = torch.ones(3)
    x[:, 2] = 5
    x[x > 4] = 0
    x[[0, 2], [1, 1]] = 7
    x += 1
    x *= 2
    return x.sum()


@_piece
def statistics(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(4, 3)
    return (
        x.var(dim=0, unbiased=False).sum()
        + x.std(0, keepdim=True).sum()
        + x.max(dim=1)[0].sum()
        + x.min(1, keepdim=True).values.sum()
        + torch.quantile(x, 0.5)
        + x.median()
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.__name__)
def test_runs_on_phalanx(piece: Any) -> None:
    result = piece(phalanx, phalanx_nn, phalanx_nn.functional, phalanx_optim)
    assert np.isfinite(float(result))


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.__name__)
def test_is_pytorch(piece: Any) -> None:
    """The pieces are right: PyTorch runs them."""
    torch = pytest.importorskip("torch")
    assert np.isfinite(float(piece(torch, torch.nn, torch.nn.functional, torch.optim)))
