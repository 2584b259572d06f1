"""A plain PyTorch script as people write them: a classifier of two-dimensional spirals."""
# ruff: noqa: B007 - written as people write them

import copy
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from torch.utils.data import DataLoader, Dataset, random_split

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Spirals(Dataset):
    def __init__(self, samples_per_class, classes=3, noise=0.15):
        points, labels = [], []
        for c in range(classes):
            radius = torch.linspace(0.1, 1, samples_per_class)
            angle = 4 * radius + 2 * math.pi * c / classes + noise * torch.randn(samples_per_class)
            points.append(torch.stack([radius * torch.sin(angle), radius * torch.cos(angle)], dim=1))
            labels += [c] * samples_per_class
        self.points = torch.cat(points)
        self.labels = torch.tensor(labels, dtype=torch.long)

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        return self.points[index], self.labels[index]


class Net(nn.Module):
    def __init__(self, hidden=64, classes=3):
        super().__init__()
        self.fc1 = nn.Linear(2, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(0.1)
        self.out = nn.Linear(hidden, classes)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = self.dropout(F.relu(self.fc2(x)))
        return self.out(x)


def evaluate(model, loader):
    model.eval()
    correct, total = 0, 0
    with torch.no_grad():
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            predicted = model(x).argmax(dim=1)
            correct += (predicted == y).sum().item()
            total += y.size(0)
    return correct / total


dataset = Spirals(400)
train_set, test_set = random_split(dataset, [900, 300], generator=torch.Generator().manual_seed(1))
train_loader = DataLoader(train_set, batch_size=32, shuffle=True, num_workers=0, pin_memory=False)
test_loader = DataLoader(test_set, batch_size=100, shuffle=False)

model = Net().to(device)
print(sum(p.numel() for p in model.parameters() if p.requires_grad), "parameters")
criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-5)

best, best_state = 0.0, None
for epoch in range(1, 13):
    model.train()
    running_loss = 0.0
    for i, (inputs, targets) in enumerate(train_loader):
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        running_loss += loss.item()
    accuracy = evaluate(model, test_loader)
    if accuracy > best:
        best, best_state = accuracy, copy.deepcopy(model.state_dict())
    print(f"epoch {epoch}: loss {running_loss / len(train_loader):.4f}, accuracy {accuracy:.4f}")

checkpoint = {"epoch": epoch, "model": best_state, "optimizer": optimizer.state_dict()}
fresh = Net().to(device)
fresh.load_state_dict(checkpoint["model"])
print(f"best accuracy {evaluate(fresh, test_loader):.4f}")
assert abs(evaluate(fresh, test_loader) - best) < 1e-6

with torch.no_grad():
    some = dataset.points[:50].to(device)
    print("repeatable:", torch.equal(fresh(some), fresh(some)))
