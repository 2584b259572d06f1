"""A plain PyTorch script as people write them: a small convolutional network on bars drawn into noise."""
# ruff: noqa: B905, UP008, UP032 - written as people write them

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


def make_images(count, size=16, seed=0):
    """Horizontal, vertical and diagonal bars: the class is the direction."""
    rng = np.random.RandomState(seed)
    images = 0.5 * rng.randn(count, 1, size, size).astype("float32")
    labels = rng.randint(0, 3, count)
    for image, label in zip(images, labels):
        at = rng.randint(3, size - 3)
        if label == 0:
            image[0, at] += 1.0
        elif label == 1:
            image[0, :, at] += 1.0
        else:
            image[0, np.arange(size), np.roll(np.arange(size), at)] += 1.0
    return torch.from_numpy(images), torch.from_numpy(labels).long()


class Block(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, kernel_size=1)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)) + self.shortcut(x))


class Net(nn.Module):
    def __init__(self):
        super(Net, self).__init__()
        self.features = nn.Sequential(
            Block(1, 8),
            nn.MaxPool2d(2),
            Block(8, 16),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * 4 * 4, 32), nn.ReLU(inplace=True), nn.Dropout(p=0.2), nn.Linear(32, 3)
        )
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.features(x)
        x = x.view(x.size(0), -1)
        return self.classifier(x)


def train(model, loader, optimizer, criterion):
    model.train()
    total = 0.0
    for data, target in loader:
        optimizer.zero_grad(set_to_none=True)
        output = model(data)
        loss = criterion(output, target)
        loss.backward()
        optimizer.step()
        total += loss.item() * data.size(0)
    return total / len(loader.dataset)


@torch.no_grad()
def test(model, loader):
    model.eval()
    correct = 0
    probabilities = []
    for data, target in loader:
        output = torch.softmax(model(data), dim=1)
        confidence, prediction = torch.max(output, 1)
        correct += prediction.eq(target.view_as(prediction)).sum().item()
        probabilities.append(confidence.mean().item())
    return correct / len(loader.dataset), np.mean(probabilities)


def main():
    torch.manual_seed(42)
    train_loader = DataLoader(TensorDataset(*make_images(768, seed=1)), batch_size=64, shuffle=True, drop_last=True)
    test_loader = DataLoader(TensorDataset(*make_images(256, seed=2)), batch_size=128)
    model = Net()
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for epoch in range(8):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.7**epoch
        loss = train(model, train_loader, optimizer, criterion)
        accuracy, confidence = test(model, test_loader)
        print("epoch {}: loss {:.4f}, accuracy {:.4f}, confidence {:.2f}".format(epoch + 1, loss, accuracy, confidence))


if __name__ == "__main__":
    main()
