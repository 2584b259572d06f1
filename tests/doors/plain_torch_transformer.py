"""A plain PyTorch script as people write them: a transformer that learns to write a row of digits backwards.

Vaswani et al., "Attention Is All You Need", 2017.
"""

import math
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore", message="enable_nested_tensor")
BOS, EOS, PAD = 10, 11, 12
LONGEST = 5


def make_rows(count):
    """Rows of 3 to LONGEST digits below 6, and the same backwards between a mark for the start and one for the end."""
    src = torch.full((count, LONGEST), PAD)
    tgt = torch.full((count, LONGEST + 2), PAD)
    for i in range(count):
        length = int(torch.randint(3, LONGEST + 1, (1,)))
        digits = torch.randint(0, 6, (length,))
        src[i, :length] = digits
        tgt[i, 0], tgt[i, length + 1] = BOS, EOS
        tgt[i, 1 : length + 1] = digits.flip(0)
    return src, tgt


class PositionalEncoding(nn.Module):
    def __init__(self, d_model, max_len=32):
        super().__init__()
        position = torch.arange(max_len).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        pe = torch.zeros(1, max_len, d_model)
        pe[0, :, 0::2] = torch.sin(position * div_term)
        pe[0, :, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe)

    def forward(self, x):
        return x + self.pe[:, : x.size(1)]


class Reverser(nn.Module):
    def __init__(self, d_model=32, nhead=4, dim_feedforward=64):
        super().__init__()
        self.d_model = d_model
        self.embed = nn.Embedding(13, d_model)
        self.position = PositionalEncoding(d_model)
        self.transformer = nn.Transformer(
            d_model, nhead, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=dim_feedforward,
            dropout=0.0, activation="gelu", batch_first=True, norm_first=True,
        )  # fmt: skip
        self.generator = nn.Linear(d_model, 13)

    def tokens(self, ids):
        return self.position(self.embed(ids) * math.sqrt(self.d_model))

    def forward(self, src, tgt):
        tgt_mask = nn.Transformer.generate_square_subsequent_mask(tgt.size(1)) < 0
        out = self.transformer(
            self.tokens(src), self.tokens(tgt), tgt_mask=tgt_mask, src_key_padding_mask=src == PAD,
            tgt_key_padding_mask=tgt == PAD, memory_key_padding_mask=src == PAD,
        )  # fmt: skip
        return self.generator(out)


@torch.no_grad()
def write(model, src):
    """One token after another, each the likeliest."""
    model.eval()
    out = torch.full((src.size(0), 1), BOS)
    for _ in range(LONGEST + 1):
        next_token = model(src, out)[:, -1].argmax(dim=-1, keepdim=True)
        out = torch.cat([out, next_token], dim=1)
    return out


def main():
    torch.manual_seed(3)
    train_set, test_set = TensorDataset(*make_rows(1000)), TensorDataset(*make_rows(100))
    loader = DataLoader(train_set, batch_size=25, shuffle=True)
    model = Reverser()
    steps = 10 * len(loader)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps, pct_start=0.2)
    print(sum(p.numel() for p in model.parameters()), "parameters")
    for epoch in range(10):
        model.train()
        losses = []
        for src, tgt in loader:
            logits = model(src, tgt[:, :-1])
            loss = F.cross_entropy(logits.reshape(-1, 13), tgt[:, 1:].reshape(-1), ignore_index=PAD)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        src, tgt = test_set.tensors
        written = write(model, src)
        real = tgt != PAD
        accuracy = (written == tgt)[real].float().mean().item()
        print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.4f}, accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
