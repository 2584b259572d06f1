"""What tutorials of PyTorch type around models, in short: each piece runs on either library and gives one finite number."""

from __future__ import annotations

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
def a_buffer_and_an_old_parameter(torch: Any, nn: Any, F: Any, optim: Any) -> Any:

    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("pe", torch.zeros(3))
            self.w = nn.Parameter(torch.Tensor(3))
            nn.init.uniform_(self.w)

        def forward(self, x):
            return x + self.pe + self.w

    m = M()
    return m(torch.ones(2, 3)).sum()


@_piece
def initial_values_by_apply(torch: Any, nn: Any, F: Any, optim: Any) -> Any:

    def w(m):
        c = m.__class__.__name__
        if c.find("Conv") != -1:
            nn.init.normal_(m.weight.data, 0.0, 0.02)
        elif isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            m.bias.data.fill_(0.01)

    n = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    n.apply(w)
    return n(torch.ones(1, 1, 4, 4)).sum()


@_piece
def count_of_parameters(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    m = nn.Linear(3, 2)
    return sum(p.numel() for p in m.parameters() if p.requires_grad)


@_piece
def inception(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(2, 3, 8, 8)
    return torch.cat([F.relu(nn.Conv2d(3, 2, 1)(x)), F.max_pool2d(x, 3, stride=1, padding=1)], 1).sum()


@_piece
def residual(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(2, 4, 6, 6)
    out = nn.BatchNorm2d(4)(nn.Conv2d(4, 4, 3, padding=1, bias=False)(x))
    out += x
    return F.relu(out, inplace=True).sum()


@_piece
def squeeze_excite(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(2, 4, 5, 5)
    b, c, _, _ = x.size()
    y = nn.AdaptiveAvgPool2d(1)(x).view(b, c)
    y = torch.sigmoid(nn.Linear(c, c)(y)).view(b, c, 1, 1)
    return (x * y.expand_as(x)).sum()


@_piece
def upsample(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    return F.interpolate(torch.randn(1, 2, 4, 4), scale_factor=2, mode="bilinear", align_corners=False).sum()


@_piece
def embedding_bag(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    return nn.EmbeddingBag(10, 3)(torch.tensor([1, 2, 4]), torch.tensor([0, 2])).sum()


@_piece
def recurrent_net(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    net = nn.LSTM(3, 4, 2, batch_first=True)
    h = torch.zeros(2, 5, 4)
    c = torch.zeros(2, 5, 4)
    o, (h, c) = net(torch.randn(5, 7, 3), (h, c))
    return o[:, -1, :].sum() + h[-1].sum()


@_piece
def schedule(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    m = nn.Linear(2, 1)
    o = optim.Adam(m.parameters(), lr=0.1)
    s = optim.lr_scheduler.StepLR(o, step_size=2, gamma=0.1)
    for _ in range(3):
        o.zero_grad()
        m(torch.ones(1, 2)).sum().backward()
        o.step()
        s.step()
    return o.param_groups[0]["lr"]


@_piece
def cross_entropy_of_pictures(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    return F.cross_entropy(torch.randn(2, 5, 3, 3), torch.randint(0, 5, (2, 3, 3)))


@_piece
def dice(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    p = torch.sigmoid(torch.randn(2, 1, 4, 4))
    y = (torch.rand(2, 1, 4, 4) > 0.5).float()
    i = (p * y).sum(dim=(1, 2, 3))
    return 1 - ((2 * i + 1) / (p.sum((1, 2, 3)) + y.sum((1, 2, 3)) + 1)).mean()


@_piece
def focal(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    loss = F.cross_entropy(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), reduction="none")
    pt = torch.exp(-loss)
    return ((1 - pt) ** 2 * loss).mean()


@_piece
def triplet(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    a, p, n = (torch.randn(3, 4) for _ in range(3))
    return nn.TripletMarginLoss(margin=1.0)(a, p, n) + F.pairwise_distance(a, p).sum() + F.cosine_similarity(a, n).sum()


@_piece
def norms_of_parameters(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    m = nn.Linear(2, 1)
    return sum(torch.norm(p, 2) ** 2 for p in m.parameters()) * 0.001 + sum(p.abs().sum() for p in m.parameters())


@_piece
def state_dict(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    m = nn.Linear(2, 1)
    m2 = nn.Linear(2, 1)
    m2.load_state_dict(m.state_dict())
    return (m2.weight - m.weight).abs().sum()


@_piece
def hooks(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    got = []
    m = nn.Linear(2, 1)
    h = m.register_forward_hook(lambda mod, i, o: got.append(o.shape))
    m(torch.ones(1, 2))
    h.remove()
    return len(got)


@_piece
def freeze(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    m = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    for p in m[0].parameters():
        p.requires_grad = False
    o = optim.SGD(filter(lambda p: p.requires_grad, m.parameters()), lr=0.1)
    m(torch.ones(1, 2)).sum().backward()
    o.step()
    return m[1].weight.grad.sum()


@_piece
def split_data(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    D = torch.utils.data
    ds = D.TensorDataset(torch.randn(10, 2), torch.arange(10))
    a, _ = D.random_split(ds, [7, 3], generator=torch.Generator().manual_seed(42))
    n = 0
    for x, _ in D.DataLoader(a, batch_size=4, shuffle=True):
        n += len(x)
    return n


@_piece
def data_set_of_ones_own(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    D = torch.utils.data

    class S(D.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            return (torch.tensor([float(i)]), i % 2)

    n = 0.0
    for x, y in D.DataLoader(S(), batch_size=2):
        n += x.sum().item() + y.sum().item()
    return n


@_piece
def beam_search(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    lp = F.log_softmax(torch.randn(3, 7), -1)
    _, i = (torch.zeros(3, 1) + lp).view(-1).topk(3)
    return (i // 7).float().sum() + (i % 7).float().sum() + torch.div(i, 7, rounding_mode="floor").float().sum()


@_piece
def penalty_on_gradients(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    r, f = (torch.randn(4, 3), torch.randn(4, 3))
    al = torch.rand(4, 1)
    x = (al * r + (1 - al) * f).requires_grad_(True)
    o = nn.Linear(3, 1)(x)
    g = torch.autograd.grad(outputs=o, inputs=x, grad_outputs=torch.ones(o.size()), retain_graph=True)[0]
    return ((g.norm(2, dim=1) - 1) ** 2).mean()


@_piece
def gumbel(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    return F.gumbel_softmax(torch.randn(3, 4), tau=1.0, hard=True).sum()


@_piece
def patches_by_unfold(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(2, 3, 8, 8)
    return x.unfold(2, 4, 4).unfold(3, 4, 4).contiguous().view(2, 3, -1, 4, 4).permute(0, 2, 1, 3, 4).flatten(2).sum()


@_piece
def class_token(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    x = torch.randn(2, 5, 8)
    cls = nn.Parameter(torch.zeros(1, 1, 8)).expand(2, -1, -1)
    x = torch.cat((cls, x), dim=1)
    return x[:, 0].sum() + x.mean(dim=1).sum()


@_piece
def attention_with_mask(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    m = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8)
    o, _ = m(x, x, x, attn_mask=nn.Transformer.generate_square_subsequent_mask(5))
    return o.sum()


@_piece
def texts(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    str(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    repr(torch.ones(2))
    f"{torch.tensor(1.5):.2f} {torch.tensor(3)}"
    return 0


@_piece
def arrays_in_and_out(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    a = np.random.rand(3, 2).astype("float32")
    x = torch.from_numpy(a)
    return (torch.tensor(a) - x).abs().sum() + torch.as_tensor(a.tolist()).sum() + np.mean(x.numpy())


@_piece
def evaluation_mode(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    m = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1)).eval()
    with torch.no_grad():
        a = m(torch.ones(1, 2))
        b = m(torch.ones(1, 2))
    return (a - b).abs().sum()


@_piece
def fused_attention(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    q = torch.randn(1, 2, 4, 8)
    return F.scaled_dot_product_attention(q, q, q, is_causal=True).sum()


@_piece
def groups_of_parameters(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    m = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    o = optim.AdamW(
        [{"params": m[0].parameters()}, {"params": m[1].parameters(), "lr": 0.01}], lr=0.001, weight_decay=0.1
    )
    m(torch.ones(1, 2)).sum().backward()
    o.step()
    for g in o.param_groups:
        g["lr"] *= 0.5
    return o.param_groups[1]["lr"]


@_piece
def list_of_modules(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    ls = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    x = torch.ones(1, 2)
    for layer in ls:
        x = torch.relu(layer(x))
    return x.sum()


@_piece
def transposed_convolution(torch: Any, nn: Any, F: Any, optim: Any) -> Any:
    return nn.ConvTranspose2d(3, 2, 4, 2, 1)(torch.randn(1, 3, 4, 4)).sum()


@_piece
def function_of_ones_own(torch: Any, nn: Any, F: Any, optim: Any) -> Any:

    class Sw(torch.autograd.Function):
        @staticmethod
        def forward(ctx, i):
            r = i * torch.sigmoid(i)
            ctx.save_for_backward(i)
            return r

        @staticmethod
        def backward(ctx, g):
            i = ctx.saved_tensors[0]
            s = torch.sigmoid(i)
            return g * (s * (1 + i * (1 - s)))

    x = torch.randn(3, requires_grad=True)
    Sw.apply(x).sum().backward()
    return x.grad.sum()


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
