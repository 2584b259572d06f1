"""A plain Keras script as people write them: a small convolutional network on bars drawn into noise."""

import os
import tempfile

import numpy as np
import tensorflow.keras as keras
from tensorflow.keras.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GaussianNoise,
    MaxPooling2D,
    Rescaling,
)


def make_images(count, size=16, seed=0):
    """Horizontal, vertical and diagonal bars: the class is the direction."""
    rng = np.random.RandomState(seed)
    images = 128 + 50 * rng.randn(count, size, size, 1)
    labels = rng.randint(0, 3, count)
    for image, label in zip(images, labels):  # noqa: B905 - written as people write them
        at = rng.randint(3, size - 3)
        if label == 0:
            image[at] += 100
        elif label == 1:
            image[:, at] += 100
        else:
            image[np.arange(size), np.roll(np.arange(size), at)] += 100
    return np.clip(images, 0, 255).astype("uint8"), labels


keras.utils.set_random_seed(1)
x_train, y_train = make_images(768, seed=1)
x_test, y_test = make_images(256, seed=2)
print(x_train.shape, x_train.dtype)

model = keras.Sequential(
    [
        keras.Input(shape=(16, 16, 1)),
        Rescaling(1.0 / 127.5, offset=-1),
        GaussianNoise(0.05),
        Conv2D(8, kernel_size=(3, 3), padding="same", use_bias=False),
        BatchNormalization(),
        Activation("relu"),
        MaxPooling2D(pool_size=(2, 2)),
        Conv2D(16, 3, padding="same", activation="relu"),
        MaxPooling2D(2, strides=2),
        Flatten(),
        Dense(32, activation="relu"),
        Dropout(0.2),
        Dense(3),
    ],
    name="bars",
)
assert model.output_shape == (None, 3)

schedule = keras.optimizers.schedules.ExponentialDecay(0.004, decay_steps=48, decay_rate=0.7)
model.compile(
    optimizer=keras.optimizers.Adam(schedule, clipnorm=1.0),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
folder = tempfile.mkdtemp()
best = os.path.join(folder, "best.weights.h5")
history = model.fit(
    x_train,
    y_train,
    batch_size=64,
    epochs=10,
    validation_data=(x_test, y_test),
    verbose=2,
    class_weight={0: 1.0, 1: 1.0, 2: 1.2},
    callbacks=[
        keras.callbacks.ModelCheckpoint(best, monitor="val_accuracy", save_best_only=True, save_weights_only=True),
        keras.callbacks.CSVLogger(os.path.join(folder, "log.csv")),
    ],
)
print(f"first loss {history.history['loss'][0]:.4f}, last loss {history.history['loss'][-1]:.4f}")
model.load_weights(best)
loss, accuracy = model.evaluate(x_test, y_test, batch_size=128, verbose=0)
print(f"test loss {loss:.4f}, test accuracy {accuracy:.4f}")

probabilities = keras.Sequential([model, keras.layers.Softmax()])
print(f"of one image: {probabilities.predict(x_test[:1], verbose=0).sum():.3f}")
