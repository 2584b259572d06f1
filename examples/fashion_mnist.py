"""Train a small classifier on Fashion-MNIST: alone, under mpirun, or under `phalanx run`, with one script.

python examples/fashion_mnist.py --model mlp
phalanx run -n 2 examples/fashion_mnist.py --model cnn --shards 8
phalanx run -n 4 --elastic 2:8 examples/fashion_mnist.py --shards 8
mpirun -n 2 python examples/fashion_mnist.py --model transformer --checkpoint-dir runs/t --resume auto
"""

import argparse

import phalanx
from phalanx import nn, optim
from phalanx.data import DataLoader, Subset
from phalanx.data.datasets import FashionMNIST


class MLP(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Flatten(),
            nn.Linear(784, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(256, 10),
        )  # fmt: skip


class CNN(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.25),
            nn.Linear(128, 10),
        )  # fmt: skip


class Transformer(nn.Module):
    """Each of the 28 rows of an image is a token. Both blocks share the weight of their first feed-forward layer."""

    def __init__(self, width=64, heads=4):
        super().__init__()
        self.rows = nn.Linear(28, width)
        self.places = nn.Embedding(28, width)
        self.first = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.second = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.1, batch_first=True, norm_first=True
        )
        self.second.linear1.weight = self.first.linear1.weight
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 10))

    def forward(self, x):
        x = self.rows(x.reshape(-1, 28, 28)) + self.places(phalanx.arange(28, device=x.device))
        x = self.norm(self.second(self.first(x)))
        return self.head(x.mean(1))


MODELS = {"mlp": MLP, "cnn": CNN, "transformer": Transformer}
OPTIMIZERS = {"sgd": lambda params, lr: optim.SGD(params, lr, momentum=0.9), "adam": optim.Adam, "adamw": optim.AdamW}


PRECISIONS = {"float32": None, "bf16": "bfloat16", "fp16": "float16"}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="cnn")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64, help="samples a step, over all ranks together")
    parser.add_argument(
        "--shards", type=int, help="cut each batch into so many pieces: same bits on any number of ranks"
    )
    parser.add_argument("--compression", help="of gradients between ranks: fp16, bf16, int8, 1bit, topk, powersgd")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam")
    parser.add_argument("--lr", type=float, default=1e-3, help="at the start; falls to zero in a straight line")
    parser.add_argument("--clip", type=float, default=5.0, help="largest norm of the gradient")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: a GPU, one for each rank")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of products; weights stay float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, help="train on the first so many images only")
    parser.add_argument("--test-samples", type=int, help="test on the first so many images only")
    parser.add_argument("--checkpoint-dir", help="where to save; nothing is saved without it")
    parser.add_argument("--checkpoint-every", type=int, metavar="STEPS")
    parser.add_argument("--resume", metavar="auto|none|PATH", default="none")
    parser.add_argument("--ledger", metavar="FILE", help="write loss and weight hashes of each step")
    parser.add_argument(
        "--ledger-detail", action="store_true", help="with the hash of each tensor, for phalanx diverge"
    )
    parser.add_argument("--zero", choices=["optimizer", "gradients"], help="keep a part of them on each rank")
    parser.add_argument("--max-steps", type=int)
    return parser.parse_args()


def main():
    args = parse()
    phalanx.init(shards=args.shards, seed=args.seed)
    train, test = (FashionMNIST(train=part).tensors() for part in (True, False))
    if args.samples:
        train = Subset(train, range(args.samples))
    if args.test_samples:
        test = Subset(test, range(args.test_samples))
    loader = DataLoader(train, batch_size=args.batch_size, shuffle=True)

    model = MODELS[args.model]().to(args.device)
    model = phalanx.DataParallel(model, compression=args.compression, shard=args.zero)
    optimizer = OPTIMIZERS[args.optimizer](model.parameters(), lr=args.lr)
    criterion = nn.CrossEntropyLoss()
    autocast = phalanx.autocast(args.device, PRECISIONS[args.precision], enabled=args.precision != "float32")
    scaler = phalanx.amp.GradScaler(args.device, enabled=args.precision == "fp16")
    checkpoint = phalanx.Checkpointer(
        args.checkpoint_dir, model=model, optimizer=optimizer, loader=loader, every=args.checkpoint_every,
        state={"scaler": scaler} if scaler.is_enabled() else None,
    )  # fmt: skip
    checkpoint.resume(args.resume)
    ledger = phalanx.Ledger(args.ledger, model, optimizer, detail=args.ledger_detail)

    share = None
    while loader.epoch < args.epochs and loader.step != args.max_steps:
        model.train()
        for step in phalanx.progress(loader.steps(), f"epoch {loader.epoch + 1}", total=len(loader)):
            optimizer.zero_grad()
            for x, y in step:
                with autocast:
                    loss = criterion(model(x.to(args.device)), y.to(args.device))
                scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), args.clip)
            optimizer.param_groups[0]["lr"] = args.lr * (1 - step.index / (args.epochs * len(loader)))
            scaler.step(optimizer)
            scaler.update()
            ledger.record(loader.step)
            checkpoint.after_step()
            if loader.step == args.max_steps:
                break
        share = phalanx.evaluate(model, test, "accuracy")["accuracy"]
        if phalanx.rank() == 0:
            loss = float("nan") if model.step_loss is None else model.step_loss  # resumed behind the epoch's last step
            print(f"epoch {loader.epoch}, step {loader.step}: loss {loss:.4f}, test accuracy {share:.4f}", flush=True)
    if args.checkpoint_dir:
        checkpoint.save()
    if share is None:  # resumed behind the end
        share = phalanx.evaluate(model, test, "accuracy")["accuracy"]
    if phalanx.rank() == 0:
        print(f"test accuracy {share:.4f}")


if __name__ == "__main__":
    main()
