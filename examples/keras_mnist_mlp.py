"""Keras's first example: a multilayer perceptron that tells digits apart. Only the first lines are other than with TensorFlow.

Where MNIST cannot be had it says so and takes Fashion-MNIST, whose clothes are harder to tell apart.
Result on Fashion-MNIST: test accuracy 0.864

python examples/keras_mnist_mlp.py
phalanx run -n 2 examples/keras_mnist_mlp.py --shards 4
mpirun -n 2 python examples/keras_mnist_mlp.py --shards 4 --ledger runs/ledger
"""

import argparse

import numpy as np

import phalanx
from phalanx import keras
from phalanx.callbacks import LedgerWriter
from phalanx.keras import layers


def load_data():
    """Of MNIST, or what stands in for it."""
    try:
        return keras.datasets.mnist.load_data()
    except phalanx.PhalanxError as error:
        if phalanx.rank() == 0:
            print(f"{str(error).splitlines()[0]} Fashion-MNIST takes its place.", flush=True)
        return keras.datasets.fashion_mnist.load_data()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128, help="images a step, over all ranks together")
    parser.add_argument("--limit", type=int, help="of each part the first so many images only")
    parser.add_argument("--shards", type=int, help="same bits on any number of ranks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ledger", metavar="FILE", help="write loss and weight hashes of each step")
    return parser.parse_args()


def main():
    args = parse()
    phalanx.init(shards=args.shards, seed=args.seed)
    num_classes = 10

    (x_train, y_train), (x_test, y_test) = load_data()
    x_train, y_train, x_test, y_test = (part[: args.limit] for part in (x_train, y_train, x_test, y_test))
    x_train = x_train.reshape(-1, 784).astype("float32") / 255
    x_test = x_test.reshape(-1, 784).astype("float32") / 255
    y_train = keras.utils.to_categorical(y_train, num_classes)
    y_test = keras.utils.to_categorical(y_test, num_classes)

    model = keras.Sequential(
        [
            keras.Input(shape=(784,)),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )
    if phalanx.rank() == 0:
        model.summary()
    model.compile(loss="categorical_crossentropy", optimizer="rmsprop", metrics=["accuracy"])
    model.fit(
        x_train, y_train, batch_size=args.batch_size, epochs=args.epochs, verbose=2,
        validation_data=(x_test, y_test), callbacks=[LedgerWriter(args.ledger)],
    )  # fmt: skip
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    predicted = model.predict(x_test[:5], verbose=0).argmax(axis=1)
    if phalanx.rank() == 0:
        print(f"test loss {loss:.4f}, test accuracy {accuracy:.4f}")
        print("first five:", predicted.tolist(), "are", np.argmax(y_test[:5], axis=1).tolist())


if __name__ == "__main__":
    main()
