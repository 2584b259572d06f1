"""A plain Keras script as people write them: a model of words and numbers with two inputs, two outputs and an LSTM."""

import numpy as np
from tensorflow import keras
from tensorflow.keras import layers

WORDS, LENGTH = 30, 8


def make_tickets(count, seed=0):
    """A text of word numbers, 0 is padding; whether it is urgent depends on words 1 to 5 and a number, its price on another."""
    rng = np.random.RandomState(seed)
    texts = [rng.randint(1, WORDS, rng.randint(3, LENGTH + 1)) for _ in range(count)]
    numbers = rng.randn(count, 4)
    urgent = np.array([np.sum(text <= 5) for text in texts]) + numbers[:, 0] > 1.0
    price = 2 * numbers[:, 1] - numbers[:, 2] + 0.1 * rng.randn(count)
    text = keras.preprocessing.sequence.pad_sequences(texts, maxlen=LENGTH, padding="post")
    return {"text": text, "numbers": numbers}, {"urgent": urgent.astype("float32"), "price": price}


class Residual(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.norm = layers.LayerNormalization()

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], self.units), initializer="glorot_uniform", name="w")
        self.b = self.add_weight(shape=(self.units,), initializer="zeros", name="b")

    def call(self, inputs):
        return inputs + keras.activations.relu(self.norm(inputs) @ self.w + self.b)


class PrintEpoch(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % 5 == 0:
            print(f"after epoch {epoch + 1}: loss of {self.model.name} {logs['loss']:.3f}")


def build_model():
    text = keras.Input(shape=(LENGTH,), dtype="int32", name="text")
    numbers = keras.Input(shape=(4,), name="numbers")
    words = layers.Embedding(WORDS, 8, mask_zero=True)(text)
    words = layers.Bidirectional(layers.LSTM(12))(words)
    x = layers.Concatenate()([words, layers.Dense(8, activation="relu")(numbers), numbers])
    x = layers.Dense(24, activation="relu")(x)
    x = Residual(24, name="residual")(x)
    urgent = layers.Dense(1, activation="sigmoid", name="urgent")(x)
    price = layers.Dense(1, name="price")(x)
    return keras.Model(inputs=[text, numbers], outputs=[urgent, price], name="tickets")


keras.utils.set_random_seed(2)
train_x, train_y = make_tickets(1000, seed=1)
test_x, test_y = make_tickets(300, seed=2)
model = build_model()
model.summary()
model.compile(
    optimizer=keras.optimizers.RMSprop(0.005),
    loss={"urgent": "binary_crossentropy", "price": "mse"},
    loss_weights={"urgent": 1.0, "price": 0.2},
    metrics={"urgent": ["accuracy", keras.metrics.AUC(name="auc")], "price": ["mae"]},
)
history = model.fit(
    train_x,
    train_y,
    epochs=15,
    batch_size=25,
    validation_data=(test_x, test_y),
    verbose=0,
    callbacks=[
        PrintEpoch(),
        keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr if epoch < 8 else lr * 0.7),
    ],
)
print(f"first loss {history.history['loss'][0]:.4f}, last loss {history.history['loss'][-1]:.4f}")
result = model.evaluate(test_x, test_y, verbose=0, return_dict=True)
print(f"test loss {result['loss']:.4f}, test accuracy {result['urgent_accuracy']:.4f}")
assert result["urgent_auc"] > 0.85 and result["price_mae"] < 0.5, result
urgent, price = model.predict(test_x, verbose=0)
assert urgent.shape == price.shape == (300, 1)
features = keras.Model(model.inputs, model.get_layer("residual").output)
print("features of a ticket:", features.predict({k: v[:1] for k, v in test_x.items()}, verbose=0).shape)
