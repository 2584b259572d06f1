"""Public data sets under torchvision's names, and those in files of one's own."""

from ..image_files import read_picture
from .arrays import CsvDataset, NpzDataset
from .bible import BibleText
from .cifar import CIFAR10, CIFAR100
from .folder import DatasetFolder, ImageFolder
from .imdb import IMDB
from .mnist import KMNIST, MNIST, FashionMNIST
from .pima import PimaDiabetes

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
    "PimaDiabetes",
    "read_picture",
]
