"""A plain PyTorch script as people write them: a variational autoencoder of small binary pictures.

Kingma and Welling, "Auto-Encoding Variational Bayes", 2014.
"""
# ruff: noqa: B007 - written as people write them

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(1)


def pictures(count, size=8):
    """One filled rectangle in each picture."""
    corner = torch.randint(0, size - 3, (count, 2))
    extent = torch.randint(2, 5, (count, 2))
    grid = torch.arange(size)
    rows = (grid >= corner[:, :1]) & (grid < corner[:, :1] + extent[:, :1])
    columns = (grid >= corner[:, 1:]) & (grid < corner[:, 1:] + extent[:, 1:])
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).float().unsqueeze(1)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 64)
        self.fc21 = nn.Linear(64, 6)
        self.fc22 = nn.Linear(64, 6)
        self.fc3 = nn.Linear(6, 64)
        self.fc4 = nn.Linear(64, 64)

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return mu + eps * std

    def decode(self, z):
        h3 = F.relu(self.fc3(z))
        return torch.sigmoid(self.fc4(h3))

    def forward(self, x):
        mu, logvar = self.encode(x.view(-1, 64))
        z = self.reparameterize(mu, logvar)
        return self.decode(z), mu, logvar


def loss_function(recon_x, x, mu, logvar):
    BCE = F.binary_cross_entropy(recon_x, x.view(-1, 64), reduction="sum")
    KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return BCE + KLD


model = VAE()
optimizer = optim.Adam(model.parameters(), lr=3e-3)
train_loader = DataLoader(TensorDataset(pictures(1024)), batch_size=64, shuffle=True)
test_loader = DataLoader(TensorDataset(pictures(256)), batch_size=64, shuffle=True)

for epoch in range(1, 16):
    model.train()
    train_loss = 0
    for batch_idx, (data,) in enumerate(train_loader):
        optimizer.zero_grad()
        recon_batch, mu, logvar = model(data)
        loss = loss_function(recon_batch, data, mu, logvar)
        loss.backward()
        train_loss += loss.item()
        optimizer.step()
    model.eval()
    test_loss, right = 0, 0
    with torch.no_grad():
        for (data,) in test_loader:
            recon_batch, mu, logvar = model(data)
            test_loss += loss_function(recon_batch, data, mu, logvar).item()
            right += ((recon_batch > 0.5).float() == data.view(-1, 64)).sum().item()
    pixels = 64 * len(test_loader.dataset)
    print(
        f"epoch {epoch}: loss {train_loss / len(train_loader.dataset):.4f}, test loss {test_loss / 256:.4f}, accuracy {right / pixels:.4f}"
    )

with torch.no_grad():
    sample = model.decode(torch.randn(4, 6)).cpu().view(4, 1, 8, 8)
    print("sample", tuple(sample.shape), bool((sample >= 0).all() and (sample <= 1).all()))
