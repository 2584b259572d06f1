"""What kind of text is this? Word embeddings and a bidirectional LSTM over packed sequences, as in PyTorch's text tutorials.

Film reviews, praise or blame (IMDB); where these cannot be had it says so and takes the King James Bible from Debian: is a verse
from the Old Testament or the New? One verse in ten, of all books, is held out.
Result on verses: test accuracy 0.919

python examples/lstm_text.py
phalanx run -n 2 examples/lstm_text.py --shards 4
mpirun -n 2 python examples/lstm_text.py --shards 4 --ledger runs/ledger
"""

import argparse

import phalanx
from phalanx import metrics, nn, optim
from phalanx.data import DataLoader, StackDataset, Subset, split
from phalanx.data.datasets import IMDB, BibleText
from phalanx.data.text import PadCollate, Vocabulary

SENTENCES = ("Blessed are the meek", "And Moses spake unto the children of Israel")
FIRST_NEW_BOOK = "Mat"


def load(seed):
    """(texts, labels, names of the classes, training indices, test indices)."""
    try:
        parts = IMDB(train=True), IMDB(train=False)
        texts, labels = parts[0].texts + parts[1].texts, [*parts[0].targets.tolist(), *parts[1].targets.tolist()]
        return texts, labels, IMDB.classes, range(len(parts[0])), range(len(parts[0]), len(texts))
    except phalanx.PhalanxError as error:
        if phalanx.rank() == 0:
            print(f"{str(error).splitlines()[0]} The Bible's verses take their place.", flush=True)
    verses = BibleText().verses
    start = next(place for place, verse in enumerate(verses) if verse[0] == FIRST_NEW_BOOK)
    labels = [int(place >= start) for place in range(len(verses))]
    train, test = split(range(len(verses)), [0.9, 0.1], stratify=labels, seed=seed)
    return [verse[3] for verse in verses], labels, ("Old Testament", "New Testament"), train.indices, test.indices


class Reader(nn.Module):
    def __init__(self, words, classes, width=64):
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, tokens, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(self.embedding(tokens)), lengths, batch_first=True, enforce_sorted=False
        )
        _, (hidden, _) = self.lstm(packed)
        return self.fc(self.dropout(phalanx.cat([hidden[-2], hidden[-1]], 1)))


class Collate(PadCollate):
    """((tokens, lengths), labels): two inputs of the model."""

    def __call__(self, samples):
        tokens, lengths, labels = super().__call__(samples)
        return (tokens, lengths), labels


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64, help="texts a step, over all ranks together")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--words", type=int, default=8000, help="most frequent words that the model knows")
    parser.add_argument("--length", type=int, default=200, help="words of a text that it reads")
    parser.add_argument("--limit", type=int, help="of each part so many texts only")
    parser.add_argument("--shards", type=int, help="same bits on any number of ranks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ledger", metavar="FILE", help="write loss and weight hashes of each step")
    return parser.parse_args()


def main():
    args = parse()
    phalanx.init(shards=args.shards, seed=args.seed)
    texts, labels, classes, train, test = load(args.seed)
    if args.limit:  # spread over the texts, which may come by class
        train, test = (part[:: max(1, len(part) // args.limit)][: args.limit] for part in (train, test))
    known = Vocabulary.from_texts((texts[place] for place in train), max_size=args.words)
    samples = StackDataset([known.encode(text) for text in texts], labels)
    collate = Collate(maxlen=args.length)
    loader = DataLoader(Subset(samples, train), args.batch_size, shuffle=True, collate_fn=collate)
    held_out = DataLoader(Subset(samples, test), 256, collate_fn=collate)

    model = phalanx.DataParallel(Reader(len(known), len(classes)))
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    criterion = nn.CrossEntropyLoss()
    ledger = phalanx.Ledger(args.ledger, model, optimizer)
    for epoch in range(args.epochs):
        model.train()
        for step in phalanx.progress(loader.steps(), f"epoch {epoch + 1}", total=len(loader)):
            optimizer.zero_grad()
            for (tokens, lengths), y in step:
                criterion(model(tokens, lengths), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            ledger.record(loader.step)
        result = phalanx.evaluate(model, held_out, ["accuracy", metrics.F1()], loss=criterion)
        if phalanx.rank() == 0:
            print(
                f"epoch {epoch + 1}: " + ", ".join(f"test {name} {value:.4f}" for name, value in result.items()),
                flush=True,
            )

    (tokens, lengths), _ = collate([(known.encode(text), 0) for text in SENTENCES])
    for text, scores in zip(SENTENCES, phalanx.predict(model, ((tokens, lengths), None)), strict=True):
        if phalanx.rank() == 0:
            print(f"{text!r}: {classes[int(scores.argmax())]}")


if __name__ == "__main__":
    main()
