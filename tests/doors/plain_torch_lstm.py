"""A plain PyTorch script as people write them: which of three languages is a word from? A bidirectional LSTM over its letters."""
# ruff: noqa: RUF059 - written as people write them

import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset

LETTERS = "abcdefghijkl"
PAD = len(LETTERS)


class Words(Dataset):
    """Words of three made-up languages: each has its own idea of which letter follows which."""

    def __init__(self, count, seed):
        rng = np.random.RandomState(seed)
        chains = np.random.RandomState(0).dirichlet(np.full(len(LETTERS), 0.2), size=(3, len(LETTERS)))
        self.words, self.labels = [], []
        for _ in range(count):
            label = rng.randint(3)
            letters = [rng.randint(len(LETTERS))]
            while len(letters) < rng.randint(4, 14):
                letters.append(rng.choice(len(LETTERS), p=chains[label, letters[-1]]))
            self.words.append(torch.tensor(letters, dtype=torch.long))
            self.labels.append(label)

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        return self.words[index], self.labels[index]


def collate(batch):
    words, labels = zip(*batch, strict=True)
    lengths = torch.tensor([len(word) for word in words])
    return pad_sequence(words, batch_first=True, padding_value=PAD), lengths, torch.tensor(labels)


class Classifier(nn.Module):
    def __init__(self, embedding_dim=12, hidden_dim=16, num_layers=2):
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS) + 1, embedding_dim, padding_idx=PAD)
        self.lstm = nn.LSTM(
            embedding_dim, hidden_dim, num_layers=num_layers, batch_first=True, bidirectional=True, dropout=0.1
        )
        self.attention = nn.Linear(2 * hidden_dim, 1)
        self.fc = nn.Linear(4 * hidden_dim, 3)

    def forward(self, words, lengths):
        embedded = self.embedding(words)
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, (hidden, cell) = self.lstm(packed)
        output, _ = pad_packed_sequence(output, batch_first=True)
        scores = self.attention(output).squeeze(-1).masked_fill(words == PAD, float("-inf"))
        context = torch.bmm(torch.softmax(scores, dim=1).unsqueeze(1), output).squeeze(1)
        return self.fc(torch.cat((context, hidden[-2], hidden[-1]), dim=1))


torch.manual_seed(7)
device = torch.device("cpu")
train_loader = DataLoader(Words(600, seed=1), batch_size=30, shuffle=True, collate_fn=collate)
test_loader = DataLoader(Words(200, seed=2), batch_size=50, collate_fn=collate)

model = Classifier().to(device)
criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam(model.parameters(), lr=0.01)
scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)

for epoch in range(1, 8):
    model.train()
    total_loss = 0
    for words, lengths, labels in train_loader:
        words, labels = words.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = criterion(model(words, lengths), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total_loss += loss.item() * labels.size(0)
    scheduler.step()

    model.eval()
    correct = 0
    with torch.no_grad():
        for words, lengths, labels in test_loader:
            correct += (model(words, lengths).argmax(1) == labels).sum().item()
    loss, accuracy = total_loss / len(train_loader.dataset), correct / len(test_loader.dataset)
    print(f"epoch {epoch}: loss {loss:.4f}, accuracy {accuracy:.4f}, next lr {scheduler.get_last_lr()[0]:.5f}")

print(model)
