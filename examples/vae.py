"""A variational autoencoder (Kingma and Welling 2013, arXiv 1312.6114), as in PyTorch's examples, on Fashion-MNIST.

Two numbers for each of 16 hidden places, a sample of them, an image from that. `--samples FILE` gets a picture: six rows of new
clothes, drawn from noise, then two pairs of rows: test images, and below them what comes out for them.
The loss is that of the reconstruction and the divergence, in nats an image.
Result: test loss 241.3

python examples/vae.py --samples runs/vae.png
phalanx run -n 2 examples/vae.py --shards 4
mpirun -n 2 python examples/vae.py --shards 4 --ledger runs/ledger
"""

import argparse
from pathlib import Path

import numpy as np

import phalanx
from phalanx import callbacks, nn, optim
from phalanx.data import Subset
from phalanx.data.datasets import FashionMNIST
from phalanx.data.utils import save_image

F = nn.functional
COLUMNS = 12


class VAE(nn.Module):
    def __init__(self, hidden=400, latent=16):
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU())
        self.mean = nn.Linear(hidden, latent)
        self.logvar = nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, 784))

    def forward(self, x):
        """(logits of the pixels, mean, logarithm of the variance)."""
        x = self.encoder(x)
        mean, logvar = self.mean(x), self.logvar(x)
        z = mean + phalanx.randn_like(mean) * phalanx.exp(0.5 * logvar) if self.training else mean
        return self.decode(z), mean, logvar

    def decode(self, z):
        return self.decoder(z).reshape(-1, 1, 28, 28)


class VAETrainer(phalanx.Trainer):
    """The loss looks at the image itself and at what lies between, not at a label."""

    def compute_loss(self, x, y, sample_weight=None):
        logits, mean, logvar = self.model(x)
        reconstruction = F.binary_cross_entropy_with_logits(logits, x) * 784  # a mean over images, a sum over pixels
        divergence = -0.5 * (1 + logvar - mean**2 - phalanx.exp(logvar)).sum(1).mean()
        loss = reconstruction + divergence
        loss.weight = len(x)
        return loss, logits


def picture(model, images, seed):
    """(10 * COLUMNS, 1, 28, 28): samples from noise, then rows of images above their reconstructions."""
    noise = np.random.default_rng(seed).standard_normal((6 * COLUMNS, model.latent)).astype(np.float32)
    with phalanx.no_grad():
        model.eval()
        drawn = phalanx.sigmoid(model.decode(phalanx.tensor(noise)))
        again = phalanx.sigmoid(model(images)[0])
    pairs = zip(images.split(COLUMNS), again.split(COLUMNS), strict=True)
    return phalanx.cat([drawn, *(row for pair in pairs for row in pair)])


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128, help="images a step, over all ranks together")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, help="of each part the first so many images only")
    parser.add_argument("--shards", type=int, help="same bits on any number of ranks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", metavar="FILE", help="write a picture (PNG) of samples and reconstructions")
    parser.add_argument("--ledger", metavar="FILE", help="write loss and weight hashes of each step")
    return parser.parse_args()


def main():
    args = parse()
    phalanx.init(shards=args.shards, seed=args.seed)
    train, test = (FashionMNIST(train=part).tensors() for part in (True, False))
    if args.limit:
        train, test = (Subset(part, range(min(args.limit, len(part)))) for part in (train, test))

    model = VAE()
    trainer = VAETrainer(model, optim.Adam(model.parameters(), lr=args.lr))
    trainer.fit(
        train, test, epochs=args.epochs, batch_size=args.batch_size, callbacks=[callbacks.LedgerWriter(args.ledger)]
    )
    result = trainer.evaluate(test)
    if phalanx.rank() == 0:
        print(f"test loss {result['loss']:.2f}")
        if args.samples:
            images = phalanx.stack([test[place][0] for place in range(2 * COLUMNS)])
            Path(args.samples).parent.mkdir(parents=True, exist_ok=True)
            save_image(picture(model, images, args.seed), args.samples, nrow=COLUMNS, padding=1)
            print(f"wrote {args.samples}")


if __name__ == "__main__":
    main()
