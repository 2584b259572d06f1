"""Data sets as Keras gives them: ``load_data()`` returns ((x_train, y_train), (x_test, y_test)) as NumPy arrays."""

from . import cifar10, cifar100, fashion_mnist, imdb, mnist

__all__ = ["cifar10", "cifar100", "fashion_mnist", "imdb", "mnist"]
