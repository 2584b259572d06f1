"""A residual net for CIFAR-10 (He et al. 2015, arXiv 1512.03385, section 4.2), as in PyTorch's tutorials.

Crops, flips, momentum, one cycle of the learning rate. Where CIFAR-10 cannot be had it says so and takes Fashion-MNIST.
Result on Fashion-MNIST: test accuracy 0.875

python examples/cifar_resnet.py
phalanx run -n 2 examples/cifar_resnet.py --shards 4 --epochs 20 --depth 20
mpirun -n 2 python examples/cifar_resnet.py --shards 4 --ledger runs/ledger
"""

import argparse

import phalanx
from phalanx import callbacks, nn, optim
from phalanx.data import DataLoader, Subset, transforms
from phalanx.data.datasets import CIFAR10, FashionMNIST

F = nn.functional


class Block(nn.Module):
    """Two convolutions and a way around them; where the size halves, the way around drops every other place."""

    def __init__(self, entering, leaving, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(leaving)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(leaving)
        self.shortcut = nn.Sequential()
        if stride != 1 or entering != leaving:
            self.shortcut = nn.Sequential(
                nn.Conv2d(entering, leaving, 1, stride=stride, bias=False), nn.BatchNorm2d(leaving)
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, channels, depth=8, width=16, classes=10):
        super().__init__()
        if depth % 6 != 2:
            raise SystemExit(f"--depth is 6n + 2 (8, 14, 20, ...), got {depth}")
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks, entering = [], width
        for group in range(3):
            for number in range((depth - 2) // 6):
                leaving = width << group
                blocks.append(Block(entering, leaving, stride=2 if group and number == 0 else 1))
                entering = leaving
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(entering, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(self.blocks(x).mean((2, 3)))


def load():
    """(train, test, channels): CIFAR-10 or what stands in for it, the training part with random crops and flips."""
    try:
        Pictures, size, mean, std = CIFAR10, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
        CIFAR10(train=False)
    except phalanx.PhalanxError as error:
        if phalanx.rank() == 0:
            print(f"{str(error).splitlines()[0]} Fashion-MNIST takes its place.", flush=True)
        Pictures, size, mean, std = FashionMNIST, 28, (0.2860,), (0.3530,)
    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    varied = transforms.Compose(
        [transforms.RandomCrop(size, padding=2), transforms.RandomHorizontalFlip(), *plain.transforms]
    )
    return Pictures(train=True, transform=varied), Pictures(train=False, transform=plain), len(mean)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--depth", type=int, default=8, help="layers, 6n + 2; the paper's are 20 to 110")
    parser.add_argument("--width", type=int, default=16, help="channels of the first group")
    parser.add_argument("--batch-size", type=int, default=64, help="images a step, over all ranks together")
    parser.add_argument("--lr", type=float, default=0.1, help="at the top of the cycle")
    parser.add_argument("--limit", type=int, help="of each part the first so many images only")
    parser.add_argument("--shards", type=int, help="same bits on any number of ranks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ledger", metavar="FILE", help="write loss and weight hashes of each step")
    parser.add_argument("--checkpoint-dir", help="save there after each epoch, and go on from there")
    return parser.parse_args()


def main():
    args = parse()
    phalanx.init(shards=args.shards, seed=args.seed)
    train, test, channels = load()
    if args.limit:
        train, test = Subset(train, range(args.limit)), Subset(test, range(min(args.limit, len(test))))
    loader = DataLoader(train, batch_size=args.batch_size, shuffle=True, num_workers=1)

    model = ResNet(channels, args.depth, args.width)
    if phalanx.rank() == 0:
        count = sum(parameter.numel() for parameter in model.parameters())
        print(
            f"ResNet-{args.depth}: {count:,} parameters, {len(train):,} images, {len(loader)} steps an epoch",
            flush=True,
        )
    optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.epochs * len(loader), pct_start=0.25)
    trainer = phalanx.Trainer(model, optimizer, nn.CrossEntropyLoss(label_smoothing=0.1), metrics=["accuracy"])
    trainer.fit(
        loader, test, epochs=args.epochs, checkpoint_dir=args.checkpoint_dir,
        callbacks=[callbacks.LRScheduler(schedule, every="step"), callbacks.LedgerWriter(args.ledger)],
    )  # fmt: skip
    result = trainer.evaluate(test)
    if phalanx.rank() == 0:
        print(f"test accuracy {result['accuracy']:.4f}")


if __name__ == "__main__":
    main()
