"""A plain PyTorch script as people write them: a small residual network tells four shapes apart.

He et al., "Deep Residual Learning for Image Recognition", 2016.
"""
# ruff: noqa: B905, UP008 - written as people write them

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Dataset


class Shapes(Dataset):
    """Bars, disks, crosses and rings somewhere in a noisy picture of two channels."""

    def __init__(self, count, seed, size=16, transform=None):
        rng = np.random.RandomState(seed)
        rows, columns = np.mgrid[:size, :size]
        self.labels = rng.randint(0, 4, count)
        self.images = 0.25 * rng.randn(count, 2, size, size).astype(np.float32)
        for image, label in zip(self.images, self.labels):
            y, x = rng.randint(5, size - 5, 2)
            dy, dx = np.abs(rows - y), np.abs(columns - x)
            r = np.sqrt(dy**2 + dx**2)
            image[rng.randint(2)] += (
                2
                * np.array([dy < 1.5, r < 3.5, (dy < 1.5) & (dx < 5) | (dx < 1.5) & (dy < 5), np.abs(r - 4) < 1])[label]
            )
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        image = torch.from_numpy(self.images[i])
        if self.transform is not None:
            image = self.transform(image)
        return image, int(self.labels[i])


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_planes, planes, stride=1):
        super(BasicBlock, self).__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != self.expansion * planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, self.expansion * planes, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(self.expansion * planes),
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        out = F.relu(out)
        return out


class ResNet(nn.Module):
    def __init__(self, block, num_blocks, num_classes=4):
        super(ResNet, self).__init__()
        self.in_planes = 8
        self.conv1 = nn.Conv2d(2, 8, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = self._make_layer(block, 8, num_blocks[0], stride=1)
        self.layer2 = self._make_layer(block, 16, num_blocks[1], stride=2)
        self.linear = nn.Linear(16 * block.expansion, num_classes)

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)

    def _make_layer(self, block, planes, num_blocks, stride):
        strides = [stride] + [1] * (num_blocks - 1)
        layers = []
        for stride in strides:
            layers.append(block(self.in_planes, planes, stride))
            self.in_planes = planes * block.expansion
        return nn.Sequential(*layers)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer1(out)
        out = self.layer2(out)
        out = F.adaptive_avg_pool2d(out, 1)
        out = torch.flatten(out, 1)
        return self.linear(out)


def run_epoch(model, loader, criterion, optimizer=None):
    model.train(optimizer is not None)
    loss_sum, correct, count = 0.0, 0, 0
    with torch.set_grad_enabled(optimizer is not None):
        for inputs, targets in loader:
            outputs = model(inputs)
            loss = criterion(outputs, targets)
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss_sum += loss.item() * inputs.size(0)
            _, predicted = outputs.max(1)
            correct += predicted.eq(targets).sum().item()
            count += targets.size(0)
    return loss_sum / count, correct / count


if __name__ == "__main__":
    torch.manual_seed(0)
    train_set = Shapes(480, seed=1, transform=lambda image: image.flip(-1) if torch.rand(1).item() < 0.5 else image)
    train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
    test_loader = DataLoader(Shapes(160, seed=2), batch_size=80)
    model = ResNet(BasicBlock, [1, 1])
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = CosineAnnealingLR(optimizer, T_max=6)
    print("shape of the output:", tuple(model(torch.zeros(3, 2, 16, 16)).shape))
    for epoch in range(1, 7):
        train_loss, _ = run_epoch(model, train_loader, criterion, optimizer)
        _, accuracy = run_epoch(model, test_loader, criterion)
        scheduler.step()
        print(f"epoch {epoch}: loss {train_loss:.4f}, accuracy {accuracy:.4f}")
    print(len(model.state_dict()), "tensors in the state dict")
