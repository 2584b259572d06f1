"""Keras's convolutional net for small pictures: blocks of convolutions, pooling, dropout, an early stop, a saved model.

Where CIFAR-10 cannot be had it says so and takes Fashion-MNIST.
Result on Fashion-MNIST: test accuracy 0.889

python examples/keras_cifar_cnn.py
phalanx run -n 2 examples/keras_cifar_cnn.py --shards 4
mpirun -n 2 python examples/keras_cifar_cnn.py --shards 4 --ledger runs/ledger
"""

import argparse

import phalanx
from phalanx import keras
from phalanx.callbacks import LedgerWriter
from phalanx.keras import layers


def load_data():
    """Of CIFAR-10, or what stands in for it: pictures (N, H, W, C) in [0, 1], labels (N, 1) or (N,)."""
    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
    except phalanx.PhalanxError as error:
        if phalanx.rank() == 0:
            print(f"{str(error).splitlines()[0]} Fashion-MNIST takes its place.", flush=True)
        (x_train, y_train), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
        x_train, x_test = x_train[..., None], x_test[..., None]
    return (x_train.astype("float32") / 255, y_train), (x_test.astype("float32") / 255, y_test)


def build(input_shape, num_classes=10):
    return keras.Sequential(
        [
            keras.Input(shape=input_shape),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu", kernel_regularizer=keras.regularizers.l2(1e-4)),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu", kernel_initializer="he_normal"),
            layers.Dropout(0.5),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128, help="images a step, over all ranks together")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, help="of each part the first so many images only")
    parser.add_argument("--shards", type=int, help="same bits on any number of ranks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", metavar="FILE", help="keep the trained model: keras.models.load_model(FILE)")
    parser.add_argument("--ledger", metavar="FILE", help="write loss and weight hashes of each step")
    return parser.parse_args()


def main():
    args = parse()
    phalanx.init(shards=args.shards, seed=args.seed)
    (x_train, y_train), (x_test, y_test) = load_data()
    x_train, y_train, x_test, y_test = (part[: args.limit] for part in (x_train, y_train, x_test, y_test))

    model = build(x_train.shape[1:])
    if phalanx.rank() == 0:
        model.summary()
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=args.lr),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(
        x_train, y_train, batch_size=args.batch_size, epochs=args.epochs, verbose=2, validation_split=0.1,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=2),
            keras.callbacks.EarlyStopping(monitor="val_accuracy", patience=4, restore_best_weights=True),
            LedgerWriter(args.ledger),
        ],
    )  # fmt: skip
    result = model.evaluate(x_test, y_test, verbose=0, return_dict=True)
    if args.save:
        model.save(args.save)
    if phalanx.rank() == 0:
        print(f"best validation accuracy {max(history.history['val_accuracy']):.4f}")
        print(f"test accuracy {result['accuracy']:.4f}")


if __name__ == "__main__":
    main()
