"""ResNet-50 (He et al. 2015, arXiv 1512.03385; the stride in the 3x3, as everybody trains it), bfloat16, on a GPU or the CPU.

Pictures come out of folders, root/train/class/ and root/val/class/; without them they are drawn: waves, of which the class is one.
Result: test accuracy 1.00

python examples/resnet50.py --layers 1 1 1 1 --width 8 --size 32 --classes 4 --batch-size 32 --epochs 4
python examples/resnet50.py --images imagenet --device cuda --capture --epochs 90 --checkpoint-dir runs/resnet50 --resume auto
phalanx run -n 2 examples/resnet50.py --shards 4 --layers 1 1 1 1 --width 8 --size 32 --classes 4 --batch-size 32
mpirun -n 2 python examples/resnet50.py --shards 4 --device cuda --ledger runs/ledger
"""

import argparse
import time

import numpy as np

import phalanx
from phalanx import nn, optim
from phalanx.data import DataLoader, Dataset, transforms
from phalanx.data.datasets import ImageFolder

F = nn.functional


class Bottleneck(nn.Module):
    def __init__(self, entering, width, stride):
        super().__init__()
        leaving = 4 * width
        self.first = nn.Sequential(nn.Conv2d(entering, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.third, self.norm = nn.Conv2d(width, leaving, 1, bias=False), nn.BatchNorm2d(leaving)
        nn.init.zeros_(self.norm.weight)  # at first each block hands on what it gets (Goyal et al. 2017)
        self.around = nn.Sequential()
        if stride != 1 or entering != leaving:
            self.around = nn.Sequential(
                nn.Conv2d(entering, leaving, 1, stride=stride, bias=False), nn.BatchNorm2d(leaving)
            )

    def forward(self, x):
        return self.norm.add_relu(self.third(self.second(self.first(x))), self.around(x))


class ResNet(nn.Module):
    def __init__(self, layers, width, classes):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )  # fmt: skip
        blocks, entering = [], width
        for group, count in enumerate(layers):
            for number in range(count):
                blocks.append(Bottleneck(entering, width << group, stride=2 if group and not number else 1))
                entering = 4 * (width << group)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(entering, classes)

    def forward(self, x):
        x = self.stem(x.to(self.fc.weight.device))
        return self.fc(F.adaptive_avg_pool2d(self.blocks(x), 1).flatten(1))


class Waves(Dataset):
    """Drawn pictures: noise over a wave whose direction and length are the class. Sample i is always the same."""

    def __init__(self, count, size, classes):
        self.count, self.classes = count, classes
        y, x = np.mgrid[:size, :size] / size
        turns = np.pi * np.arange(classes)[:, None, None] / classes
        self.waves = np.sin(
            2 * np.pi * (3 + np.arange(classes) % 3)[:, None, None] * (np.cos(turns) * x + np.sin(turns) * y)
        )

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        draw, label = np.random.default_rng(index), index % self.classes
        picture = self.waves[label] + draw.normal(0, 1, (3, *self.waves[label].shape))
        return phalanx.tensor(picture.astype(np.float32)), label


def load(args):
    """(train, test)."""
    if not args.images:
        test = Waves(max(1, args.count // 5), args.size, args.classes)
        return Waves(args.count, args.size, args.classes), test
    norm = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    crop, flip = transforms.RandomResizedCrop(args.size), transforms.RandomHorizontalFlip()
    whole, middle = transforms.Resize(args.size * 8 // 7), transforms.CenterCrop(args.size)
    varied, plain = transforms.Compose([crop, flip, norm]), transforms.Compose([whole, middle, norm])
    return ImageFolder(f"{args.images}/train", varied), ImageFolder(f"{args.images}/val", plain)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--images", metavar="ROOT", help="folders train and val with a folder for each class; without it they are drawn"
    )
    add("--count", type=int, default=1280, help="so many pictures are drawn")
    add("--layers", type=int, nargs=4, default=[3, 4, 6, 3], help="blocks of each group")
    for name, size in {
        "--width": 64,
        "--size": 224,
        "--classes": 1000,
        "--epochs": 90,
        "--batch-size": 256,
        "--workers": 0,
    }.items():
        add(name, type=int, default=size)
    add("--lr", type=float, default=0.1, help="for 256 pictures a step; follows the batch")
    add("--precision", choices=["bf16", "fp32"], default="bf16")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--capture", action="store_true", help="record forward and backward once; on a GPU they become CUDA graphs")
    add("--log-every", type=int, default=20)
    add("--shards", type=int, help="same bits on any number of ranks")
    add("--seed", type=int, default=0)
    add("--ledger", metavar="FILE", help="write loss and weight hashes of each step")
    add("--checkpoint-dir", help="save there after each epoch")
    add("--resume", metavar="auto|none|PATH", default="none")
    return parser.parse_args()


def main():
    args = parse()
    phalanx.init(shards=args.shards, seed=args.seed)
    train, test = load(args)
    options = {"shuffle": True, "drop_last": True, "num_workers": args.workers, "device": args.device}
    loader = DataLoader(train, args.batch_size, **options)
    classes = len(train.classes) if args.images else args.classes
    parallel = phalanx.DataParallel(ResNet(args.layers, args.width, classes).to(args.device))
    rate = optim.scale_lr(args.lr, args.batch_size)
    optimizer = optim.SGD(parallel.parameters(), rate, momentum=0.9, weight_decay=5e-5, nesterov=True)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=args.epochs * len(loader), pct_start=0.1)
    state = {"model": parallel, "optimizer": optimizer, "loader": loader, "state": {"schedule": schedule}}
    checkpoint = phalanx.Checkpointer(args.checkpoint_dir, **state)
    checkpoint.resume(args.resume)
    ledger = phalanx.Ledger(args.ledger, parallel, optimizer)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    precision = phalanx.autocast(args.device, phalanx.bfloat16, enabled=args.precision == "bf16")

    def learn(x, y):
        with precision:
            loss = criterion(parallel(x), y)
        loss.backward()

    learn = phalanx.capture(learn) if args.capture else learn
    began = time.perf_counter()
    while loader.epoch < args.epochs:
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                learn(x, y)
            optimizer.step()
            schedule.step()
            ledger.record(loader.step)
            if loader.step % args.log_every == 0 and phalanx.rank() == 0:
                loss, seconds = parallel.step_loss, time.perf_counter() - began
                speed, began = args.log_every * args.batch_size / seconds, began + seconds
                print(f"step {loader.step}: loss {loss:.4f}, {speed:,.0f} images/s", flush=True)
        if args.checkpoint_dir:
            checkpoint.save()
    with precision:
        result = phalanx.evaluate(parallel, test, "accuracy", batch_size=min(64, args.batch_size))
    if phalanx.rank() == 0:
        print(f"test accuracy {result['accuracy']:.4f}")


if __name__ == "__main__":
    main()
