"""A small GPT that learns to write, character by character, as nanoGPT's and PyTorch's tutorials do.

The text is the King James Bible (Debian's, fetched at the first run) or any file; its last tenth is held out.
Result: held-out loss 1.956

python examples/char_gpt.py --sample 400
python examples/char_gpt.py --steps 0 --sample 400 --prompt "And God said"     # write again, with the weights of the last run
phalanx run -n 2 examples/char_gpt.py --shards 4 --text book.txt
mpirun -n 2 python examples/char_gpt.py --shards 4 --ledger runs/ledger
"""

import argparse
import math
from itertools import islice
from pathlib import Path

import numpy as np

import phalanx
from phalanx import nn, optim
from phalanx.data import DataLoader, Subset, TokenDataset, write_tokens
from phalanx.data.datasets import BibleText

F = nn.functional


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.heads, C // self.heads).transpose(1, 2) for part in self.qkv(x).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        x = x + self.attention(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    def __init__(self, tokens, block_size, layers, width, heads=4):
        super().__init__()
        self.wte = nn.Embedding(tokens, width)
        self.wpe = nn.Embedding(block_size, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                ends_branch = name.endswith(("proj.weight", "mlp.2.weight"))  # these add up, as in GPT-2
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if ends_branch else 0.02)
        self.wte.weight = self.head.weight

    def forward(self, x):
        x = self.wte(x) + self.wpe(phalanx.arange(x.shape[1]))
        return self.head(self.ln(self.blocks(x)))

    def write(self, tokens, count, temperature=0.8, seed=0):
        """``count`` more tokens after ``tokens``, a list."""
        draw = np.random.default_rng(seed)
        self.eval()
        with phalanx.no_grad():
            for _ in range(count):
                logits = self(phalanx.tensor([tokens[-self.wpe.num_embeddings :]]))[0, -1] / temperature
                chances = F.softmax(logits, dim=-1).numpy().astype(np.float64)
                tokens = [*tokens, int(draw.choice(len(chances), p=chances / chances.sum()))]
        return tokens


def rate(step, steps):
    """Up in a twentieth of the steps, then down by a cosine to a tenth."""
    return min((step + 1) * 20 / steps, 0.55 + 0.45 * math.cos(math.pi * step / steps)) if steps else 0.0


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", metavar="FILE", help="in UTF-8; without it the King James Bible")
    parser.add_argument("--folder", default="runs/char_gpt", help="for tokens and weights")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=16, help="blocks a step, over all ranks together")
    parser.add_argument("--block-size", type=int, default=128, help="characters that the model looks back on")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3, help="at its height, after a warm-up")
    parser.add_argument("--limit", type=int, help="of the held-out blocks so many only", default=400)
    parser.add_argument("--sample", type=int, default=0, metavar="COUNT", help="write so many characters in the end")
    parser.add_argument("--prompt", default="In the beginning")
    parser.add_argument("--shards", type=int, help="same bits on any number of ranks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ledger", metavar="FILE", help="write loss and weight hashes of each step")
    return parser.parse_args()


def main():
    args = parse()
    phalanx.init(shards=args.shards, seed=args.seed)
    text = Path(args.text).read_text(encoding="utf-8") if args.text else BibleText().text
    letters = write_tokens(text, Path(args.folder, "tokens.bin"), "chars")
    data = TokenDataset(Path(args.folder, "tokens.bin"), args.block_size)
    border = len(data) * 9 // 10
    train, held_out = Subset(data, range(border)), Subset(data, range(border, len(data))[: args.limit])
    loader = DataLoader(train, args.batch_size, shuffle=True)

    model = GPT(letters.vocab_size, args.block_size, args.layers, args.width)
    weights = Path(args.folder, "weights.safetensors")
    if not args.steps:
        model.load_state_dict(phalanx.load(weights))
    parallel = phalanx.DataParallel(model)
    optimizer = optim.AdamW(parallel.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, args.steps))
    ledger = phalanx.Ledger(args.ledger, parallel, optimizer)

    def loss_of(logits, y):
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())

    while loader.step < args.steps:
        for step in islice(loader.steps(), args.steps - loader.step):
            optimizer.zero_grad()
            for x, y in step:
                loss_of(parallel(x), y).backward()
            nn.utils.clip_grad_norm_(parallel.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            ledger.record(loader.step)
            if phalanx.rank() == 0 and loader.step % 50 == 0:
                print(f"step {loader.step}: loss {parallel.step_loss:.3f}", flush=True)
    result = phalanx.evaluate(parallel, held_out, loss=loss_of, batch_size=32)
    if phalanx.rank() == 0:
        print(f"held-out loss {result['loss']:.4f} nats a character ({result['loss'] / math.log(2):.3f} bits)")
        if args.steps:
            phalanx.save(model.state_dict(), weights)
        if args.sample:
            print(letters.decode(model.write(letters.encode(args.prompt).tolist(), args.sample, seed=args.seed)))


if __name__ == "__main__":
    main()
