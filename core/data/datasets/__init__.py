"""Public data sets under torchvision's names, and those in files of one's own."""

from .arrays import CsvDataset, NpzDataset
from .bible import BibleText
from .cifar import CIFAR10, CIFAR100
from .folder import DatasetFolder, ImageFolder, read_picture
from .imdb import IMDB
from .mnist import KMNIST, MNIST, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "IMDB",
    "KMNIST",
    "MNIST",
    "BibleText",
    "CsvDataset",
    "DatasetFolder",
    "FashionMNIST",
    "ImageFolder",
    "NpzDataset",
    "read_picture",
]
