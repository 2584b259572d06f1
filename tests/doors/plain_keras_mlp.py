"""A plain Keras script as people write them: a classifier of two-dimensional spirals."""

import numpy as np
from tensorflow import keras
from tensorflow.keras import layers, regularizers
from tensorflow.keras.callbacks import EarlyStopping, ReduceLROnPlateau
from tensorflow.keras.models import Sequential
from tensorflow.keras.utils import to_categorical


def make_spirals(samples_per_class=400, classes=3, noise=0.15, seed=0):
    rng = np.random.RandomState(seed)
    points, labels = [], []
    for c in range(classes):
        radius = np.linspace(0.1, 1, samples_per_class)
        angle = 4 * radius + 2 * np.pi * c / classes + noise * rng.randn(samples_per_class)
        points.append(np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1))
        labels.append(np.full(samples_per_class, c))
    order = rng.permutation(classes * samples_per_class)
    return np.concatenate(points)[order], np.concatenate(labels)[order]


keras.utils.set_random_seed(0)
x, y = make_spirals()
x_train, y_train = x[:900], to_categorical(y[:900], 3)
x_test, y_test = x[900:], to_categorical(y[900:], 3)

model = Sequential()
model.add(layers.Dense(64, activation="relu", kernel_initializer="he_normal", input_shape=(2,)))
model.add(layers.Dense(64, activation="relu", kernel_initializer="he_normal", kernel_regularizer=regularizers.l2(1e-4)))
model.add(layers.Dropout(0.1))
model.add(layers.Dense(3, activation="softmax"))
model.summary()
assert model.count_params() == 4547

model.compile(
    optimizer=keras.optimizers.Adam(learning_rate=0.01), loss="categorical_crossentropy", metrics=["accuracy"]
)
history = model.fit(
    x_train,
    y_train,
    batch_size=32,
    epochs=20,
    validation_split=0.1,
    verbose=2,
    callbacks=[
        EarlyStopping(monitor="val_loss", patience=8, restore_best_weights=True),
        ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=3, min_lr=1e-4),
    ],
)
print(f"first loss {history.history['loss'][0]:.4f}, last loss {history.history['loss'][-1]:.4f}")

loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
predicted = np.argmax(model.predict(x_test, verbose=0), axis=1)
assert abs(np.mean(predicted == y[900:]) - accuracy) < 1e-6
print(f"test loss {loss:.4f}, test accuracy {accuracy:.4f}")

weights = model.get_weights()
assert [w.shape for w in weights] == [(2, 64), (64,), (64, 64), (64,), (64, 3), (3,)]
