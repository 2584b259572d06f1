"""GPT-2 (Radford et al. 2019): 124M parameters by default, bfloat16, on a GPU; any size and the CPU by options.

Tokens come out of a file (phalanx.data.tokenize_file makes one); without it they are drawn by a rule that can be learnt.
Result: held-out loss 2.70

python examples/gpt2.py --layers 2 --dim 64 --heads 4 --context 64 --vocab 256 --batch-size 8 --steps 300 --lr 5e-3
python examples/gpt2.py --device cuda --capture --tokens tokens.bin --steps 5000 --checkpoint-dir runs/gpt2 --resume auto
phalanx run -n 2 examples/gpt2.py --shards 4 --layers 2 --dim 64 --heads 4 --context 64 --vocab 256
mpirun -n 2 python examples/gpt2.py --shards 4 --device cuda --ledger runs/ledger
"""

import argparse
import math
import time
from itertools import islice
from pathlib import Path

import numpy as np

import phalanx
from phalanx import nn, optim
from phalanx.data import DataLoader, Subset, TokenDataset

F = nn.functional


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        B, T, C = x.shape
        packed = self.qkv(x).reshape(B, T, 3, self.heads, C // self.heads)
        return self.proj(F.packed_attention(packed, is_causal=True).reshape(B, T, C))


def joined(norm, x, branch):
    """x + branch, and its norm, in one pass."""
    return F.add_layer_norm(x, branch, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim))

    def forward(self, x, branch):
        x, y = joined(self.ln1, x, branch)
        x, y = joined(self.ln2, x, self.attention(y))
        return x, self.mlp(y)


class GPT2(nn.Module):
    def __init__(self, vocab, context, layers, dim, heads, dtype):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, dim), nn.Embedding(context, dim)
        self.blocks = nn.ModuleList([Block(dim, heads) for _ in range(layers)])
        self.ln, self.dtype = nn.LayerNorm(dim), dtype
        for name, weight in self.named_parameters():
            if weight.dim() > 1:  # ends of branches add up
                ends = name.endswith(("proj.weight", "mlp.2.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers) if ends else 0.02)
        self.register_buffer("places", phalanx.arange(context), persistent=False)

    def forward(self, tokens, targets=None):
        """Logits (B, T, V) of tokens (B, T), or with targets the loss, for which logits are never all in memory."""
        tokens = tokens.to(self.wte.weight.device)
        x, branch = self.wte(tokens).to(self.dtype), self.wpe(self.places[: tokens.shape[1]]).to(self.dtype)
        for block in self.blocks:
            x, branch = block(x, branch)
        _, y = joined(self.ln, x, branch)
        if targets is None:
            return F.linear(y, self.wte.weight)
        return F.linear_cross_entropy(y, self.wte.weight, targets)


def drawn(path, vocab, count=200_000):
    """A file of tokens: each follows from the one before it, two times out of three, and else is any."""
    draw, tokens = np.random.default_rng(1), [0]
    for noise, odd in zip(draw.integers(0, vocab, count).tolist(), draw.random(count) < 1 / 3, strict=True):
        tokens.append(noise if odd else (5 * tokens[-1] + 1) % vocab)
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_suffix(f".{phalanx.rank()}")  # each rank writes the same, and a file is there whole or not at all
    np.array(tokens, np.uint16).tofile(own)
    return own.rename(path)


def rate(step, steps):
    """Up in a twentieth of the steps, then down by a cosine to a tenth."""
    return min((step + 1) * 20 / steps, 0.55 + 0.45 * math.cos(math.pi * min(step / steps, 1.0)))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--tokens", metavar="FILE", help="raw uint16, or what tokenize_file wrote; without it tokens are drawn")
    add("--folder", default="runs/gpt2", help="for tokens that are drawn")
    add("--steps", type=int, default=1000)
    add("--batch-size", type=int, default=32, help="blocks a step, over all ranks together")
    add("--accumulate", type=int, default=1, help="so many parts of each shard, one after the other: less memory")
    for name, size in {"--layers": 12, "--dim": 768, "--heads": 12, "--context": 1024, "--vocab": 50304}.items():
        add(name, type=int, default=size)
    add("--lr", type=float, default=6e-4, help="at its height, after a warm-up")
    add("--clip", type=float, default=1.0, help="largest norm of the gradient")
    add("--precision", choices=["bf16", "fp32"], default="bf16")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--capture", action="store_true", help="record forward and backward once; on a GPU they become CUDA graphs")
    add("--limit", type=int, default=64, help="of the held-out blocks so many only")
    add("--log-every", type=int, default=10)
    add("--shards", type=int, help="same bits on any number of ranks")
    add("--seed", type=int, default=0)
    add("--ledger", metavar="FILE", help="write loss and weight hashes of each step")
    add("--checkpoint-dir", help="where to save; nothing is saved without it")
    add("--checkpoint-every", type=int, metavar="STEPS")
    add("--resume", metavar="auto|none|PATH", default="none")
    return parser.parse_args()


def main():
    args = parse()
    phalanx.init(shards=args.shards, seed=args.seed)
    data = TokenDataset(args.tokens or drawn(Path(args.folder, f"tokens-{args.vocab}.bin"), args.vocab), args.context)
    border = len(data) * 9 // 10
    train, held_out = Subset(data, range(border)), Subset(data, range(border, len(data))[: args.limit])
    loader = DataLoader(train, args.batch_size, shuffle=True, device=args.device)

    dtype = phalanx.bfloat16 if args.precision == "bf16" else phalanx.float32
    model = GPT2(args.vocab, args.context, args.layers, args.dim, args.heads, dtype).to(args.device)
    parallel = phalanx.DataParallel(model)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0}
    optimizer = optim.AdamW([{"params": decayed, "weight_decay": 0.1}, others], lr=args.lr, betas=(0.9, 0.95))
    schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, args.steps))
    state = {"model": parallel, "optimizer": optimizer, "loader": loader, "state": {"schedule": schedule}}
    checkpoint = phalanx.Checkpointer(args.checkpoint_dir, **state, every=args.checkpoint_every)
    checkpoint.resume(args.resume)
    ledger = phalanx.Ledger(args.ledger, parallel, optimizer)
    count = sum(p.numel() for p in model.parameters()) - model.wpe.weight.numel()
    flops = 6 * count + 12 * args.layers * args.dim * args.context  # of a token, forward and backward
    precision = phalanx.autocast(args.device, dtype, enabled=args.precision == "bf16")
    peak = phalanx.cuda.peak_flops() if args.device == "cuda" and args.precision == "bf16" else None

    def learn(x, y, share):
        with precision:
            loss = parallel(x, y)
        (loss * share).backward()

    learn = phalanx.capture(learn) if args.capture else learn
    began = time.perf_counter()
    while loader.step < args.steps:
        for step in islice(loader.steps(), args.steps - loader.step):
            optimizer.zero_grad()
            for x, y in step:
                for some, next_ones in zip(x.chunk(args.accumulate), y.chunk(args.accumulate), strict=True):
                    learn(some, next_ones, len(some) / len(x))
            nn.utils.clip_grad_norm_(parallel.parameters(), args.clip)
            optimizer.step()
            schedule.step()
            ledger.record(loader.step)
            checkpoint.after_step()
            if loader.step % args.log_every == 0 and phalanx.rank() == 0:
                loss, seconds = parallel.step_loss, time.perf_counter() - began
                speed, began = args.log_every * args.batch_size * args.context / seconds, began + seconds
                share = f"{speed * flops / peak / phalanx.size():.1%}" if peak else "unknown"
                print(f"step {loader.step}: loss {loss:.4f}, {speed:,.0f} tokens/s, MFU {share}", flush=True)
    if args.checkpoint_dir:
        checkpoint.save()
    with precision:
        loss_of = nn.CrossEntropyLoss()
        result = phalanx.evaluate(
            parallel,
            held_out,
            loss=lambda logits, y: loss_of(logits.flatten(0, 1), y.to(args.device).flatten()),
            batch_size=8,
        )
    if phalanx.rank() == 0:
        print(f"held-out loss {result['loss']:.4f}")


if __name__ == "__main__":
    main()
